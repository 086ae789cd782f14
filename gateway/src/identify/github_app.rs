//! GitHub jobs without token: a GitHub App asks the API which job runs on a runner of this host.
//!
//! - input: the environment of a job's process, which says where to look; when its process tree began
//! - output: what the API says of that job, by the names that a token's claims would have
//! - bound: [`PATIENCE`] for a look-up, [`MAX_PAGES`] pages, one look-up of an anchor in [`PAUSE`];
//!   nothing is asked while the API wants to be left alone
//! - on failure: [`LookupError`]; the job is unidentified
//!
//! The environment is no claim: the API must say that the job is in progress, on that runner, since
//! the process tree began, and the configuration that the runner is one of this host.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use self::answer::{Hints, Page, Run};
use self::credential::Credential;
pub use self::error::LookupError;
use super::binding::Anchor;
use super::fetch::{FetchError, Fetcher, Request};
use super::oidc::token::Strict;
use super::source::Environment;
use crate::clock::{SharedClock, WallUs};
use crate::config::identity::{GithubApp as Config, Issuer};
use crate::config::url::HttpUrl;

mod answer;
mod credential;
mod error;

/// For all questions of one look-up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two look-ups of an anchor: a job must not use up the App's share of the API.
const PAUSE: Duration = Duration::from_secs(5);
/// Anchors whose last look-up is remembered.
const MAX_ANCHORS: usize = 4096;
const PER_PAGE: usize = 50;
/// 400 jobs of a run.
const MAX_PAGES: usize = 8;
/// A job is some kilobytes with its steps.
const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// So long is an answer good: then the job is looked up again.
const GOOD_FOR: Duration = Duration::from_secs(10 * 60);
const LONGEST_QUIET: Duration = Duration::from_secs(60 * 60);
const SHORTEST_QUIET: Duration = Duration::from_secs(60);

/// What the API says.
#[derive(Clone, Debug)]
pub struct Found {
    /// By the names of a token's claims.
    pub claims: Map<String, Value>,
    /// Until it is asked again.
    pub until: WallUs,
}

/// The App of one issuer. All threads share it.
pub struct GithubApp {
    config: Config,
    tolerance: Duration,
    credential: Credential,
    fetcher: Arc<Fetcher>,
    clock: SharedClock,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    tried: HashMap<u64, Instant>,
    quiet_until: Option<Instant>,
}

impl GithubApp {
    /// The App of an issuer, where it has one. Reads its key; nothing is asked yet.
    ///
    /// # Errors
    /// [`LookupError::Key`]
    pub fn start(
        issuer: &Issuer,
        fetcher: &Arc<Fetcher>,
        clock: &SharedClock,
    ) -> Result<Option<Self>, LookupError> {
        let Some(config) = issuer.github_app.clone() else { return Ok(None) };
        Ok(Some(Self {
            credential: Credential::load(&config)?,
            config,
            tolerance: issuer.clock_skew.saturating_add(issuer.max_age_at_start),
            fetcher: Arc::clone(fetcher),
            clock: Arc::clone(clock),
            memory: Mutex::default(),
        }))
    }

    /// Looks for the job of an anchor.
    ///
    /// # Errors
    /// See [`LookupError`].
    ///
    /// # Cancel safety
    /// A call that is dropped has used up its attempt.
    pub async fn look_up(
        &self,
        environment: &Environment,
        anchor: &Anchor,
    ) -> Result<Found, LookupError> {
        let hints = Hints::of(environment, &self.config.runners)?;
        self.may_ask(anchor.id.id)?;
        let late = || LookupError::Fetch(FetchError::Timeout(self.config.api.host().to_owned()));
        let asking = self.find(&hints, anchor.started);
        let claims = tokio::time::timeout(PATIENCE, asking).await.map_err(|_late| late())??;
        let good_us = i64::try_from(GOOD_FOR.as_micros()).unwrap_or(i64::MAX);
        Ok(Found { claims, until: WallUs(self.clock.wall().0.saturating_add(good_us)) })
    }

