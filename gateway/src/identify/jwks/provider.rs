//! Fetches the keys of an issuer over HTTP.
//!
//! - input: the configured issuer
//! - output: [`KeySet`]
//! - bound: two requests, each bounded by [`Fetcher`]
//! - on failure: [`KeyError`]

use std::sync::Arc;

use super::{KeyError, KeySet, KeySource, SetFuture};
use crate::config::identity::Issuer;
use crate::config::url::HttpUrl;
use crate::identify::fetch::{Fetcher, Request};
use crate::identify::metadata::Metadata;

/// An issuer that publishes its keys.
pub struct Provider {
    issuer: Arc<Issuer>,
    /// None: its metadata says where its keys are.
    url: Option<HttpUrl>,
    fetcher: Arc<Fetcher>,
}

impl Provider {
    /// Nothing is fetched yet.
    pub fn new(issuer: Arc<Issuer>, url: Option<HttpUrl>, fetcher: Arc<Fetcher>) -> Self {
        Self { issuer, url, fetcher }
    }

    async fn keys(&self) -> Result<KeySet, KeyError> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        KeySet::parse(&self.fetcher.fetch(Request::get(url)).await?)
    }

    async fn discover(&self) -> Result<HttpUrl, KeyError> {
        let metadata = Metadata::fetch(&self.issuer, &self.fetcher).await?;
        metadata.url("jwks_uri")?.ok_or(KeyError::Metadata("it has no url of keys"))
    }
}

impl KeySource for Provider {
    fn fetch(&self) -> SetFuture<'_> {
        Box::pin(self.keys())
    }
}
