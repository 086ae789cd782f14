//! What happens to each secret of an exchange: by route, direction and whose it is.
//!
//! - input: secrets that `weir_inspect` finds in the bodies and heads of one exchange
//! - output: verdicts; placeholders and back; [`Findings`] for the record
//! - bound: `limits::MAX_FINDINGS` findings of an exchange, more are counted; the vault of the scope
//! - on failure: where no placeholder can be had a mark stands in the secret's place
//!
//! One pass over the bytes finds, replaces and records. What leaves is decided by [`Side::plan`]:
//! the pass's output or the original.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use weir_inspect::engine::Engine;
use weir_inspect::judge::{Found, Judge, Location, Verdict};
use weir_inspect::known::Known;
use weir_inspect::placeholder;

use super::findings::{Action, Finding, Findings};
use super::inspection::Inspection;
use super::mask;
use super::refused::Refused;
use super::scopes::Scope;
use crate::config::inspect::{Egress, Mode, Route};

mod deciding;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// What leaves, of the bytes that [`Side::judge`] judges. Its output is what is recorded, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The original, as it comes: nothing is ever refused.
    Original,
    /// The original, but only after [`Side::judge`] or [`Side::guard`] has seen it: it may be
    /// refused.
    Held,
    /// The output. What cannot be looked into is refused, see [`Side::unreadable`].
    Output,
}

/// The eyes on one exchange. Clones share it.
#[derive(Clone)]
pub struct Looking(Arc<Inner>);

struct Inner {
    inspection: Arc<Inspection>,
    scope: Arc<Scope>,
    host: Arc<str>,
    /// Index into the routes; `None` for the default.
    route: Option<usize>,
    findings: Findings,
    refused: OnceLock<Refused>,
    replaced: AtomicBool,
}

impl Looking {
    /// Begins. `host` is the request's authority without its port, lower-case.
    pub(super) fn begin(inspection: &Arc<Inspection>, scope: &Arc<Scope>, host: &str) -> Self {
        Self(Arc::new(Inner {
            route: inspection.route_of(host),
            inspection: Arc::clone(inspection),
            scope: Arc::clone(scope),
            host: host.into(),
            findings: Findings::default(),
            refused: OnceLock::new(),
            replaced: AtomicBool::new(false),
        }))
    }

    /// The request's body.
    pub fn request(&self) -> Side {
        Side { looking: self.clone(), direction: Direction::Request }
    }

    /// The answer's body.
    pub fn response(&self) -> Side {
        Side { looking: self.clone(), direction: Direction::Response }
    }

    /// For `OpenExchange::findings`: what is found from now on, too.
    pub fn findings(&self) -> Findings {
        self.0.findings.clone()
    }

    pub(super) fn inspection(&self) -> &Arc<Inspection> {
        &self.0.inspection
    }

    pub(super) fn scope(&self) -> &Arc<Scope> {
        &self.0.scope
    }

    pub(super) fn host(&self) -> &str {
        &self.0.host
    }

    fn route(&self) -> &Route {
        self.0.inspection.route(self.0.route)
    }

    /// A place for the record: names in it are the sender's, and may be secrets themselves.
    pub(super) fn place(&self, at: &Location) -> String {
        mask::text(&self.inspection().lens(self.scope()), at.to_string()).into_inner()
    }

    /// Notes a refusal; the first one stays.
    pub(super) fn refuse(&self, why: Refused) -> Refused {
        self.0.refused.get_or_init(|| why).clone()
    }
}

/// One direction of an exchange. Clones share it.
#[derive(Clone)]
pub struct Side {
    looking: Looking,
    direction: Direction,
}

impl Side {
    /// What is done about secrets.
    pub fn mode(&self) -> Mode {
        let route = self.looking.route();
        match self.direction {
            Direction::Request => route.requests,
            Direction::Response => route.responses,
        }
    }

    /// What leaves.
    pub fn plan(&self) -> Plan {
        match (self.mode(), self.direction) {
            (Mode::Tokenise | Mode::Redact, _) => Plan::Output,
            (Mode::Block, _) => Plan::Held,
            (Mode::Detect, Direction::Response) => Plan::Original,
            (Mode::Detect, Direction::Request) => {
                let refuses = self.looking.inspection().egress() == Egress::Refuse;
                if refuses && !self.known().is_empty() { Plan::Held } else { Plan::Original }
            }
        }
    }

    /// Bytes of a body that are looked at. A larger one is [`Side::unreadable`].
    pub fn max_body_bytes(&self) -> usize {
        self.looking.route().max_body_bytes
    }

    /// Rules.
    pub fn engine(&self) -> &Arc<Engine> {
        self.looking.inspection().engine()
    }

    /// Known values, as of now; ask again where a body begins.
    pub fn known(&self) -> Known {
        self.looking.inspection().known(self.looking.scope())
    }

    /// Finds, records, and replaces: what comes out of a pass with it is fit to be recorded.
    pub fn judge(&self) -> SideJudge {
        SideJudge { side: self.clone(), purpose: Purpose::Judge }
    }

    /// Refuses what must not leave, and keeps everything else: for what is sent on while it comes. Finds
    /// nothing for the record: [`Side::judge`] does, over the same bytes.
    pub fn guard(&self) -> SideJudge {
        SideJudge { side: self.clone(), purpose: Purpose::Guard }
    }

