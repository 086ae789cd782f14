//! Why a job is not found through the API. Nothing of an answer is repeated.
//!
//! - input: made by the look-up
//! - output: a message, a fault, an outcome
//! - bound: names of variables and hosts
//! - on failure: cannot fail

use std::path::PathBuf;

use crate::error::{Fault, Faulty};
use crate::identify::fetch::FetchError;

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The App's key is of no use.
    #[error("reading the key of a GitHub App from {}: {what}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A variable that says where to look is absent or no such thing.
    #[error("looking a job up: {0} is absent or ill-formed")]
    Hint(&'static str),
    /// The runner is not one of `app_runners`.
    #[error("looking a job up: RUNNER_NAME is no runner of this host")]
    Runner,
    /// The App's installation has no such repository, or the repository no such run.
    #[error("looking a job up: the installation has no such run")]
    NotFound,
    /// No job of the run is in progress on that runner.
    #[error("looking a job up: no job of the run is in progress on the runner")]
    NoJob,
    /// More than one is.
    #[error("looking a job up: several jobs of the run are in progress on runners of that name")]
    Several,
    /// It is, but began at another time than the process tree.
    #[error("looking a job up: the job did not begin when the process tree did")]
    Started,
    /// The run has more than 400 jobs.
    #[error("looking a job up: the run has too many jobs")]
    TooMany,
    /// Not what was asked for.
    #[error("looking a job up: the answer is not about the run, or is none")]
    Answer,
    /// The App may not do this, or its key is not the right one.
    #[error("looking a job up: the app is not allowed to")]
    Credential,
    /// The App has asked too much.
    #[error("looking a job up: the api wants to be left alone for a while")]
    RateLimited,
    /// The process tree was looked up just now.
    #[error("looking a job up: that was tried just now")]
    TooOften,
    /// The API did not answer as it should.
    #[error("looking a job up: {0}")]
    Fetch(#[from] FetchError),
}

impl Faulty for LookupError {
    fn fault(&self) -> Fault {
        match self {
            Self::Key { .. } => Fault::Internal,
            Self::Hint(_) | Self::NotFound | Self::NoJob | Self::Several | Self::Started => {
                Fault::Downstream
            }
            Self::Runner => Fault::Policy,
            Self::TooMany | Self::TooOften => Fault::Capacity,
            Self::Answer | Self::Credential | Self::RateLimited => Fault::Upstream,
            Self::Fetch(error) => error.fault(),
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Key { .. } => "lookup_key",
            Self::Hint(_) => "lookup_hint",
            Self::Runner => "lookup_runner",
            Self::NotFound => "lookup_not_found",
            Self::NoJob => "lookup_no_job",
            Self::Several => "lookup_several",
            Self::Started => "lookup_started",
            Self::TooMany => "lookup_too_many",
            Self::Answer => "lookup_answer",
            Self::Credential => "lookup_credential",
            Self::RateLimited => "lookup_rate_limited",
            Self::TooOften => "lookup_too_often",
            Self::Fetch(error) => error.outcome(),
        }
    }
}
