//! Flows that wait for their person.
//!
//! - input: flows that were begun
//! - output: the flow that an answer belongs to, once; the device flow of a session, to be shown
//! - bound: `limits::MAX_PENDING_LOGINS`, `limits::MAX_LOGIN_STARTS` a user; a flow is forgotten
//!   after `limits::LOGIN_PATIENCE`
//! - on failure: [`LoginError`]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::client::{CodeRequest, Provider};
use super::{LoginError, LoginKey};
use crate::clock::WallUs;
use crate::limits::{LOGIN_PATIENCE, LOGIN_STARTS_WINDOW, MAX_LOGIN_STARTS, MAX_PENDING_LOGINS};

/// An authorization code flow.
#[derive(Debug)]
pub(super) struct PendingCode {
    pub(super) key: LoginKey,
    pub(super) provider: Arc<Provider>,
    pub(super) request: CodeRequest,
    /// Whether the answer must name the issuer.
    pub(super) needs_issuer: bool,
    /// When it began, by both clocks.
    pub(super) started: (WallUs, Instant),
}

/// What a person needs to approve a device flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) url: String,
    pub(super) user_code: String,
}

/// All flows of a gateway.
#[derive(Debug, Default)]
pub(super) struct Pending {
    codes: HashMap<Uuid, PendingCode>,
    devices: HashMap<Uuid, (LoginKey, Shown)>,
    starts: HashMap<u32, VecDeque<Instant>>,
}

impl Pending {
    /// A user wants to begin a flow.
    pub(super) fn start(&mut self, uid: u32, now: Instant) -> Result<(), LoginError> {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= LOGIN_STARTS_WINDOW;
        self.starts.retain(|_, starts| {
            while starts.front().is_some_and(old) {
                starts.pop_front();
            }
            !starts.is_empty()
        });
        self.codes.retain(|_, code| now.saturating_duration_since(code.started.1) < LOGIN_PATIENCE);
        if self.codes.len() + self.devices.len() >= MAX_PENDING_LOGINS {
            return Err(LoginError::Full);
        }
        let starts = self.starts.entry(uid).or_default();
        if starts.len() >= MAX_LOGIN_STARTS {
            return Err(LoginError::TooOften);
        }
        starts.push_back(now);
        Ok(())
    }

    /// A code flow waits.
    pub(super) fn add_code(&mut self, code: PendingCode) -> Uuid {
        let id = Uuid::new_v4();
        self.codes.insert(id, code);
        id
    }

    /// The flow that an answer belongs to. An answer of another session, or with another `state`,
    /// does not end it: anybody on the host can send one to the loopback port.
    pub(super) fn take_code(
        &mut self,
        id: Uuid,
        key: &LoginKey,
        state: &str,
        now: Instant,
    ) -> Result<PendingCode, LoginError> {
        let code = self.codes.get(&id).filter(|code| code.key == *key);
        let code = code.ok_or(LoginError::NoFlow)?;
        let wanted = code.request.state.secret().as_bytes();
        aws_lc_rs::constant_time::verify_slices_are_equal(wanted, state.as_bytes())
            .map_err(|_differ| LoginError::State)?;
        let code = self.codes.remove(&id).ok_or(LoginError::NoFlow)?;
        if now.saturating_duration_since(code.started.1) >= LOGIN_PATIENCE {
            return Err(LoginError::Expired);
        }
        Ok(code)
    }

    /// A device flow waits.
    pub(super) fn add_device(&mut self, key: LoginKey, shown: Shown) -> Uuid {
        let id = Uuid::new_v4();
        self.devices.insert(id, (key, shown));
        id
    }

    /// It does not any more.
    pub(super) fn remove_device(&mut self, id: Uuid) {
        self.devices.remove(&id);
    }

    /// A device flow of that session.
    pub(super) fn device_of(&self, key: &LoginKey) -> Option<&Shown> {
        self.devices.values().find(|(owner, _)| owner == key).map(|(_, shown)| shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn starts_are_limited_per_user_and_forgotten() {
        let mut pending = Pending::default();
        let now = Instant::now();
        for _ in 0..MAX_LOGIN_STARTS {
            pending.start(1, now).unwrap();
        }
        assert!(matches!(pending.start(1, now), Err(LoginError::TooOften)));
        pending.start(2, now).unwrap();
        let later = now + LOGIN_STARTS_WINDOW - Duration::from_secs(1);
        assert!(pending.start(1, later).is_err());
        pending.start(1, now + LOGIN_STARTS_WINDOW).unwrap();
    }

    #[test]
    fn device_flows_are_shown_to_their_session_only() {
        let mut pending = Pending::default();
        let key = |uid| LoginKey { boot: Uuid::nil(), uid, login: None };
        let shown = Shown { url: "https://id.example/d".into(), user_code: "AB-CD".into() };
        let id = pending.add_device(key(1), shown.clone());
        assert_eq!(pending.device_of(&key(1)), Some(&shown));
        assert_eq!(pending.device_of(&key(2)), None);
        pending.remove_device(id);
        assert_eq!(pending.device_of(&key(1)), None);
        for uid in 0..u32::try_from(MAX_PENDING_LOGINS).unwrap() {
            pending.add_device(key(uid), shown.clone());
        }
        assert!(matches!(pending.start(1, Instant::now()), Err(LoginError::Full)));
    }
}
