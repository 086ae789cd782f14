//! All logins of a host.
//!
//! - input: askers, answers of providers, the time
//! - output: people in the [`Registry`]
//! - bound: see `super`
//! - on failure: a login that the provider refuses ends; while the provider cannot be asked, the
//!   person stays who they were until their token expires, and the refresh is tried again

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::active::{self, Active};
use super::client::{DeviceRequest, Granted, Provider};
use super::pending::{Pending, PendingCode, Shown};
use super::store::{Kept, Store};
use super::{Asker, LoginError, LoginKey, Sessions};
use crate::clock::{SharedClock, WallUs};
use crate::config::identity;
use crate::identify::fetch::Fetcher;
use crate::identify::oidc::verify::{VerifiedToken, Verifier};
use crate::identify::private::Held;
use crate::identify::registry::Registry;
use crate::identify::who::Who;
use crate::limits::{MAX_LOGINS, MAX_LOGINS_PER_USER, MAX_REFRESHES, SESSION_LOOK};

mod flows;
mod keep;
mod prompt;

/// Another gateway lets go of the kept logins when it hands over.
const TAKE_UP_RETRY: Duration = Duration::from_millis(200);

pub use flows::{CodeStart, DeviceStart};
pub use keep::kept_people;
use prompt::Prompter;

/// What logins are made of.
pub struct Parts<'a> {
    /// Issuers of kind `people`, and where logins are kept.
    pub config: &'a identity::Identity,
    /// Knows the same issuers.
    pub verifier: Arc<Verifier>,
    /// Asks providers.
    pub fetcher: Arc<Fetcher>,
    /// Time.
    pub clock: SharedClock,
    /// Where logins take effect.
    pub registry: Arc<Registry>,
    /// Looks whether sessions live.
    pub sessions: Sessions,
    /// Name of this host, for people to read.
    pub host: Arc<str>,
}

/// Somebody logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// Who.
    pub who: Who,
    /// Until then, unless it is refreshed.
    pub expires_at: WallUs,
    /// Whether it will be.
    pub refreshes: bool,
}

/// See the module.
pub struct Logins {
    providers: Vec<Arc<Provider>>,
    verifier: Arc<Verifier>,
    clock: SharedClock,
    registry: Arc<Registry>,
    sessions: Sessions,
    host: Arc<str>,
    store: Store,
    table: Mutex<HashMap<LoginKey, Arc<Active>>>,
    pending: Mutex<Pending>,
    /// The kept logins are ours: none of them is used by two gateways.
    held: Mutex<Option<Held>>,
    /// Exchanges that must not break off in the middle.
    tasks: TaskTracker,
    /// Where flows are begun that nobody asked for, while somebody tends the logins.
    prompter: Prompter,
    changed: tokio::sync::Notify,
}

/// Why a login ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// `weir logout`, or a newer login of the session.
    LoggedOut,
    /// The session has no process any more.
    SessionEnded,
    /// The provider refused to refresh it, or its answer was somebody else's.
    Refused,
    /// An operator took the identity back.
    Revoked,
    /// Its token expired, and there is nothing to refresh it with.
    Expired,
}

impl Logins {
    /// Nobody is logged in yet: [`Logins::tend`] takes up the logins that were kept, refreshes those
    /// whose session lives, and ends the others.
    ///
    /// # Errors
    /// [`LoginError::File`].
    pub fn start(parts: Parts<'_>) -> Result<Arc<Self>, LoginError> {
        let mut providers = Vec::new();
        for issuer in &parts.config.issuers {
            let Some(login) = issuer.login.clone() else { continue };
            let secret = login.client_secret_file.as_deref().map(secret).transpose()?;
            let (issuer, clock) = (Arc::new(issuer.clone()), Arc::clone(&parts.clock));
            let fetcher = Arc::clone(&parts.fetcher);
            providers.push(Arc::new(Provider::new(issuer, login, secret, fetcher, clock)));
        }
        let store = Store::open(&parts.config.state_dir)?;
        Ok(Arc::new(Self {
            providers,
            verifier: parts.verifier,
            clock: parts.clock,
            registry: parts.registry,
            sessions: parts.sessions,
            host: parts.host,
            store,
            table: Mutex::default(),
            held: Mutex::default(),
            pending: Mutex::default(),
            tasks: TaskTracker::new(),
            prompter: Prompter::default(),
            changed: tokio::sync::Notify::new(),
        }))
    }

