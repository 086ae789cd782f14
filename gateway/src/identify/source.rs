//! Where a job's token is found. What is found here proves nothing until it is verified.
//!
//! - input: the environment of a job's process, the configured issuer, a way to ask providers
//! - output: a token, not verified
//! - bound: `limits::MAX_ENVIRONMENT_BYTES`; one request
//! - on failure: [`SourceError`]
//!
//! An environment is memory of a process that may lie. It is a place to look for tokens, never a
//! source of claims, and it must not make the gateway ask hosts that nobody configured: the gateway
//! may reach what the job may not.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;
use serde_json::Value;

use crate::config::identity::{Issuer, Kind};
use crate::config::url::HttpUrl;
use crate::error::{Fault, Faulty};
use crate::identify::fetch::{FetchError, Fetcher, Request};
use crate::limits::{MAX_ENVIRONMENT_BYTES, MAX_TOKEN_BYTES};

pub mod found;
pub mod kubernetes;
mod request;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The environment has no such variable, or an empty one. The job may have none by intent: on
    /// GitHub it needs `permissions: id-token: write`.
    #[error("looking for a token: the environment has no {0}")]
    Absent(&'static str),
    /// No variable holds a token of the issuer for this gateway.
    #[error("looking for a token: the environment has none of the issuer")]
    NotFound,
    /// A variable is not what it should be.
    #[error("looking for a token: {name} {what}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The environment wants the gateway to ask a host that is not in `request_hosts`.
    #[error("looking for a token: {0} names a host that may not be asked")]
    Host(&'static str),
    /// The CI system did not answer as it should.
    #[error("requesting a token: {0}")]
    Fetch(#[from] FetchError),
    /// Its answer holds no token.
    #[error("requesting a token: the answer holds none")]
    Answer,
    /// Tokens of this kind are not found in a job's environment.
    #[error("looking for a token: a process has none of this kind")]
    NotAmbient,
}

impl Faulty for SourceError {
    fn fault(&self) -> Fault {
        match self {
            Self::Absent(_) | Self::NotFound | Self::Variable { .. } | Self::NotAmbient => {
                Fault::Downstream
            }
            Self::Host(_) => Fault::Policy,
            Self::Fetch(error) => error.fault(),
            Self::Answer => Fault::Upstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Absent(_) => "token_absent",
            Self::NotFound => "token_not_found",
            Self::Variable { .. } => "token_variable",
            Self::Host(_) => "token_request_host",
            Self::Fetch(error) => error.outcome(),
            Self::Answer => "token_answer",
            Self::NotAmbient => "token_not_ambient",
        }
    }
}

/// The environment of a process. `Debug` shows no value: they hold secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads what procfs shows: `NAME=value` with a zero byte after each. What is not UTF-8, has no
    /// `=`, or lies beyond `limits::MAX_ENVIRONMENT_BYTES` is left out; of a name that comes twice,
    /// the first counts, as in getenv(3).
    pub fn parse(bytes: &[u8]) -> Self {
        let bytes = bytes.get(..MAX_ENVIRONMENT_BYTES).unwrap_or(bytes);
        let mut all = BTreeMap::new();
        for entry in bytes.split(|byte| *byte == 0) {
            let Ok(entry) = std::str::from_utf8(entry) else { continue };
            if let Some((name, value)) = entry.split_once('=') {
                all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        Self(all)
    }

    pub(in crate::identify) fn variable(&self, name: &'static str) -> Result<&str, SourceError> {
        let value = self.0.get(name).filter(|value| !value.is_empty());
        value.map(String::as_str).ok_or(SourceError::Absent(name))
    }

    fn secret(&self, name: &'static str) -> Result<SecretString, SourceError> {
        let value = self.variable(name)?;
        if value.len() > MAX_TOKEN_BYTES {
            return Err(SourceError::Variable { name, what: "is too long" });
        }
        Ok(SecretString::from(value))
    }

    /// A URL that the gateway may ask on behalf of a job of this issuer.
    fn url(&self, name: &'static str, issuer: &Issuer) -> Result<HttpUrl, SourceError> {
        let url = HttpUrl::parse(self.variable(name)?)
            .map_err(|what| SourceError::Variable { name, what })?;
        let known = issuer.request_hosts.iter().any(|host| host.matches(url.host()));
        if known && issuer.allows(&url) { Ok(url) } else { Err(SourceError::Host(name)) }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Gets the token of a job: requests it where the CI system gives one on demand, else looks for it
/// in the environment.
///
/// # Errors
/// See [`SourceError`].
pub async fn token(
    environment: &Environment,
    issuer: &Issuer,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    match issuer.kind {
        Kind::Github => request::github(environment, issuer, fetcher).await,
        Kind::Buildkite => request::buildkite(environment, issuer, fetcher).await,
        Kind::AzureDevops => request::azure_devops(environment, issuer, fetcher).await,
        Kind::Gitlab
        | Kind::Circleci
        | Kind::Bitbucket
        | Kind::Jenkins
        | Kind::Spiffe
        | Kind::Generic => found::token(environment, issuer).ok_or(SourceError::NotFound),
        Kind::Kubernetes | Kind::People => Err(SourceError::NotAmbient),
    }
}

/// Asks, and takes one string out of the answer.
async fn ask(
    request: Request,
    pointer: &str,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    let answer = fetcher.fetch(request).await?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|_opaque| SourceError::Answer)?;
    let token = answer.pointer(pointer).and_then(Value::as_str);
    Ok(SecretString::from(token.ok_or(SourceError::Answer)?))
}

#[cfg(test)]
mod tests;
