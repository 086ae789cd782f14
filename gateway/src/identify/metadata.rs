//! What a provider says about itself: OpenID Connect Discovery 1.0.
//!
//! - input: the configured issuer
//! - output: [`Metadata`], whose URLs may be asked
//! - bound: one request, bounded by [`Fetcher`]
//! - on failure: [`KeyError`]

use serde_json::{Map, Value};

use super::fetch::{Fetcher, Request};
use super::jwks::KeyError;
use super::oidc::token::Strict;
use crate::config::identity::Issuer;
use crate::config::url::HttpUrl;

/// Section 4.
const PATH: &str = "/.well-known/openid-configuration";

/// Metadata of one issuer.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    issuer: Issuer,
    fields: Map<String, Value>,
}

impl Metadata {
    /// Asks for it.
    ///
    /// # Errors
    /// [`KeyError::Fetch`], [`KeyError::Metadata`], [`KeyError::OtherIssuer`] (section 4.3).
    pub(super) async fn fetch(issuer: &Issuer, fetcher: &Fetcher) -> Result<Self, KeyError> {
        let answer = fetcher.fetch(Request::get(issuer.url.clone().below(PATH))).await?;
        let Ok(Strict(Value::Object(fields))) = serde_json::from_slice(&answer) else {
            return Err(KeyError::Metadata("it is not a json object"));
        };
        if fields.get("issuer").and_then(Value::as_str) != Some(&issuer.issuer) {
            return Err(KeyError::OtherIssuer);
        }
        Ok(Self { issuer: issuer.clone(), fields })
    }

    /// The URL of that name; none if it is absent.
    ///
    /// # Errors
    /// [`KeyError::Metadata`] for one that may not be asked.
    pub(super) fn url(&self, name: &str) -> Result<Option<HttpUrl>, KeyError> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        let url = value.as_str().and_then(|text| HttpUrl::parse(text).ok());
        let url = url.ok_or(KeyError::Metadata("one of its urls is not one"))?;
        if !self.issuer.allows(&url) {
            return Err(KeyError::Metadata("one of its urls is not https"));
        }
        Ok(Some(url))
    }

    /// Whether a flag is set.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Whether a list has a value; `None` without the list.
    pub(super) fn lists(&self, name: &str, value: &str) -> Option<bool> {
        let all = self.fields.get(name)?.as_array()?;
        Some(all.iter().any(|one| one.as_str() == Some(value)))
    }
}