    /// Tends the logins until it is told to stop, then waits for exchanges that are under way.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.prompter.serve(stop.clone());
        while !stop.is_cancelled() {
            let wait = self.tend().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends the logins of sessions that have ended, refreshes those that are due, and says how long
    /// to wait before the next call.
    ///
    /// # Cancel safety
    /// Not to be dropped: a refresh token that was used and not replaced ends its login.
    pub async fn tend(self: &Arc<Self>) -> Duration {
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || this.take_up()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return TAKE_UP_RETRY,
            Ok(Err(error)) => {
                tracing::error!(%error, "logins of people cannot be taken up");
                return SESSION_LOOK;
            }
        }
        let all: Vec<Arc<Active>> = self.table().values().map(Arc::clone).collect();
        let (sessions, keys) = (self.sessions.clone(), all.iter().map(|one| one.key.clone()));
        let keys: Vec<LoginKey> = keys.collect();
        // It reads procfs.
        let ended = tokio::task::spawn_blocking(move || sessions.ended(keys)).await;
        let ended = ended.unwrap_or_default();
        let mut work = JoinSet::new();
        for login in all {
            let why = if ended.contains(&login.key) {
                Some(End::SessionEnded)
            } else if self.is_revoked(&login) {
                Some(End::Revoked)
            } else if login.due() <= self.clock.mono() {
                None
            } else {
                continue;
            };
            let this = Arc::clone(self);
            if work.len() >= MAX_REFRESHES {
                drop(work.join_next().await);
            }
            work.spawn(async move {
                match why {
                    Some(why) => this.end(&login, why).await,
                    None => this.refresh(&login).await,
                }
            });
        }
        while work.join_next().await.is_some() {}
        let (next, now) = (self.table().values().map(|one| one.due()).min(), self.clock.mono());
        let wait = next.map_or(SESSION_LOOK, |due| due.saturating_duration_since(now));
        wait.min(SESSION_LOOK)
    }

    /// Ends a session's login, here and at the provider.
    ///
    /// # Errors
    /// [`LoginError::NotLoggedIn`].
    pub async fn logout(self: &Arc<Self>, key: &LoginKey) -> Result<(), LoginError> {
        let login = self.table().get(key).map(Arc::clone).ok_or(LoginError::NotLoggedIn)?;
        let this = Arc::clone(self);
        let ending = self.tasks.spawn(async move { this.end(&login, End::LoggedOut).await });
        ending.await.map_err(|_panicked| LoginError::NotLoggedIn)
    }

