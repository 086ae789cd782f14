//! The two ways to log in.
//!
//! - input: an [`Asker`], the answer that came to its loopback port
//! - output: what to show to the person, then [`LoggedIn`]
//! - bound: see `super::super::pending`
//! - on failure: [`LoginError`]

use super::*;
use oauth2::url::form_urlencoded;

use crate::config::url::HttpUrl;

/// Bytes of the answer that a browser brings.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// A code flow that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeStart {
    /// To finish it with.
    pub id: Uuid,
    /// For the browser.
    pub url: String,
}

/// A device flow that was begun. It is shown to its session's refused requests until this is dropped.
#[derive(Debug)]
pub struct DeviceStart {
    logins: Arc<Logins>,
    id: Uuid,
    key: LoginKey,
    provider: Arc<Provider>,
    request: DeviceRequest,
    started: WallUs,
    /// For a person: who asks, from where, and what to do.
    pub text: String,
}

impl DeviceStart {
    /// Page of the provider, with the code in it where the provider offers that.
    pub fn url(&self) -> &str {
        self.request.complete().unwrap_or(self.request.url())
    }

    /// What to enter there.
    pub fn user_code(&self) -> &str {
        self.request.user_code()
    }

    /// Waits until somebody approves, and logs the session in. Nobody waits any more when this is
    /// dropped: the process that asked is to be alive.
    ///
    /// # Errors
    /// [`LoginError::Denied`], [`LoginError::Expired`] and others.
    pub async fn finish(self) -> Result<LoggedIn, LoginError> {
        let granted = self.provider.poll(&self.request).await?;
        let (logins, key) = (Arc::clone(&self.logins), self.key.clone());
        let (provider, started) = (Arc::clone(&self.provider), self.started);
        let this = Arc::clone(&logins);
        let task = logins
            .tasks
            .spawn(async move { this.activate(key, provider, granted, None, started).await });
        task.await.unwrap_or(Err(LoginError::NoFlow))
    }
}

impl Drop for DeviceStart {
    fn drop(&mut self) {
        self.logins.pending().remove_device(self.id);
    }
}

impl Logins {
    /// Begins an authorization code flow. `redirect` is where the asker listens.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn start_code(
        &self,
        asker: &Asker,
        issuer: Option<&str>,
        redirect: &str,
    ) -> Result<CodeStart, LoginError> {
        let url = HttpUrl::parse(redirect).map_err(|_invalid| LoginError::Redirect)?;
        // RFC 8252 section 7.3: the address, not the name, and any port.
        if url.is_https() || url.host() != "127.0.0.1" || url.target() != "/cb" {
            return Err(LoginError::Redirect);
        }
        let provider = self.provider(issuer)?;
        self.pending().start(asker.uid, self.clock.mono())?;
        let started = (self.clock.wall(), self.clock.mono());
        let request = provider.begin_code(redirect).await?;
        let needs_issuer = provider.names_itself().await?;
        let url = request.url.clone();
        let key = asker.key.clone();
        let code = PendingCode { key, provider, request, needs_issuer, started };
        Ok(CodeStart { id: self.pending().add_code(code), url })
    }

    /// Finishes it. `answer` is the query that the browser brought.
    ///
    /// # Errors
    /// See [`LoginError`]; after [`LoginError::State`] the flow still waits for its answer.
    pub async fn finish_code(
        self: &Arc<Self>,
        asker: &Asker,
        id: Uuid,
        answer: &str,
    ) -> Result<LoggedIn, LoginError> {
        let answer = Answer::parse(answer)?;
        let state = answer.state.as_deref().unwrap_or_default();
        let flow = self.pending().take_code(id, &asker.key, state, self.clock.mono())?;
        let PendingCode { key, provider, request, needs_issuer, started } = flow;
        match &answer.issuer {
            Some(issuer) if *issuer == provider.issuer.issuer => {}
            None if !needs_issuer => {}
            _ => return Err(LoginError::Issuer),
        }
        match answer.error.as_deref() {
            Some("access_denied") => return Err(LoginError::Denied),
            Some(_) => return Err(LoginError::Refused("the authorization".to_owned())),
            None => {}
        }
        let code = answer.code.ok_or(LoginError::Answer("it gave no code"))?;
        let this = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let granted = provider.redeem(code, &request.redirect, request.verifier).await?;
            this.activate(key, provider, granted, Some(request.nonce), started.0).await
        });
        task.await.unwrap_or(Err(LoginError::NoFlow))
    }

    /// Begins a device flow.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn start_device(
        self: &Arc<Self>,
        asker: &Asker,
        issuer: Option<&str>,
    ) -> Result<DeviceStart, LoginError> {
        let provider = self.provider(issuer)?;
        self.pending().start(asker.uid, self.clock.mono())?;
        let started = self.clock.wall();
        let request = provider.begin_device().await?;
        let (url, user_code) = (request.url().to_owned(), request.user_code().to_owned());
        let at = if asker.tty.is_empty() { String::new() } else { format!(" at {}", asker.tty) };
        let text = format!(
            "user {} (uid {}){at} on {} asks to be logged in at {}.\n\
             Approve it only if you began it yourself just now on that host: whoever sent you a \
             code wants to act as you.",
            asker.user, asker.uid, self.host, provider.issuer.name
        );
        let key = asker.key.clone();
        let id = self.pending().add_device(key.clone(), Shown { url, user_code });
        let logins = Arc::clone(self);
        Ok(DeviceStart { logins, id, key, provider, request, started, text })
    }

    fn provider(&self, name: Option<&str>) -> Result<Arc<Provider>, LoginError> {
        match (name, self.providers.as_slice()) {
            (None, [only]) => Ok(Arc::clone(only)),
            (None, [_, _, ..]) => {
                Err(LoginError::WhichProvider(self.providers().collect::<Vec<_>>().join(", ")))
            }
            (None, []) => Err(LoginError::NoProvider),
            (Some(name), all) => {
                let found = all.iter().find(|one| one.issuer.name == name);
                found.map(Arc::clone).ok_or(LoginError::NoProvider)
            }
        }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came to the loopback port (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Default)]
struct Answer {
    code: Option<String>,
    state: Option<String>,
    issuer: Option<String>,
    error: Option<String>,
}

impl Answer {
    fn parse(query: &str) -> Result<Self, LoginError> {
        if query.len() > MAX_ANSWER_BYTES {
            return Err(LoginError::Answer("it is too long"));
        }
        let mut answer = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match name.as_ref() {
                "code" => &mut answer.code,
                "state" => &mut answer.state,
                "iss" => &mut answer.issuer,
                "error" => &mut answer.error,
                _ => continue,
            };
            // RFC 6749 section 3.1: none comes twice, and nobody may choose.
            if place.replace(value.into_owned()).is_some() {
                return Err(LoginError::Answer("it says something twice"));
            }
        }
        Ok(answer)
    }
}
