//! Secrets that placeholders stand for, of one scope: one job or one login session.
//!
//! - input: secrets, and the hosts that they belong to
//! - output: placeholders, and back; whether a secret may go to a host
//! - bound: [`Limits`]
//! - on failure: [`Full`]: the caller redacts instead
//!
//! Memory only; overwritten when dropped. The caller gives the time, and drops the vault when its scope ends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::fingerprint::ScopeKey;
use crate::limits::MAX_VALUE_BYTES;
use crate::placeholder;

/// What one vault holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Secrets.
    pub max_entries: usize,
    /// New secrets in [`RATE_WINDOW`]. Who tries values against placeholders needs many.
    pub max_new: usize,
    /// Values whose hosts are remembered although they are no secrets yet.
    pub max_used: usize,
    /// Hosts of one value.
    pub max_hosts: usize,
}

/// See [`Limits::max_new`].
pub const RATE_WINDOW: Duration = Duration::from_secs(60);

/// No room, or too many new ones at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vault takes no more secrets now")]
pub struct Full;

/// The vault of a scope.
pub struct Vault {
    key: ScopeKey,
    limits: Limits,
    entries: Vec<Entry>,
    by_value: HashMap<Digest, usize>,
    placeholders: HashSet<String>,
    /// Hosts that values were sent to as credentials before they were here.
    used: HashMap<Digest, Vec<String>>,
    /// Their values, oldest first.
    used_order: VecDeque<Digest>,
    /// When the newest secrets came.
    new: VecDeque<Duration>,
    generation: u64,
}

/// Names a value without being it.
type Digest = [u8; 32];

struct Entry {
    secret: Zeroizing<Vec<u8>>,
    name: Arc<str>,
    /// Made when it is asked for. From then on the hosts are fixed: what a model has seen the
    /// placeholder of, it can make a job send.
    placeholder: Option<String>,
    hosts: Vec<String>,
}

impl Vault {
    /// An empty one.
    pub fn new(key: ScopeKey, limits: Limits) -> Self {
        Self {
            key,
            limits,
            entries: Vec::new(),
            by_value: HashMap::new(),
            placeholders: HashSet::new(),
            used: HashMap::new(),
            used_order: VecDeque::new(),
            new: VecDeque::new(),
            generation: 0,
        }
    }

    /// Rises with every new secret and placeholder.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a secret in, under a name for findings, with hosts that it may go to. One that is here
    /// keeps its name, and gets no further hosts.
    ///
    /// # Errors
    /// [`Full`]
    pub fn learn(
        &mut self,
        secret: &[u8],
        name: &Arc<str>,
        hosts: &[String],
        now: Duration,
    ) -> Result<u32, Full> {
        let digest = self.digest(secret);
        let at = match self.by_value.get(&digest) {
            Some(at) => *at,
            None => self.add(digest, secret, name, hosts, now)?,
        };
        u32::try_from(at).map_err(|_too_many| Full)
    }

    /// The placeholder of a secret, which is taken in if it is not here.
    ///
    /// # Errors
    /// [`Full`]
    pub fn tokenise(
        &mut self,
        secret: &[u8],
        name: &Arc<str>,
        hosts: &[String],
        now: Duration,
    ) -> Result<String, Full> {
        let number = self.learn(secret, name, hosts, now)?;
        let at = usize::try_from(number).map_err(|_too_many| Full)?;
        let entry = self.entries.get_mut(at).ok_or(Full)?;
        if let Some(placeholder) = &entry.placeholder {
            return Ok(placeholder.clone());
        }
        let mut attempts = (0..=u8::MAX).map(|attempt| placeholder::of(&self.key, secret, attempt));
        let made = attempts.find(|made| !self.placeholders.contains(made)).ok_or(Full)?;
        entry.placeholder = Some(made.clone());
        self.placeholders.insert(made.clone());
        self.generation += 1;
        Ok(made)
    }

    fn add(
        &mut self,
        digest: Digest,
        secret: &[u8],
        name: &Arc<str>,
        hosts: &[String],
        now: Duration,
    ) -> Result<usize, Full> {
        while self.new.front().is_some_and(|then| now.saturating_sub(*then) >= RATE_WINDOW) {
            self.new.pop_front();
        }
        let fits = (1..=MAX_VALUE_BYTES).contains(&secret.len());
        let is_full = self.entries.len() >= self.limits.max_entries;
        if !fits || is_full || self.new.len() >= self.limits.max_new {
            return Err(Full);
        }
        self.new.push_back(now);
        let mut all = self.used.remove(&digest).unwrap_or_default();
        self.used_order.retain(|one| *one != digest);
        all.extend_from_slice(hosts);
        self.entries.push(Entry {
            secret: Zeroizing::new(secret.to_vec()),
            name: Arc::clone(name),
            placeholder: None,
            hosts: all,
        });
        let at = self.entries.len() - 1;
        self.by_value.insert(digest, at);
        self.generation += 1;
        Ok(at)
    }