    /// Names of the providers that people can log in with.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(|provider| provider.issuer.name.as_str())
    }

    /// Verifies what a provider gave, and lets the session act for whom it names.
    async fn activate(
        self: &Arc<Self>,
        key: LoginKey,
        provider: Arc<Provider>,
        granted: Granted,
        nonce: Option<String>,
        started: WallUs,
    ) -> Result<LoggedIn, LoginError> {
        let id = Uuid::new_v4();
        let refresh = granted.refresh.clone();
        let made = self.admit(id, &key, &provider, granted, nonce.as_deref(), started).await;
        let (active, logged_in) = match made {
            Ok(made) => made,
            Err(error) => {
                self.verifier.anchor_ended(active::anchor(id, started).id);
                // Nobody will use it.
                self.revoke(&provider, refresh).await;
                return Err(error);
            }
        };
        let (active, refreshes) = (Arc::new(active), logged_in.refreshes);
        let (older, bound) = {
            let mut table = self.table();
            // Under the lock: a login that ends at the same time must not unbind this one.
            let (who, until) = (logged_in.who.clone(), logged_in.expires_at);
            let bound = self.registry.bind_person(key.session(), who, until);
            (table.insert(key, Arc::clone(&active)), bound)
        };
        if let Some(older) = older {
            self.end(&older, End::LoggedOut).await;
        }
        if let Err(error) = bound {
            self.end(&active, End::Refused).await;
            return Err(error.into());
        }
        self.changed.notify_one();
        let (who, issuer) = (&logged_in.who.display, &provider.issuer.name);
        tracing::info!(%who, %issuer, refreshes, "a person logged in");
        Ok(logged_in)
    }

    async fn admit(
        &self,
        id: Uuid,
        key: &LoginKey,
        provider: &Arc<Provider>,
        granted: Granted,
        nonce: Option<&str>,
        started: WallUs,
    ) -> Result<(Active, LoggedIn), LoginError> {
        let token = self.verify(id, provider, &granted.id_token, started).await?;
        if nonce.is_some() && token.claims().text("nonce") != nonce {
            return Err(LoginError::Nonce);
        }
        if !self.sessions.ended(vec![key.clone()]).is_empty() {
            return Err(LoginError::SessionEnded);
        }
        {
            let table = self.table();
            let own = table.keys().filter(|one| one.uid == key.uid && *one != key).count();
            if table.len() >= MAX_LOGINS || own >= MAX_LOGINS_PER_USER {
                return Err(LoginError::Full);
            }
        }
        let subject = token.subject().to_owned();
        let refreshes = granted.refresh.is_some();
        let lead = active::lead(token.expires_at(), self.clock.wall(), refreshes);
        let due = self.clock.mono() + lead;
        let (who, expires_at) = (Who::verified(&token), token.expires_at());
        let kept = Kept {
            id,
            key: key.clone(),
            issuer: provider.issuer.issuer.clone(),
            subject,
            who: who.clone(),
            expires_at,
            refresh: granted.refresh,
        };
        self.keep(kept.clone()).await;
        let active = Active::new(kept, Arc::clone(provider), due);
        Ok((active, LoggedIn { who, expires_at, refreshes }))
    }

    /// An id token of exactly this provider. `started` is when it was asked for.
    async fn verify(
        &self,
        id: Uuid,
        provider: &Provider,
        token: &SecretString,
        started: WallUs,
    ) -> Result<VerifiedToken, LoginError> {
        let token = self.verifier.verify(token, &active::anchor(id, started)).await?;
        if token.issuer().issuer != provider.issuer.issuer {
            return Err(LoginError::Issuer);
        }
        Ok(token)
    }

    /// Refreshes a login if it is still due.
    async fn refresh(&self, login: &Arc<Active>) {
        let mut state = login.state.lock().await;
        if state.ended || login.due() > self.clock.mono() || self.is_revoked(login) {
            return;
        }
        let Some(token) = state.refresh.clone() else {
            drop(state);
            self.end(login, End::Expired).await;
            return;
        };
        let started = self.clock.wall();
        let refreshed = match login.provider.refresh(&token).await {
            Ok(granted) => {
                if let Some(new) = granted.refresh {
                    // Before anything else: the old one is of no use any more.
                    state.refresh = Some(new);
                    self.keep_refreshed(login, &state).await;
                }
                let token = self.verify(login.id, &login.provider, &granted.id_token, started);
                match token.await {
                    Ok(token) if token.subject() != state.subject => Err(LoginError::OtherPerson),
                    other => other,
                }
            }
            Err(error) => Err(error),
        };
        let name = &login.provider.issuer.name;
        match refreshed {
            Ok(token) => {
                state.failures = 0;
                login.set_due(
                    self.clock.mono() + active::lead(token.expires_at(), self.clock.wall(), true),
                );
                (state.who, state.expires_at) = (Who::verified(&token), token.expires_at());
                self.keep_refreshed(login, &state).await;
                let bound = {
                    let table = self.table();
                    // A newer login of the session may have taken its place, which ends this one.
                    let is_it = table.get(&login.key).is_some_and(|one| one.id == login.id);
                    let (key, who) = (login.key.session(), state.who.clone());
                    if is_it {
                        self.registry.extend_person(key, who, state.expires_at)
                    } else {
                        Ok(())
                    }
                };
                if let Err(error) = bound {
                    tracing::warn!(%error, "a login was refreshed in vain");
                    drop(state);
                    self.end(login, End::Revoked).await;
                    return;
                }
                tracing::debug!(issuer = %name, "a login was refreshed");
            }
            Err(error) if error.is_passing() => {
                login.set_due(self.clock.mono() + active::backoff(state.failures));
                state.failures = state.failures.saturating_add(1);
                tracing::warn!(issuer = %name, %error, "a login was not refreshed yet");
            }
            Err(error) => {
                drop(state);
                tracing::info!(issuer = %name, %error, "a login is not refreshed any more");
                self.end(login, End::Refused).await;
            }
        }
    }

    /// Whether an operator took the identity back: a refresh would bring it again.
    fn is_revoked(&self, login: &Active) -> bool {
        self.registry.person(&login.key.session()).is_some_and(|person| person.has_ended())
    }

    /// Ends a login. First nobody acts for the person any more, then the file goes, then the provider
    /// is told.
    async fn end(&self, login: &Arc<Active>, why: End) {
        let refresh = {
            let mut state = login.state.lock().await;
            if state.ended {
                return;
            }
            state.ended = true;
            {
                let mut table = self.table();
                if table.get(&login.key).is_some_and(|one| one.id == login.id) {
                    table.remove(&login.key);
                    self.registry.unbind_person(&login.key.session());
                }
            }
            state.refresh.take()
        };
        self.verifier.anchor_ended(active::anchor(login.id, WallUs(0)).id);
        self.forget(login.id).await;
        let issuer = &login.provider.issuer.name;
        tracing::info!(%issuer, uid = login.key.uid, ?why, "a login ended");
        self.revoke(&login.provider, refresh).await;
    }

    async fn revoke(&self, provider: &Provider, refresh: Option<SecretString>) {
        let Some(refresh) = refresh else { return };
        if let Err(error) = provider.revoke(&refresh).await {
            let issuer = &provider.issuer.name;
            tracing::warn!(%issuer, %error, "a refresh token was dropped but not revoked");
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<LoginKey, Arc<Active>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logins").field("logins", &self.table().len()).finish_non_exhaustive()
    }
}

/// A client secret, without the line end of its file.
fn secret(path: &Path) -> Result<SecretString, LoginError> {
    use std::io::Read as _;
    const MAX_BYTES: u64 = 4096;
    let failed = |source| LoginError::File { what: "reading a client secret", source };
    let mut text = zeroize::Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().into())
}
