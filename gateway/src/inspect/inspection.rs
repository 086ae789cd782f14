//! What the whole gateway knows about secrets: rules, the operator's values, the vaults.
//!
//! - input: `[inspect]` and the files that it names
//! - output: [`Inspection`], which looks at exchanges
//! - bound: values and files as `config::validate` bounds them; scopes as [`super::scopes`]
//! - on failure: [`InspectError`] at start; nothing starts without its rules and values

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;
use weir_inspect::engine::{By, Engine, RuleError};
use weir_inspect::environment;
use weir_inspect::fingerprint::{Fingerprint, Key};
use weir_inspect::judge::Found;
use weir_inspect::known::Known;
use zeroize::Zeroizing;

use super::judge::Looking;
use super::keys;
use super::mask::Lens;
use super::rules::{self, RulesError};
use super::scopes::{Scope, Scopes};
use crate::capture::Process;
use crate::clock::SharedClock;
use crate::config::inspect::{Egress, Inspect, KnownValue, Route};
use crate::identify::standing::Standing;

/// Why detection cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file of `[inspect]`.
    #[error("inspect: reading {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file has not what it should.
    #[error("inspect: {}: {what}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file of rules.
    #[error("inspect: {0}")]
    Rules(#[from] RulesError),
    /// A rule.
    #[error("inspect: {0}")]
    Rule(#[from] RuleError),
}

/// Everything but the scopes is fixed when the gateway starts.
#[derive(Debug)]
pub struct Inspection {
    config: Inspect,
    key: Key,
    engine: Arc<Engine>,
    no_rules: Arc<Engine>,
    registered: Known,
    values: Vec<Zeroizing<Vec<u8>>>,
    names: Vec<Arc<str>>,
    scopes: Scopes,
    clock: SharedClock,
}

/// In the number of a registered value; those of a scope have the number of their vault.
const REGISTERED: u32 = 1 << 31;

impl Inspection {
    /// Reads the files of the configuration; makes the key where it is to be made.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn load(config: &Inspect, clock: SharedClock) -> Result<Self, InspectError> {
        let key = keys::load_or_create(config)?;
        let values = config.known.iter().map(|one| keys::value(&one.file));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            key,
            engine: rules::engine(config)?,
            no_rules: Arc::new(Engine::new(Vec::new())?),
            registered: Known::new((REGISTERED..).zip(values.iter().map(|value| value.to_vec()))),
            values,
            names: config.known.iter().map(|one| one.name.as_str().into()).collect(),
            scopes: Scopes::new(),
            config: config.clone(),
            clock,
        })
    }

    /// The scope of a session: one for all connections of a job or login.
    pub fn scope(&self, session: Uuid, standing: &Standing) -> Arc<Scope> {
        self.scopes.of(session, standing, &self.key, (self.clock.mono(), self.clock.wall()))
    }

    /// Wipes the scopes that are over.
    pub fn sweep(&self) {
        self.scopes.sweep((self.clock.mono(), self.clock.wall()));
    }

    /// Begins to look at an exchange with a host: its authority without the port, lower-case.
    pub fn look(self: &Arc<Self>, scope: &Arc<Scope>, host: &str) -> Looking {
        Looking::begin(self, scope, host)
    }

    /// What is looked for in heads and arguments that are recorded.
    pub fn lens(&self, scope: &Scope) -> Lens {
        Lens::new(&self.engine, self.known(scope))
    }

    /// The same, where no scope is at hand.
    pub fn own_lens(&self) -> Lens {
        Lens::new(&self.engine, self.registered.clone())
    }

    /// Rules.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn no_rules(&self) -> &Arc<Engine> {
        &self.no_rules
    }

    pub(super) fn egress(&self) -> Egress {
        self.config.egress
    }

    pub(super) fn route_of(&self, host: &str) -> Option<usize> {
        let fits = |route: &Route| route.hosts.iter().any(|pattern| pattern.matches(host));
        self.config.routes.iter().position(fits)
    }

    pub(super) fn route(&self, index: Option<usize>) -> &Route {
        index.and_then(|at| self.config.routes.get(at)).unwrap_or(&self.config.default)
    }

    /// Registered values, and those of a scope.
    pub(super) fn known(&self, scope: &Scope) -> Known {
        self.registered.and(&scope.known())
    }

    /// What a finding is called: its rule, or the name of the known value.
    pub(super) fn name(&self, scope: &Scope, found: &Found<'_>) -> Arc<str> {
        let name = |number| match self.registered(number) {
            Some((_, name)) => Some(Arc::clone(name)),
            None => scope.name(number),
        };
        found.known.and_then(name).unwrap_or_else(|| Arc::clone(found.rule))
    }

    /// The same for the same secret, also where it was found encoded.
    pub(super) fn fingerprint(&self, scope: &Scope, found: &Found<'_>) -> Fingerprint {
        match found.known.and_then(|number| self.secret(scope, number)) {
            Some(secret) => self.key.fingerprint(&secret),
            None => self.key.fingerprint(found.value),
        }
    }

    /// A placeholder in the scope; `None` where it takes no more.
    pub(super) fn tokenise(
        &self,
        scope: &Scope,
        found: &Found<'_>,
        name: &Arc<str>,
    ) -> Option<Vec<u8>> {
        let registered = found.known.and_then(|number| self.registered(number));
        let registered = registered
            .map(|(known, _)| known.hosts.iter().map(ToString::to_string).collect::<Vec<_>>());
        let made = scope.with(self.clock.mono(), |vault, now| {
            let own = found.known.map(|number| vault.hosts(number).to_vec());
            let hosts = registered.or(own).unwrap_or_else(|| found.hosts.to_vec());
            vault.tokenise(found.value, name, &hosts, now)
        });
        made.ok().map(String::into_bytes)
    }

    /// Whether a known value is on its way to a host that is not its own. Sent there as a credential, it
    /// becomes one of its own, unless the operator named them or somebody has a placeholder of it.
    pub(super) fn is_astray(
        &self,
        scope: &Scope,
        number: u32,
        host: &str,
        as_credential: bool,
    ) -> bool {
        if let Some((known, _)) = self.registered(number)
            && !known.hosts.is_empty()
        {
            return !known.hosts.iter().any(|pattern| pattern.matches(host));
        }
        let Some(secret) = self.secret(scope, number) else { return false };
        scope.with(self.clock.mono(), |vault, _| {
            if as_credential {
                vault.used(&secret, host);
            }
            !vault.may_go(&secret, host)
        })
    }

    /// Whether the environment of a process that connects for the first time is wanted.
    pub fn wants_environment(&self, scope: &Scope, process: &Process) -> bool {
        self.config.environment && scope.is_new(process)
    }

    /// Notes that an environment was looked at. Not before it was: connections that the process begins
    /// meanwhile must not pass without it.
    pub fn saw_environment(&self, scope: &Scope, process: &Process) {
        scope.saw(process);
    }

    /// Takes the secrets of an environment in as known values of the scope. Those that find no room are
    /// not known.
    pub fn learn(&self, scope: &Scope, environment: &[u8]) {
        for (name, value) in environment::secrets(environment) {
            let hosts = self.hosts_of(value);
            let name: Arc<str> = format!("env:{}", printable(name)).into();
            let learnt =
                scope.with(self.clock.mono(), |vault, now| vault.learn(value, &name, &hosts, now));
            if let Err(error) = learnt {
                tracing::warn!(%error, "a value of an environment is not known");
                return;
            }
        }
    }

    /// Hosts of the rule that a value is a secret by.
    fn hosts_of(&self, value: &[u8]) -> Vec<String> {
        let found = self.engine.find(value, &Known::default());
        let rules = found.iter().filter_map(|one| match one.by {
            By::Rule(index) if one.span == (0..value.len()) => self.engine.rule(index),
            By::Rule(_) | By::Known(_) => None,
        });
        rules.flat_map(|rule| rule.hosts.iter().cloned()).collect()
    }

    /// Notes what was sent to a host as a credential.
    pub(super) fn used(&self, scope: &Scope, value: &[u8], host: &str) {
        scope.with(self.clock.mono(), |vault, _| vault.used(value, host));
    }

    fn secret(&self, scope: &Scope, number: u32) -> Option<Zeroizing<Vec<u8>>> {
        match number.checked_sub(REGISTERED) {
            Some(at) => self.values.get(usize::try_from(at).ok()?).cloned(),
            None => scope.secret(number).map(Zeroizing::new),
        }
    }

    fn registered(&self, number: u32) -> Option<(&KnownValue, &Arc<str>)> {
        let at = usize::try_from(number.checked_sub(REGISTERED)?).ok()?;
        self.config.known.get(at).zip(self.names.get(at))
    }
}

/// The name of a variable, as far as it is one: a process chose it.
fn printable(name: &str) -> String {
    let word = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    name.chars().filter(word).take(64).collect()
}