    async fn find(
        &self,
        hints: &Hints,
        started: WallUs,
    ) -> Result<Map<String, Value>, LookupError> {
        let Hints { repository, run, attempt, .. } = hints;
        let path = format!("/repos/{repository}/actions/runs/{run}/attempts/{attempt}");
        let url = self.config.api.clone().below(&path);
        let run: Run = parse(&self.read(url.clone()).await?)?;
        run.is_the_one(hints)?;
        let mut jobs = Vec::new();
        for page in 1..=MAX_PAGES {
            let url = url.clone().below("/jobs").with_query("per_page", &PER_PAGE.to_string());
            let page: Page = parse(&self.read(url.with_query("page", &page.to_string())).await?)?;
            let count = page.jobs.len();
            jobs.extend(page.jobs.into_iter().filter(|job| job.is_running_on(&hints.runner)));
            if count < PER_PAGE {
                let job = answer::only(jobs, hints, started, self.tolerance)?;
                return Ok(answer::claims(&run, &job));
            }
        }
        Err(LookupError::TooMany)
    }

    async fn read(&self, url: HttpUrl) -> Result<Bytes, LookupError> {
        let token = self.credential.token(self).await?;
        let request = Request::get(url).authorized("Bearer", &token)?;
        let answer = self.ask(request.answer_at_most(MAX_PAGE_BYTES)).await;
        if matches!(answer, Err(LookupError::Credential)) {
            self.credential.forget().await;
        }
        answer
    }

    async fn ask(&self, request: Request) -> Result<Bytes, LookupError> {
        self.is_quiet()?;
        let request = request.field(
            HeaderName::from_static("x-github-api-version"),
            HeaderValue::from_static("2022-11-28"),
        );
        let answer = self.fetcher.exchange(request).await?;
        let number =
            |name: &str| -> Option<u64> { answer.headers().get(name)?.to_str().ok()?.parse().ok() };
        let is_spent = number("x-ratelimit-remaining") == Some(0);
        match answer.status().as_u16() {
            200 | 201 => Ok(answer.into_body()),
            404 => Err(LookupError::NotFound),
            429 | 403 if is_spent || answer.headers().contains_key("retry-after") => {
                let now_s = u64::try_from(self.clock.wall().0 / 1_000_000).unwrap_or_default();
                let reset = number("x-ratelimit-reset").map(|at| at.saturating_sub(now_s));
                let wait = Duration::from_secs(number("retry-after").or(reset).unwrap_or_default());
                let wait = wait.clamp(SHORTEST_QUIET, LONGEST_QUIET);
                self.memory().quiet_until = self.clock.mono().checked_add(wait);
                Err(LookupError::RateLimited)
            }
            401 | 403 => Err(LookupError::Credential),
            _ => {
                let (host, status) = (self.config.api.host().to_owned(), answer.status());
                Err(FetchError::Status { host, status }.into())
            }
        }
    }

    fn is_quiet(&self) -> Result<(), LookupError> {
        let until = self.memory().quiet_until;
        if until.is_some_and(|until| self.clock.mono() < until) {
            return Err(LookupError::RateLimited);
        }
        Ok(())
    }

    fn may_ask(&self, anchor: u64) -> Result<(), LookupError> {
        self.is_quiet()?;
        let now = self.clock.mono();
        let mut memory = self.memory();
        memory.tried.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        if memory.tried.contains_key(&anchor) || memory.tried.len() >= MAX_ANCHORS {
            return Err(LookupError::TooOften);
        }
        memory.tried.insert(anchor, now);
        Ok(())
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not the key.
impl fmt::Debug for GithubApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GithubApp").field("config", &self.config).finish_non_exhaustive()
    }
}

fn parse<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, LookupError> {
    let Strict(value) = serde_json::from_slice(answer).map_err(|_opaque| LookupError::Answer)?;
    serde_json::from_value(value).map_err(|_opaque| LookupError::Answer)
}

#[cfg(test)]
mod tests;
