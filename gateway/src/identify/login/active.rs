//! One login: its refresh token, and when that is used next.
//!
//! - input: verified tokens
//! - output: its state
//! - bound: one refresh at a time
//! - on failure: see `super::logins`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use uuid::Uuid;

use super::LoginKey;
use super::client::Provider;
use super::store::Kept;
use crate::capture::ProcessKey;
use crate::clock::WallUs;
use crate::identify::binding::{Anchor, AnchorId};
use crate::identify::who::Who;
use crate::limits::{REFRESH_RETRY, REFRESH_RETRY_MOST};

/// A login that has not ended, or is about to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: Uuid,
    pub(super) key: LoginKey,
    pub(super) provider: Arc<Provider>,
    /// Held over a whole refresh: a refresh token may be used once.
    pub(super) state: tokio::sync::Mutex<State>,
    due: Mutex<Instant>,
}

/// What a refresh changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) subject: String,
    pub(super) who: Who,
    pub(super) expires_at: WallUs,
    pub(super) refresh: Option<SecretString>,
    pub(super) failures: u32,
    pub(super) ended: bool,
}

impl Active {
    /// As it is kept, to be refreshed then.
    pub(super) fn new(kept: Kept, provider: Arc<Provider>, due: Instant) -> Self {
        let Kept { id, key, subject, who, expires_at, refresh, .. } = kept;
        let state = State { subject, who, expires_at, refresh, failures: 0, ended: false };
        Self { id, key, provider, state: tokio::sync::Mutex::new(state), due: Mutex::new(due) }
    }

    /// To be kept over a restart.
    pub(super) fn kept(&self, state: &State) -> Kept {
        Kept {
            id: self.id,
            key: self.key.clone(),
            issuer: self.provider.issuer.issuer.clone(),
            subject: state.subject.clone(),
            who: state.who.clone(),
            expires_at: state.expires_at,
            refresh: state.refresh.clone(),
        }
    }

    /// When to refresh.
    pub(super) fn due(&self) -> Instant {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_due(&self, due: Instant) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }
}

/// What tokens of a login are bound to: no process has number 0, and logins are told by their random
/// names.
pub(super) fn anchor(id: Uuid, started: WallUs) -> Anchor {
    let process = ProcessKey { tgid: 0, start_time_ns: id.as_u64_pair().0 };
    Anchor { id: AnchorId { id: id.as_u64_pair().1, process }, started }
}

/// How long a token is good for before it is refreshed: four fifths of what is left of it, or all
/// of it where there is nothing to refresh it with.
pub(super) fn lead(expires_at: WallUs, now: WallUs, can_refresh: bool) -> Duration {
    let left = u64::try_from(expires_at.0.saturating_sub(now.0)).unwrap_or_default();
    let left = Duration::from_micros(left);
    if can_refresh { left.mul_f64(0.8) } else { left }
}

/// The wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    REFRESH_RETRY.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(REFRESH_RETRY_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshes_come_before_the_end_and_failures_wait_longer() {
        let at = |seconds: i64| WallUs(seconds * 1_000_000);
        assert_eq!(lead(at(100), at(0), true), Duration::from_secs(80));
        assert_eq!(lead(at(100), at(0), false), Duration::from_secs(100));
        assert_eq!(lead(at(100), at(200), true), Duration::ZERO);
        let waits: Vec<u64> = (0..6).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(backoff(u32::MAX), REFRESH_RETRY_MOST);
    }
}
