//! Vaults of all jobs and login sessions.
//!
//! - input: a session's id, and how it stands with its identity
//! - output: its [`Scope`], shared by all its connections on all workers
//! - bound: `limits::MAX_SCOPES`, the longest idle one goes first; each vault by [`LIMITS`]
//! - on failure: a scope that is full redacts; one that went begins anew
//!
//! A scope whose identity has ended or was revoked is wiped at the next sweep: workers ask for one every few
//! seconds, and every [`SWEEP`] one is made.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;
use weir_inspect::fingerprint::Key;
use weir_inspect::known::Known;
use weir_inspect::vault::{Limits, Vault};

use crate::capture::{ExeId, Process, ProcessKey};
use crate::clock::WallUs;
use crate::identify::standing::{Standing, Verdict};
use crate::limits::{MAX_CACHED_PROCESSES, MAX_SCOPES};

/// Of one vault.
const LIMITS: Limits = Limits { max_entries: 1024, max_new: 256, max_used: 4096, max_hosts: 32 };
/// A scope without a connection is wiped after this time.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// How often all are looked at.
const SWEEP: Duration = Duration::from_secs(10);

/// One job or login session.
#[derive(Debug)]
pub struct Scope {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    vault: Vault,
    standing: Standing,
    touched: Instant,
    /// Processes whose environment was looked at.
    seen: HashSet<(ProcessKey, ExeId)>,
    /// What was made of the vault, and of which generation.
    made: Option<(u64, Known, Known)>,
}

impl Scope {
    fn new(vault: Vault, standing: Standing, now: Instant) -> Self {
        let inner = Inner { vault, standing, touched: now, seen: HashSet::new(), made: None };
        Self { started: now, inner: Mutex::new(inner) }
    }

    /// Its vault, and the time by its clock.
    pub(super) fn with<T>(&self, now: Instant, act: impl FnOnce(&mut Vault, Duration) -> T) -> T {
        let mut inner = self.lock();
        inner.touched = now;
        act(&mut inner.vault, now.saturating_duration_since(self.started))
    }

    /// Its secrets.
    pub(super) fn known(&self) -> Known {
        self.made().0
    }

    /// Its placeholders that somebody has.
    pub(super) fn placeholders(&self) -> Known {
        self.made().1
    }

    /// The secret of a number.
    pub(super) fn secret(&self, number: u32) -> Option<Vec<u8>> {
        self.lock().vault.secret(number).map(<[u8]>::to_vec)
    }

    /// Whether a process was not looked at before; one that has executed another file is another one.
    pub(super) fn is_new(&self, process: &Process) -> bool {
        !self.lock().seen.contains(&(process.key, process.exe))
    }

    /// Notes that a process was looked at.
    pub(super) fn saw(&self, process: &Process) {
        let mut inner = self.lock();
        if inner.seen.len() >= MAX_CACHED_PROCESSES {
            inner.seen.clear();
        }
        inner.seen.insert((process.key, process.exe));
    }

    /// What a number is called.
    pub(super) fn name(&self, number: u32) -> Option<Arc<str>> {
        self.lock().vault.name(number).cloned()
    }

