//! Keys of one issuer in memory, fetched when they are needed and not too often.
//!
//! - input: a [`KeySource`], a key id and an algorithm
//! - output: [`Key`]
//! - bound: one fetch at a time, one attempt in `limits::KEYS_RETRY`; keys are used for at most
//!   `limits::KEYS_STALE` after they were fetched
//! - on failure: the old keys stay in use while they may; then [`KeyError`]. Nothing here makes a
//!   token valid for longer

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::{Key, KeyError, KeySet};
use crate::clock::SharedClock;
use crate::config::identity::Algorithm;
use crate::identify::oidc::TokenError;
use crate::limits::{KEYS_REFRESH, KEYS_RETRY, KEYS_STALE};

/// The future of [`KeySource::fetch`].
pub type SetFuture<'a> = Pin<Box<dyn Future<Output = Result<KeySet, KeyError>> + Send + 'a>>;

/// The `KeySource` seam: a provider, or keys that a test holds.
pub trait KeySource: Send + Sync + 'static {
    /// Fetches all keys of the issuer.
    fn fetch(&self) -> SetFuture<'_>;
}

/// Keys of one issuer. All threads share it.
pub struct Keys {
    /// None: the keys never change.
    source: Option<Arc<dyn KeySource>>,
    clock: SharedClock,
    current: RwLock<Option<Fetched>>,
    /// Held while keys are fetched. When the last attempt began.
    attempt: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Fetched {
    set: Arc<KeySet>,
    at: Instant,
}

impl Keys {
    /// Keys that are fetched when the first token needs them.
    pub fn from_source(source: Arc<dyn KeySource>, clock: SharedClock) -> Self {
        Self {
            source: Some(source),
            clock,
            current: RwLock::default(),
            attempt: tokio::sync::Mutex::default(),
        }
    }

    /// Keys that never change.
    pub fn fixed(set: KeySet, clock: SharedClock) -> Self {
        let at = clock.mono();
        let current = RwLock::new(Some(Fetched { set: Arc::new(set), at }));
        Self { source: None, clock, current, attempt: tokio::sync::Mutex::default() }
    }

    /// The key of that name. Fetches all keys if there is none of that name, or if they are twice as
    /// old as a refresh in the background lets them become: then nobody refreshes, or in vain.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`], [`TokenError::KeyAlgorithm`], [`TokenError::Keys`].
    ///
    /// # Cancel safety
    /// A call that is dropped while it fetches has used up its attempt.
    pub async fn key(&self, kid: &str, algorithm: Algorithm) -> Result<Key, TokenError> {
        let mut known = self.usable();
        if let Some(old) = known.as_ref().filter(|known| self.is_overdue(known.at)) {
            // A withdrawn key must not live on; without an answer, the old keys serve.
            if let Err(error) = self.refresh(Some(old.at)).await {
                tracing::debug!(%error, "overdue keys of an issuer not refreshed");
            }
            known = self.usable();
        }
        if let Some(found) = known.as_ref().and_then(|known| known.set.find(kid, algorithm)) {
            return found.cloned();
        }
        match self.refresh(known.as_ref().map(|known| known.at)).await {
            Ok(()) => {}
            // With keys at hand, the token is the problem, not the provider.
            Err(_) if known.is_some() => return Err(TokenError::UnknownKey),
            Err(error) => return Err(error.into()),
        }
        let known = self.usable().ok_or(KeyError::Unavailable)?;
        known.set.find(kid, algorithm).unwrap_or(Err(TokenError::UnknownKey)).cloned()
    }

    /// Fetches the keys again if they are old, or were never fetched.
    ///
    /// # Errors
    /// [`KeyError`]; the old keys stay.
    pub async fn refresh_if_due(&self) -> Result<(), KeyError> {
        if self.due_in() > Duration::ZERO {
            return Ok(());
        }
        let seen = self.current().map(|known| known.at);
        match self.refresh(seen).await {
            // Somebody tried just now.
            Err(KeyError::Unavailable) => Ok(()),
            other => other,
        }
    }

    /// How long the keys need no refresh.
    pub fn due_in(&self) -> Duration {
        match (&self.source, self.current()) {
            (None, _) => KEYS_REFRESH,
            (Some(_), None) => Duration::ZERO,
            (Some(_), Some(known)) => KEYS_REFRESH.saturating_sub(self.age(known.at)),
        }
    }

    /// Fetches, unless somebody else has since `seen`, or an attempt was made just now.
    async fn refresh(&self, seen: Option<Instant>) -> Result<(), KeyError> {
        let Some(source) = &self.source else { return Err(KeyError::Unavailable) };
        let mut attempt = self.attempt.lock().await;
        if self.current().map(|known| known.at) != seen && self.usable().is_some() {
            return Ok(());
        }
        if attempt.is_some_and(|at| self.age(at) < KEYS_RETRY) {
            return Err(KeyError::Unavailable);
        }
        *attempt = Some(self.clock.mono());
        let set = Arc::new(source.fetch().await?);
        let at = self.clock.mono();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Fetched { set, at });
        Ok(())
    }

    fn current(&self) -> Option<Fetched> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current keys, unless they are too old.
    fn usable(&self) -> Option<Fetched> {
        let fixed = self.source.is_none();
        self.current().filter(|known| fixed || self.age(known.at) < KEYS_STALE)
    }

    fn is_overdue(&self, at: Instant) -> bool {
        self.source.is_some() && self.age(at) >= KEYS_REFRESH * 2
    }

    fn age(&self, at: Instant) -> Duration {
        self.clock.mono().saturating_duration_since(at)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.current().map(|known| known.set.0.len());
        f.debug_struct("Keys").field("keys", &keys).finish_non_exhaustive()
    }
}