    /// Notes that a value was sent to a host as a credential: it may go there again. Once somebody has
    /// the placeholder of a secret, it gets no further hosts.
    pub fn used(&mut self, value: &[u8], host: &str) {
        let digest = self.digest(value);
        let hosts = match self.by_value.get(&digest).and_then(|at| self.entries.get_mut(*at)) {
            Some(entry) if entry.placeholder.is_some() => return,
            Some(entry) => &mut entry.hosts,
            None => {
                if !self.used.contains_key(&digest) {
                    if self.used_order.len() >= self.limits.max_used
                        && let Some(oldest) = self.used_order.pop_front()
                    {
                        self.used.remove(&oldest);
                    }
                    self.used_order.push_back(digest);
                }
                self.used.entry(digest).or_default()
            }
        };
        if hosts.len() < self.limits.max_hosts && !hosts.iter().any(|one| one == host) {
            hosts.push(host.to_owned());
        }
    }

    /// Whether a value may go to a host: a secret of this vault, or one that was used.
    pub fn may_go(&self, value: &[u8], host: &str) -> bool {
        let digest = self.digest(value);
        let entry = self.by_value.get(&digest).and_then(|at| self.entries.get(*at));
        let hosts = entry.map(|entry| &entry.hosts).or_else(|| self.used.get(&digest));
        hosts.is_some_and(|hosts| hosts.iter().any(|pattern| is_host(pattern, host)))
    }

    /// Hosts of a secret.
    pub fn hosts(&self, number: u32) -> &[String] {
        self.entry(number).map(|entry| entry.hosts.as_slice()).unwrap_or_default()
    }

    /// Forgets everything.
    pub fn wipe(&mut self) {
        self.entries.clear();
        self.by_value.clear();
        self.placeholders.clear();
        self.used.clear();
        self.used_order.clear();
        self.generation += 1;
    }

    /// A secret, by its number.
    pub fn secret(&self, number: u32) -> Option<&[u8]> {
        self.entry(number).map(|entry| entry.secret.as_slice())
    }

    /// Its name.
    pub fn name(&self, number: u32) -> Option<&Arc<str>> {
        self.entry(number).map(|entry| &entry.name)
    }