    fn made(&self) -> (Known, Known) {
        let mut inner = self.lock();
        let generation = inner.vault.generation();
        if let Some((made, known, placeholders)) = &inner.made
            && *made == generation
        {
            return (known.clone(), placeholders.clone());
        }
        let known = Known::new(inner.vault.secrets().map(|(n, secret)| (n, secret.to_vec())));
        let all = inner.vault.placeholders().map(|(n, text)| (n, text.as_bytes().to_vec()));
        let placeholders = Known::placeholders(all);
        inner.made = Some((generation, known.clone(), placeholders.clone()));
        (known, placeholders)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Scopes(Mutex<Map>);

#[derive(Debug)]
struct Map {
    all: HashMap<Uuid, Arc<Scope>>,
    swept: Option<Instant>,
}

impl Scopes {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Map { all: HashMap::new(), swept: None }))
    }

    /// The scope of a session.
    pub(super) fn of(
        &self,
        session: Uuid,
        standing: &Standing,
        key: &Key,
        now: (Instant, WallUs),
    ) -> Arc<Scope> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.sweep(now);
        if let Some(scope) = map.all.get(&session) {
            let mut inner = scope.lock();
            inner.touched = now.0;
            inner.standing = standing.clone();
            drop(inner);
            return Arc::clone(scope);
        }
        if map.all.len() >= MAX_SCOPES {
            let idle = map.all.iter().min_by_key(|(_, scope)| scope.lock().touched);
            let idle = idle.map(|(id, _)| *id);
            idle.and_then(|id| map.all.remove(&id));
        }
        let vault = Vault::new(key.scope(session.as_bytes()), LIMITS);
        let scope = Arc::new(Scope::new(vault, standing.clone(), now.0));
        map.all.insert(session, Arc::clone(&scope));
        scope
    }

    /// Wipes those that are over.
    pub(super) fn sweep(&self, now: (Instant, WallUs)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.len()
    }
}

impl Map {
    fn sweep(&mut self, (now, wall): (Instant, WallUs)) {
        if self.swept.is_some_and(|then| now.saturating_duration_since(then) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.all.retain(|_, scope| {
            let mut inner = scope.lock();
            let is_over =
                matches!(inner.standing.verdict(wall), Verdict::Expired | Verdict::Revoked);
            let is_idle = now.saturating_duration_since(inner.touched) >= IDLE;
            if is_over {
                // A connection may still be open.
                inner.vault.wipe();
                inner.made = None;
            }
            !is_over && (!is_idle || Arc::strong_count(scope) > 1)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(vec![7; 32]).unwrap()
    }

    #[test]
    fn one_session_has_one_scope_until_it_is_idle() {
        let (scopes, start) = (Scopes::new(), Instant::now());
        let of = |id: u128, after: Duration| {
            let now = (start + after, WallUs(0));
            scopes.of(Uuid::from_u128(id), &Standing::unidentified(), &key(), now)
        };
        let first = of(1, Duration::ZERO);
        assert!(Arc::ptr_eq(&first, &of(1, Duration::ZERO)));
        assert!(!Arc::ptr_eq(&first, &of(2, Duration::ZERO)));
        // The first is held by a connection, the second by nobody.
        of(3, IDLE);
        assert_eq!(scopes.len(), 2);
        assert!(Arc::ptr_eq(&first, &of(1, IDLE)));
    }

    #[test]
    fn they_are_bounded() {
        let (scopes, start) = (Scopes::new(), Instant::now());
        for id in 0..MAX_SCOPES as u128 + 10 {
            let now = (start, WallUs(0));
            scopes.of(Uuid::from_u128(id), &Standing::unidentified(), &key(), now);
        }
        assert_eq!(scopes.len(), MAX_SCOPES);
    }

    #[test]
    fn what_is_known_follows_the_vault() {
        let scope = Scopes::new().of(
            Uuid::nil(),
            &Standing::unidentified(),
            &key(),
            (Instant::now(), WallUs(0)),
        );
        assert!(scope.known().is_empty() && scope.placeholders().is_empty());
        let name: Arc<str> = "rule".into();
        let secret = b"a secret of the test";
        let placeholder =
            scope.with(Instant::now(), |vault, now| vault.tokenise(secret, &name, &[], now));
        let text = [b"x ".as_slice(), secret].concat();
        let (span, number) = scope.known().find(&text, 0).unwrap();
        assert_eq!((span, scope.secret(number).unwrap()), (2..text.len(), secret.to_vec()));
        let placeholder = placeholder.unwrap();
        assert!(scope.placeholders().find(placeholder.as_bytes(), 0).is_some());
    }
}
