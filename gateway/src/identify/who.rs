//! Who a process acts for: a person or a CI job that a provider vouched for, or only a user id.
//!
//! - input: a verified identity and how the process is bound to it; else the kernel's user id
//! - output: [`Who`], shared by all processes of one job or login, as the record shows it
//! - bound: texts of at most `limits::MAX_IDENTITY_TEXT_BYTES`, `limits::MAX_IDENTITY_GROUPS` groups
//! - on failure: cannot fail; what is not known is empty

use std::collections::BTreeMap;
use std::sync::Arc;

use super::oidc::claims;
use super::oidc::verify::VerifiedToken;

/// Who. All texts but `method` and `confidence` are a provider's or the user database's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// For people to read: `acme/app#deploy`, `alice@corp.example`, `user:root`.
    pub display: Arc<str>,
    /// How it is known: `github_oidc`, `github_app`, `person_oidc`, …; `uid` without a provider.
    pub method: &'static str,
    /// How sure it is that the process belongs to it: `fork`, `walked`, `cgroup`, `session`; `api`
    /// where no token says so; `uid`.
    pub confidence: &'static str,
    /// `active`, `expired` (its job or login has ended or was revoked), or empty without a provider.
    pub state: &'static str,
    /// Issuer URL.
    pub issuer: Arc<str>,
    /// `sub`
    pub subject: Arc<str>,
    /// Groups of a person.
    pub groups: Vec<Arc<str>>,
    /// Repository or project, as the vendor names it, with its stable id behind `#` where it has one.
    pub repository: Arc<str>,
    /// Workflow or pipeline.
    pub workflow: Arc<str>,
    /// Run of it, with the attempt.
    pub run: Arc<str>,
    /// Job of the run, by the vendor's id.
    pub ci_job: Arc<str>,
    /// Who started it.
    pub actor: Arc<str>,
    /// Runner or agent.
    pub runner: Arc<str>,
    /// Every id of the token that policy may look at, by the vendor's names of the claims.
    pub ids: Vec<(Arc<str>, Arc<str>)>,
}

impl Who {
    /// Whether it is known without a verified token, from a vendor's API.
    pub fn is_looked_up(&self) -> bool {
        self.method == claims::LOOKED_UP
    }

    /// Only a user of the host, as the kernel knows it.
    pub fn user(name: &str) -> Self {
        Self { display: name.into(), method: "uid", confidence: "uid", ..Self::default() }
    }

    /// A member of a job that is over, and of which nothing else is known any more.
    pub fn expired() -> Self {
        Self { display: "expired".into(), state: "expired", ..Self::default() }
    }

    /// Whom a verified token speaks of.
    pub fn verified(token: &VerifiedToken) -> Self {
        Self::vouched(token.identity(), &token.issuer().issuer)
    }

    /// Whom an issuer vouches for.
    pub fn vouched(identity: &claims::Identity, issuer: &str) -> Self {
        let claims::Identity { ids, groups, method, display, subject, .. } = identity;
        let first = |names: &[&str]| -> Arc<str> {
            names
                .iter()
                .find_map(|name| ids.get(name))
                .map_or_else(Arc::default, |id| id.as_str().into())
        };
        Self {
            display: display.as_str().into(),
            method,
            confidence: "",
            state: "active",
            issuer: issuer.into(),
            subject: subject.as_str().into(),
            groups: groups.iter().map(|group| group.as_str().into()).collect(),
            repository: repository(ids),
            workflow: first(&WORKFLOW),
            run: match (first(&RUN), ids.get("run_attempt")) {
                (run, Some(attempt)) => format!("{run}.{attempt}").into(),
                (run, None) => run,
            },
            ci_job: first(&JOB),
            actor: first(&ACTOR),
            runner: first(&RUNNER),
            ids: ids.iter().map(|(name, id)| ((*name).into(), id.as_str().into())).collect(),
        }
    }
}

/// The vendors' names of the claims, of which a token has those of one vendor.
const WORKFLOW: [&str; 8] = [
    "workflow_ref",
    "workflow",
    "ci_config_ref_uri",
    "pipeline_slug",
    "oidc.circleci.com/workflow-id",
    "def_id",
    "branchName",
    "kubernetes.io.serviceaccount.name",
];
const RUN: [&str; 6] = [
    "run_id",
    "pipeline_id",
    "build_number",
    "oidc.circleci.com/pipeline-id",
    "pipelineUuid",
    "kubernetes.io.pod.uid",
];
const JOB: [&str; 4] = ["check_run_id", "job_id", "oidc.circleci.com/job-id", "stepUuid"];
const ACTOR: [&str; 4] = ["actor", "user_login", "email", "preferred_username"];
const RUNNER: [&str; 4] =
    ["runner_id", "agent_id", "kubernetes.io.node.name", "runner_environment"];
/// Names of what is built, with those of their stable ids.
const REPOSITORY: [(&str, &str); 6] = [
    ("repository", "repository_id"),
    ("project_path", "project_id"),
    ("repositoryUuid", ""),
    ("oidc.circleci.com/vcs-origin", "oidc.circleci.com/project-id"),
    ("rpo_uri", "rpo_id"),
    ("kubernetes.io.namespace", ""),
];

fn repository(ids: &BTreeMap<&'static str, String>) -> Arc<str> {
    let found = REPOSITORY.iter().find_map(|(name, id)| Some((ids.get(name)?, ids.get(id))));
    match found {
        Some((name, Some(id))) => format!("{name}#{id}").into(),
        Some((name, None)) => name.as_str().into(),
        None => Arc::default(),
    }
}