    /// All secrets, with their numbers.
    pub fn secrets(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..).zip(&self.entries).map(|(number, entry)| (number, entry.secret.as_slice()))
    }

    /// All placeholders that somebody has, with the numbers of their secrets.
    pub fn placeholders(&self) -> impl Iterator<Item = (u32, &str)> {
        let entries = (0..).zip(&self.entries);
        entries.filter_map(|(number, entry)| Some((number, entry.placeholder.as_deref()?)))
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    fn digest(&self, value: &[u8]) -> Digest {
        self.key.bits(b"weir value 1", 0, value)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

/// Whether a host is the one of this pattern: `github.com`, or `*.github.com` for all below.
pub fn is_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(below) => host.len() > below.len() && host.ends_with(below) && below.starts_with('.'),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Key;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { max_entries: 8, max_new: 5, max_used: 2, max_hosts: 2 };
    const NOW: Duration = Duration::from_secs(1000);

    fn vault(scope: &[u8]) -> Vault {
        Vault::new(Key::new(vec![7; 32]).unwrap().scope(scope), LIMITS)
    }

    fn name() -> Arc<str> {
        "rule".into()
    }

    #[test]
    fn a_secret_has_one_placeholder_and_comes_back() {
        let mut vault = vault(b"a");
        let one = vault.tokenise(b"secret number one", &name(), &[], NOW).unwrap();
        assert_eq!(vault.tokenise(b"secret number one", &name(), &[], NOW), Ok(one.clone()));
        let generation = vault.generation();
        let two = vault.tokenise(b"secret number two", &name(), &[], NOW).unwrap();
        assert!(one != two && vault.generation() > generation);
        let back = |placeholder: &str| {
            let (number, _) = vault.placeholders().find(|(_, one)| *one == placeholder)?;
            vault.secret(number).map(<[u8]>::to_vec)
        };
        assert_eq!(back(&one).unwrap(), b"secret number one");
        assert_eq!(back(&two).unwrap(), b"secret number two");
    }

    #[test]
    fn what_is_only_known_has_no_placeholder() {
        let mut vault = vault(b"a");
        vault.learn(b"secret number one", &name(), &[], NOW).unwrap();
        assert_eq!((vault.secrets().count(), vault.placeholders().count()), (1, 0));
        vault.tokenise(b"secret number one", &name(), &[], NOW).unwrap();
        assert_eq!((vault.secrets().count(), vault.placeholders().count()), (1, 1));
    }

    #[test]
    fn a_secret_goes_where_it_was_used_until_its_placeholder_is_out() {
        let mut vault = vault(b"a");
        let (one, two) = (b"secret number one", b"secret number two");
        vault.used(one, "api.example.com");
        assert!(vault.may_go(one, "api.example.com"));
        vault.learn(one, &name(), &["*.b.example".into()], NOW).unwrap();
        assert!(vault.may_go(one, "api.example.com") && vault.may_go(one, "x.b.example"));
        assert!(!vault.may_go(one, "b.example") && !vault.may_go(one, "evil.example"));
        vault.learn(two, &name(), &[], NOW).unwrap();
        vault.used(two, "late.example");
        assert!(vault.may_go(two, "late.example"));
        vault.tokenise(two, &name(), &[], NOW).unwrap();
        vault.used(two, "evil.example");
        assert!(!vault.may_go(two, "evil.example") && vault.may_go(two, "late.example"));
    }

    #[test]
    fn a_wiped_vault_knows_nothing() {
        let mut vault = vault(b"a");
        vault.tokenise(b"secret number one", &name(), &["h".into()], NOW).unwrap();
        vault.used(b"secret number two", "h");
        vault.wipe();
        assert_eq!((vault.secrets().count(), vault.placeholders().count()), (0, 0));
        assert!(
            !vault.may_go(b"secret number one", "h") && !vault.may_go(b"secret number two", "h")
        );
    }

    #[test]
    fn everything_is_bounded_and_new_secrets_come_slowly() {
        let mut vault = vault(b"a");
        let mut take =
            |n: u32, now| vault.tokenise(format!("secret {n:06}").as_bytes(), &name(), &[], now);
        assert!((0..5).all(|n| take(n, NOW).is_ok()));
        assert_eq!(take(5, NOW), Err(Full));
        assert!(take(4, NOW).is_ok(), "one that is here already is no new one");
        let later = NOW + RATE_WINDOW;
        assert!((5..8).all(|n| take(n, later).is_ok()));
        assert_eq!(take(8, later), Err(Full));
        assert_eq!(vault.tokenise(&vec![b'x'; MAX_VALUE_BYTES + 1], &name(), &[], NOW), Err(Full));
        for n in 0..10 {
            vault.used(format!("other {n}").as_bytes(), "h");
            vault.used(b"other 9", &format!("h{n}"));
        }
        assert_eq!((vault.used.len(), vault.used_order.len()), (2, 2));
        assert!(vault.used.values().all(|hosts| hosts.len() <= 2));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let mut vault = vault(b"a");
        vault.tokenise(b"secret number one", &name(), &[], NOW).unwrap();
        assert!(!format!("{vault:?}").contains("secret number"));
    }

    proptest! {
        #[test]
        fn scopes_differ_and_every_secret_comes_back(
            secrets in proptest::collection::hash_set("[ -~\n]{8,80}", 1..6),
        ) {
            let limits = Limits { max_entries: 100, max_new: 100, max_used: 1, max_hosts: 1 };
            let key = Key::new(vec![7; 32]).unwrap();
            let mut a = Vault::new(key.scope(b"a"), limits);
            let mut b = Vault::new(key.scope(b"b"), limits);
            for secret in &secrets {
                let one = a.tokenise(secret.as_bytes(), &name(), &[], NOW).unwrap();
                let other = b.tokenise(secret.as_bytes(), &name(), &[], NOW).unwrap();
                prop_assert_ne!(&one, &other);
                let found = a.placeholders().find(|(_, text)| **text == one).map(|(n, _)| n);
                prop_assert_eq!(a.secret(found.unwrap()), Some(secret.as_bytes()));
            }
            prop_assert_eq!(a.placeholders().count(), secrets.len());
        }
    }
}
