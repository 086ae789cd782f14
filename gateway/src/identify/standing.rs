//! How a connection stands with the identity of its process: asked when it begins, and with every
//! request.
//!
//! - input: what the registry has of the process
//! - output: [`Verdict`], and who it is for the record
//! - bound: one read lock
//! - on failure: cannot fail; what is not known is unidentified

use std::sync::Arc;
use std::time::Duration;

use super::bound::{Bound, End, State};
use super::who::Who;
use crate::capture::anchors::AnchorSource;
use crate::clock::WallUs;

/// A connection waits so long for the token of a job that has just begun.
pub(super) const PENDING: Duration = Duration::from_secs(5);

/// Whether somebody vouches for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Verified, and not over.
    Verified,
    /// Nobody does.
    Unidentified,
    /// Somebody did: the job has ended, or the token expired.
    Expired,
    /// Somebody did: it was taken back.
    Revoked,
}

/// How a connection stands.
#[derive(Clone, Debug)]
pub struct Standing {
    bound: Option<Arc<Bound>>,
    source: AnchorSource,
    /// The kernel says that the job had ended when the process connected.
    is_ended: bool,
}

impl Standing {
    /// Of a process with an anchor, or in a container of one.
    pub(super) fn of_job(bound: Option<Arc<Bound>>, source: AnchorSource, is_ended: bool) -> Self {
        Self { bound, source, is_ended }
    }

    /// Of a process in a login session.
    pub(super) fn of_person(bound: Option<Arc<Bound>>) -> Self {
        Self { bound, source: AnchorSource::Session, is_ended: false }
    }

    /// Nobody knows.
    pub fn unidentified() -> Self {
        Self::of_person(None)
    }

    /// Waits for a job that has just begun, not for long.
    pub async fn settle(&self) {
        let Some(bound) = self.bound.as_ref().filter(|one| one.state() == State::Pending) else {
            return;
        };
        // Late is the same as never: unidentified.
        drop(tokio::time::timeout(PENDING, bound.settled()).await);
    }

    /// Now.
    pub fn verdict(&self, now: WallUs) -> Verdict {
        let state = self.bound.as_ref().map(|bound| bound.state());
        match state {
            Some(State::Ended(End::Revoked)) => Verdict::Revoked,
            _ if self.is_ended => Verdict::Expired,
            Some(State::Ended(End::Over)) => Verdict::Expired,
            Some(State::Active(until)) if now.0 < until.0 => Verdict::Verified,
            Some(State::Active(_)) => Verdict::Expired,
            Some(State::Pending | State::Refused) | None => Verdict::Unidentified,
        }
    }

    /// Who it is, or was.
    pub fn who(&self, now: WallUs) -> Option<Arc<Who>> {
        let who = self.bound.as_ref().and_then(|bound| bound.who(self.source));
        match (who, self.verdict(now)) {
            (Some(who), Verdict::Expired | Verdict::Revoked) if who.state != "expired" => {
                Some(Arc::new(Who { state: "expired", ..(*who).clone() }))
            }
            (Some(who), _) => Some(who),
            (None, Verdict::Expired | Verdict::Revoked) => Some(Arc::new(Who::expired())),
            (None, _) => None,
        }
    }

    /// Waits until the connection is to be cut; for ever where nobody vouches.
    pub async fn cut(&self) {
        match &self.bound {
            Some(bound) => bound.cut().await,
            None => std::future::pending().await,
        }
    }
}
