//! What the environment says where to look, and what the API says is there.
//!
//! - input: variables; answers of the API
//! - output: the one job that fits all of it
//! - bound: the answers'
//! - on failure: [`LookupError`]

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::LookupError;
use crate::clock::WallUs;
use crate::identify::source::Environment;

const MAX_NAME_BYTES: usize = 256;
/// The worker starts some time after the job was given to its runner.
const SLACK: Duration = Duration::from_secs(60);

/// Where to look. It goes into a path.
#[derive(Debug)]
pub(super) struct Hints {
    pub(super) repository: String,
    pub(super) run: u64,
    pub(super) attempt: u64,
    pub(super) runner: String,
}

impl Hints {
    pub(super) fn of(environment: &Environment, runners: &[String]) -> Result<Self, LookupError> {
        let text = |name| environment.variable(name).map_err(|_absent| LookupError::Hint(name));
        let number = |name| {
            let text = text(name)?;
            let digits = text.bytes().all(|c| c.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| digits).ok_or(LookupError::Hint(name))
        };
        let repository = text("GITHUB_REPOSITORY")?;
        if !is_repository(repository) {
            return Err(LookupError::Hint("GITHUB_REPOSITORY"));
        }
        let runner = text("RUNNER_NAME")?;
        let is_ours = runners.iter().any(|own| match own.strip_suffix('*') {
            Some(start) => runner.starts_with(start),
            None => runner == own,
        });
        if !is_ours || runner.len() > MAX_NAME_BYTES {
            return Err(LookupError::Runner);
        }
        Ok(Self {
            repository: repository.to_owned(),
            run: number("GITHUB_RUN_ID")?,
            attempt: number("GITHUB_RUN_ATTEMPT")?,
            runner: runner.to_owned(),
        })
    }
}

/// `owner/name`
fn is_repository(text: &str) -> bool {
    let char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part =
        |part: &str| !part.is_empty() && part.chars().all(char) && !matches!(part, "." | "..");
    text.len() <= MAX_NAME_BYTES
        && text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// A run of a workflow.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    id: u64,
    run_attempt: u64,
    run_number: Option<u64>,
    name: Option<String>,
    path: Option<String>,
    event: Option<String>,
    head_branch: Option<String>,
    head_sha: Option<String>,
    actor: Option<Account>,
    repository: Repository,
    head_repository: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: u64,
    full_name: String,
    owner: Account,
    visibility: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    full_name: String,
}

#[derive(Debug, Deserialize)]
struct Account {
    id: u64,
    login: String,
}

/// Some jobs of a run.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) jobs: Vec<Job>,
}

/// A job.
#[derive(Debug, Deserialize)]
pub(super) struct Job {
    id: u64,
    run_id: u64,
    run_attempt: u64,
    status: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    runner_id: Option<u64>,
    runner_name: Option<String>,
}

impl Run {
    pub(super) fn is_the_one(&self, hints: &Hints) -> Result<(), LookupError> {
        let same = self.id == hints.run
            && self.run_attempt == hints.attempt
            && self.repository.full_name.eq_ignore_ascii_case(&hints.repository);
        if same { Ok(()) } else { Err(LookupError::Answer) }
    }
}

impl Job {
    pub(super) fn is_running_on(&self, runner: &str) -> bool {
        self.status == "in_progress"
            && self.completed_at.is_none()
            && self.runner_id.is_some()
            && self.runner_name.as_deref() == Some(runner)
    }

    fn started(&self) -> Option<WallUs> {
        let at = OffsetDateTime::parse(self.started_at.as_deref()?, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1000).ok().map(WallUs)
    }
}

/// The only one of those that run on the runner, if it began when the process tree did.
pub(super) fn only(
    jobs: Vec<Job>,
    hints: &Hints,
    started: WallUs,
    tolerance: Duration,
) -> Result<Job, LookupError> {
    let mut jobs = jobs.into_iter();
    let job = jobs.next().ok_or(LookupError::NoJob)?;
    if jobs.next().is_some() {
        return Err(LookupError::Several);
    }
    if (job.run_id, job.run_attempt) != (hints.run, hints.attempt) {
        return Err(LookupError::Answer);
    }
    let began = job.started().ok_or(LookupError::Answer)?;
    let apart_us = began.0.abs_diff(started.0);
    if u128::from(apart_us) > tolerance.saturating_add(SLACK).as_micros() {
        return Err(LookupError::Started);
    }
    Ok(job)
}

/// By the names of a token's claims. `id` of a job is that of its check run.
pub(super) fn claims(run: &Run, job: &Job) -> Map<String, Value> {
    let Repository { id, full_name, owner, visibility } = &run.repository;
    let said = json!({
        "repository": full_name,
        "repository_id": id.to_string(),
        "repository_owner": owner.login,
        "repository_owner_id": owner.id.to_string(),
        "repository_visibility": visibility,
        "run_id": run.id.to_string(),
        "run_attempt": run.run_attempt.to_string(),
        "run_number": run.run_number.map(|number| number.to_string()),
        "check_run_id": job.id.to_string(),
        "actor": run.actor.as_ref().map(|actor| &actor.login),
        "actor_id": run.actor.as_ref().map(|actor| actor.id.to_string()),
        "event_name": run.event,
        "head_branch": run.head_branch,
        "head_repository": run.head_repository.as_ref().map(|head| &head.full_name),
        "runner_id": job.runner_id.map(|id| id.to_string()),
        "runner_name": job.runner_name,
        "sha": run.head_sha,
        "workflow": run.name,
        "workflow_path": run.path,
    });
    if let Value::Object(said) = said { said } else { Map::new() }
}