    /// Puts secrets back into what has passed [`Side::judge`], for the client alone: nothing of it is
    /// to be recorded. `None` where that is not done.
    pub fn restorer(&self) -> Option<Restorer> {
        let restores = self.direction == Direction::Response && self.looking.route().restore;
        let known = self.looking.scope().placeholders();
        (restores && !known.is_empty()).then(|| Restorer {
            engine: Arc::clone(self.looking.inspection().no_rules()),
            known,
            scope: Arc::clone(self.looking.scope()),
        })
    }

    /// Why a judge said [`Verdict::Refuse`].
    pub fn refused(&self) -> Refused {
        let why = self.looking.0.refused.get();
        why.cloned().unwrap_or(Refused::Unreadable("it was refused"))
    }

    /// A body that cannot be looked into, with what stands in the way: an error where something
    /// would be replaced or refused. Otherwise it passes, and must not be recorded.
    ///
    /// # Errors
    /// [`Refused::Unreadable`]
    pub fn unreadable(&self, why: &'static str) -> Result<(), Refused> {
        match self.plan() {
            Plan::Original => Ok(()),
            // Known values are looked for as far as that goes; what they are in is another matter.
            Plan::Held if self.mode() == Mode::Detect => Ok(()),
            Plan::Held | Plan::Output => Err(self.looking.refuse(Refused::Unreadable(why))),
        }
    }

    /// A signed message in which [`Side::judge`] replaced something: to be called before it leaves.
    ///
    /// # Errors
    /// [`Refused::Signed`]
    pub fn signed(&self) -> Result<(), Refused> {
        if self.plan() == Plan::Output && self.looking.0.replaced.load(Ordering::Relaxed) {
            return Err(self.looking.refuse(Refused::Signed));
        }
        Ok(())
    }
}

/// See [`Side::judge`] and [`Side::guard`].
pub struct SideJudge {
    side: Side,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Judge,
    Guard,
    /// As `Judge`, but what is refused is replaced: see [`Side::recorder`].
    Record,
}

impl Judge for SideJudge {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        let looking = &self.side.looking;
        // Another job's, or one that was made before: it says nothing.
        if found.known.is_none() && placeholder::is_one(found.value) {
            return Verdict::Keep;
        }
        let (action, rule) =
            (self.action(found), looking.inspection().name(looking.scope(), found));
        if self.purpose == Purpose::Guard {
            if action != Action::Refused {
                return Verdict::Keep;
            }
            looking.refuse(Refused::Secret(rule));
            return Verdict::Refuse;
        }
        let (action, replacement) = match action {
            Action::Tokenised => {
                match looking.inspection().tokenise(looking.scope(), found, &rule) {
                    Some(placeholder) => (Action::Tokenised, placeholder),
                    None => (Action::Redacted, mark(&rule)),
                }
            }
            other => (other, mark(&rule)),
        };
        let placeholder = if action == Action::Tokenised { replacement.as_slice() } else { b"" };
        let placeholder = String::from_utf8_lossy(placeholder).into_owned();
        looking.0.findings.add(Finding {
            direction: self.side.direction,
            rule: Arc::clone(&rule),
            tier: found.tier,
            confidence: found.confidence,
            location: looking.place(found.at),
            length: found.value.len(),
            fingerprint: looking.inspection().fingerprint(looking.scope(), found),
            action,
            placeholder,
        });
        if action == Action::Refused && self.purpose == Purpose::Judge {
            looking.refuse(Refused::Secret(rule));
            return Verdict::Refuse;
        }
        looking.0.replaced.store(true, Ordering::Relaxed);
        Verdict::Replace(replacement)
    }
}

impl SideJudge {
    fn action(&self, found: &Found<'_>) -> Action {
        let looking = &self.side.looking;
        match (self.side.mode(), self.side.direction) {
            (Mode::Tokenise, _) => Action::Tokenised,
            (Mode::Redact, _) => Action::Redacted,
            (Mode::Block, _) => Action::Refused,
            (Mode::Detect, Direction::Response) => Action::Kept,
            (Mode::Detect, Direction::Request) => {
                let refuses = looking.inspection().egress() == Egress::Refuse;
                if refuses && self.is_astray(found) { Action::Refused } else { Action::Kept }
            }
        }
    }
}

impl SideJudge {
    /// Whether a known value is on its way to somebody else.
    fn is_astray(&self, found: &Found<'_>) -> bool {
        let (looking, Some(number)) = (&self.side.looking, found.known) else { return false };
        let as_credential = mask::is_credential_name(found.at.last());
        looking.inspection().is_astray(looking.scope(), number, looking.host(), as_credential)
    }
}

/// What stands in the place of a secret that does not come back.
pub(super) fn mark(rule: &str) -> Vec<u8> {
    format!("[masked:{rule}]").into_bytes()
}

/// See [`Side::restorer`].
pub struct Restorer {
    engine: Arc<Engine>,
    known: Known,
    scope: Arc<Scope>,
}

impl Restorer {
    /// No rules.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The scope's placeholders.
    pub fn known(&self) -> &Known {
        &self.known
    }
}

impl Judge for Restorer {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        let secret = found.known.and_then(|number| self.scope.secret(number));
        secret.map_or(Verdict::Keep, Verdict::Replace)
    }
}

#[cfg(test)]
mod tests;
