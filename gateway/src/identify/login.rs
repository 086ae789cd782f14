//! Logins of people: a person proves who they are once in a login session, and every process of that
//! session acts for them until they log out, the session ends or the provider refuses.
//!
//! - input: requests of `weir login` and `weir logout`, from [`Asker`]s that the kernel vouches for
//! - output: people in the [`Registry`](super::registry::Registry); a text that tells how to log in
//! - bound: `limits::MAX_LOGINS`, `limits::MAX_PENDING_LOGINS`, `limits::MAX_LOGIN_STARTS` a user
//! - on failure: [`LoginError`]; nobody is logged in who was not before
//!
//! Only the gateway talks to the provider, and only it has refresh tokens.

use uuid::Uuid;

use super::fetch::FetchError;
use super::jwks::KeyError;
use super::oidc::TokenError;
use super::registry::{RegistryError, SessionKey};
use crate::capture::session::Login;
use crate::error::{Fault, Faulty};

mod active;
mod asker;
mod client;
mod logins;
mod pending;
mod sessions;
mod store;

pub use asker::Asker;
pub use logins::{CodeStart, DeviceStart, LoggedIn, Logins, Parts, kept_people};
pub use sessions::Sessions;

/// What a login is bound to. Another boot, another user and another login session are others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct LoginKey {
    /// Boot of the kernel.
    pub boot: Uuid,
    /// Who logged in; without a session, whose process it is.
    pub uid: u32,
    /// Login session; none on hosts that have none: then all processes of the user.
    pub login: Option<Login>,
}

impl LoginKey {
    /// The same for processes of this boot.
    fn session(&self) -> SessionKey {
        SessionKey { uid: self.uid, login: self.login.clone() }
    }
}

/// Why a login did not come about, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No issuer of kind `people`, or none of that name.
    #[error("logging in: no such provider is configured")]
    NoProvider,
    /// Several, and none was named.
    #[error("logging in: several providers are configured, name one of {0}")]
    WhichProvider(String),
    /// The provider has no such endpoint.
    #[error("logging in: the provider has no {0} endpoint")]
    NoEndpoint(&'static str),
    /// The provider's metadata.
    #[error("logging in: {0}")]
    Metadata(#[from] KeyError),
    /// The provider cannot be asked.
    #[error("logging in: {0}")]
    Fetch(#[from] FetchError),
    /// The provider's answer is of no use.
    #[error("logging in: asking the provider: {0}")]
    Answer(&'static str),
    /// The provider says no: an error code of RFC 6749.
    #[error("logging in: the provider refuses: {0}")]
    Refused(String),
    /// Somebody denied a device flow.
    #[error("logging in: it was denied at the provider")]
    Denied,
    /// Nobody approved a flow in time.
    #[error("logging in: nobody approved it in time")]
    Expired,
    /// The redirect address is not one on loopback.
    #[error("logging in: the answer must come to http://127.0.0.1:PORT/cb")]
    Redirect,
    /// There is no such flow, it belongs to somebody else, or it was used.
    #[error("logging in: there is no such login to finish")]
    NoFlow,
    /// `state` differs: the answer belongs to another request.
    #[error("logging in: the answer belongs to another login")]
    State,
    /// `iss` differs, or is absent where the provider promised it.
    #[error("logging in: the answer comes from another provider")]
    Issuer,
    /// `nonce` differs: the token belongs to another request.
    #[error("logging in: the token belongs to another login")]
    Nonce,
    /// A refresh brought somebody else's token.
    #[error("refreshing a login: the token is somebody else's")]
    OtherPerson,
    /// The id token was refused.
    #[error("logging in: {0}")]
    Token(#[from] TokenError),
    /// Too many flows of one user.
    #[error("logging in: too many attempts, try again in some minutes")]
    TooOften,
    /// Too many flows or logins in all.
    #[error("logging in: too many logins")]
    Full,
    /// The registry has no room.
    #[error("logging in: {0}")]
    Registry(#[from] RegistryError),
    /// The session ended meanwhile.
    #[error("logging in: the login session has ended")]
    SessionEnded,
    /// Nobody is logged in there.
    #[error("logging out: you are not logged in")]
    NotLoggedIn,
    /// Files.
    #[error("{what}: {source}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl LoginError {
    /// Whether the same may work later: the provider has not decided.
    pub(in crate::identify) fn is_passing(&self) -> bool {
        match self {
            Self::Metadata(_) | Self::Fetch(_) | Self::Answer(_) => true,
            Self::Token(error) => matches!(error, TokenError::Keys(_) | TokenError::UnknownKey),
            _ => false,
        }
    }
}

impl Faulty for LoginError {
    fn fault(&self) -> Fault {
        match self {
            Self::Metadata(error) => error.fault(),
            Self::Fetch(error) => error.fault(),
            Self::Token(error) => error.fault(),
            Self::NoEndpoint(_) | Self::Answer(_) | Self::Issuer | Self::Nonce => Fault::Upstream,
            Self::OtherPerson => Fault::Upstream,
            Self::NoProvider | Self::Refused(_) | Self::Denied => Fault::Policy,
            Self::TooOften | Self::Full | Self::Registry(_) => Fault::Capacity,
            Self::File { .. } => Fault::Internal,
            Self::WhichProvider(_)
            | Self::Expired
            | Self::Redirect
            | Self::NoFlow
            | Self::State
            | Self::SessionEnded
            | Self::NotLoggedIn => Fault::Downstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Metadata(error) => error.outcome(),
            Self::Fetch(error) => error.outcome(),
            Self::Token(error) => error.outcome(),
            Self::NoProvider => "login_no_provider",
            Self::WhichProvider(_) => "login_which_provider",
            Self::NoEndpoint(_) => "login_no_endpoint",
            Self::Answer(_) => "login_answer",
            Self::Refused(_) => "login_refused",
            Self::Denied => "login_denied",
            Self::Expired => "login_expired",
            Self::Redirect => "login_redirect",
            Self::NoFlow => "login_no_flow",
            Self::State => "login_state",
            Self::Issuer => "login_issuer",
            Self::Nonce => "login_nonce",
            Self::OtherPerson => "login_other_person",
            Self::TooOften => "login_too_often",
            Self::Full | Self::Registry(_) => "login_full",
            Self::SessionEnded => "login_session_ended",
            Self::NotLoggedIn => "login_none",
            Self::File { .. } => "login_file",
        }
    }
}
