//! Who a verified token speaks of, by the claims that stay the same when somebody renames
//! something.
//!
//! - input: the claims of a verified token
//! - output: [`Identity`]; the job that a token belongs to
//! - bound: `limits::MAX_IDENTITY_TEXT_BYTES` a text, `limits::MAX_IDENTITY_GROUPS` groups
//! - on failure: [`TokenError::Claim`], [`TokenError::TooLong`]; nothing is cut, since a cut name
//!   could be somebody else's
//!
//! Every text here comes from outside: repositories, branches and people are named by strangers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::TokenError;
use super::typed::{Claim, Claims};
use crate::clock::WallUs;
use crate::config::identity::{Issuer, Kind};
use crate::limits::{MAX_IDENTITY_GROUPS, MAX_IDENTITY_TEXT_BYTES};

/// Who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it was established, such as `github_oidc`.
    pub method: &'static str,
    /// Name of the issuer in the configuration.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// For people to read; not for comparison.
    pub display: String,
    /// What the identity consists of, by the vendor's names of the claims.
    pub ids: BTreeMap<&'static str, String>,
    /// Groups of a person, or of a service.
    pub groups: Vec<String>,
    /// When the token expires.
    pub expires_at: WallUs,
}

/// The claims of a kind.
struct Shape {
    method: &'static str,
    /// Without these it is no token of this kind.
    needed: &'static [&'static str],
    /// Taken where they are.
    also: &'static [&'static str],
    /// The first that is there is shown, with the second list's first after a `#`.
    shown: (&'static [&'static str], &'static [&'static str]),
    /// Together they name one job that runs once; empty where no claim does.
    job: &'static [&'static str],
}

fn shape(kind: Kind) -> &'static Shape {
    match kind {
        Kind::Github => &GITHUB,
        Kind::Gitlab => &GITLAB,
        Kind::Buildkite => &BUILDKITE,
        Kind::Circleci => &CIRCLECI,
        Kind::Bitbucket => &BITBUCKET,
        Kind::AzureDevops => &AZURE_DEVOPS,
        Kind::Jenkins => &JENKINS,
        Kind::Kubernetes => &KUBERNETES,
        Kind::People => &PEOPLE,
        Kind::Generic => &GENERIC,
    }
}

/// A method by its name.
pub(in crate::identify) fn method(name: &str) -> Option<&'static str> {
    let all = [
        &GITHUB,
        &GITLAB,
        &BUILDKITE,
        &CIRCLECI,
        &BITBUCKET,
        &AZURE_DEVOPS,
        &JENKINS,
        &KUBERNETES,
        &PEOPLE,
        &GENERIC,
    ];
    all.iter().map(|shape| shape.method).find(|method| *method == name)
}

/// The identity of a verified token.
pub(super) fn identity(
    issuer: &Issuer,
    subject: &str,
    expires_at: WallUs,
    claims: &Claims,
) -> Result<Identity, TokenError> {
    let shape = shape(issuer.kind);
    let mut ids = BTreeMap::new();
    for name in shape.needed {
        let value = value(claims, name)?.ok_or(TokenError::Claim(name))?;
        ids.insert(*name, value);
    }
    for name in shape.also {
        if let Some(value) = value(claims, name)? {
            ids.insert(*name, value);
        }
    }
    let first = |names: &[&str]| names.iter().find_map(|name| ids.get(name).cloned());
    let display = match (first(shape.shown.0), first(shape.shown.1)) {
        (Some(what), Some(run)) => format!("{what}#{run}"),
        (Some(what), None) => what,
        (None, _) => subject.to_owned(),
    };
    let groups = match claims.claim(&issuer.groups_claim) {
        Some(Claim::List(groups)) => groups.clone(),
        _ => Vec::new(),
    };
    if groups.len() > MAX_IDENTITY_GROUPS
        || groups.iter().any(|group| group.len() > MAX_IDENTITY_TEXT_BYTES)
    {
        return Err(TokenError::TooLong(Cow::Borrowed("groups")));
    }
    Ok(Identity {
        method: shape.method,
        issuer: issuer.name.clone(),
        subject: bounded("sub", subject)?,
        display,
        ids,
        groups,
        expires_at,
    })
}

/// What names the job of a token, where its kind has such claims and the token has all of them.
pub(super) fn job(kind: Kind, claims: &Claims) -> Option<Vec<&str>> {
    let names = shape(kind).job;
    let values: Option<Vec<&str>> = names.iter().map(|name| claims.text(name)).collect();
    values.filter(|values| !values.is_empty())
}

fn value(claims: &Claims, name: &'static str) -> Result<Option<String>, TokenError> {
    match claims.claim(name) {
        None => Ok(None),
        Some(Claim::Text(text)) => bounded(name, text).map(Some),
        Some(Claim::Flag(flag)) => Ok(Some(flag.to_string())),
        Some(Claim::List(all)) => bounded(name, &all.join(",")).map(Some),
    }
}

fn bounded(name: &'static str, text: &str) -> Result<String, TokenError> {
    if text.len() > MAX_IDENTITY_TEXT_BYTES {
        return Err(TokenError::TooLong(Cow::Borrowed(name)));
    }
    Ok(text.to_owned())
}

/// `pull_request_target` and `workflow_run` have the identity of the base repository: policy on
/// such jobs needs `event_name` and `head_ref`, too.
const GITHUB: Shape = Shape {
    method: "github_oidc",
    needed: &["repository", "repository_id", "repository_owner", "repository_owner_id", "run_id"],
    also: &[
        "actor",
        "actor_id",
        "base_ref",
        "check_run_id",
        "enterprise",
        "enterprise_id",
        "environment",
        "event_name",
        "head_ref",
        "job_workflow_ref",
        "job_workflow_sha",
        "ref",
        "ref_type",
        "repository_visibility",
        "run_attempt",
        "run_number",
        "runner_environment",
        "sha",
        "workflow",
        "workflow_ref",
        "workflow_sha",
    ],
    shown: (&["repository"], &["run_id"]),
    job: &["run_id", "run_attempt", "check_run_id"],
};

/// In pipelines of merge requests from forks, `project_*` is the fork: pin `runner_id`, too.
const GITLAB: Shape = Shape {
    method: "gitlab_oidc",
    needed: &["project_id", "project_path", "namespace_id", "job_id"],
    also: &[
        "ci_config_ref_uri",
        "ci_config_sha",
        "deployment_tier",
        "environment",
        "environment_protected",
        "namespace_path",
        "pipeline_id",
        "pipeline_source",
        "project_visibility",
        "ref",
        "ref_path",
        "ref_protected",
        "ref_type",
        "runner_environment",
        "runner_id",
        "sha",
        "user_access_level",
        "user_email",
        "user_id",
        "user_login",
    ],
    shown: (&["project_path"], &["job_id"]),
    job: &["job_id"],
};

const BUILDKITE: Shape = Shape {
    method: "buildkite_oidc",
    needed: &["organization_slug", "pipeline_slug", "job_id"],
    also: &[
        "agent_id",
        "build_branch",
        "build_commit",
        "build_id",
        "build_number",
        "build_source",
        "build_tag",
        "cluster_id",
        "organization_id",
        "pipeline_id",
        "queue_id",
        "runner_environment",
        "step_key",
    ],
    shown: (&["pipeline_slug"], &["build_number"]),
    job: &["job_id"],
};

const CIRCLECI: Shape = Shape {
    method: "circleci_oidc",
    needed: &["oidc.circleci.com/project-id"],
    also: &[
        "oidc.circleci.com/context-ids",
        "oidc.circleci.com/job-id",
        "oidc.circleci.com/org-id",
        "oidc.circleci.com/pipeline-definition-id",
        "oidc.circleci.com/pipeline-id",
        "oidc.circleci.com/ssh-rerun",
        "oidc.circleci.com/vcs-origin",
        "oidc.circleci.com/vcs-ref",
        "oidc.circleci.com/workflow-id",
    ],
    shown: (
        &["oidc.circleci.com/vcs-origin", "oidc.circleci.com/project-id"],
        &["oidc.circleci.com/job-id"],
    ),
    job: &["oidc.circleci.com/job-id"],
};

const BITBUCKET: Shape = Shape {
    method: "bitbucket_oidc",
    needed: &["repositoryUuid", "stepUuid"],
    also: &["branchName", "deploymentEnvironmentUuid", "pipelineUuid", "workspaceUuid"],
    shown: (&["repositoryUuid"], &["stepUuid"]),
    job: &["pipelineUuid", "stepUuid"],
};

/// `run_id` is that of a whole pipeline, whose jobs may share a host: it names no job.
const AZURE_DEVOPS: Shape = Shape {
    method: "azure_devops_oidc",
    needed: &[],
    also: &["def_id", "org_id", "prj_id", "rpo_id", "rpo_ref", "rpo_uri", "rpo_ver", "run_id"],
    shown: (&[], &[]),
    job: &[],
};

/// A build may run on several nodes at once: nothing names one of them.
const JENKINS: Shape = Shape {
    method: "jenkins_oidc",
    needed: &[],
    also: &["build_number"],
    shown: (&[], &[]),
    job: &[],
};

/// The containers of a pod are several process trees: the pod names none of them.
const KUBERNETES: Shape = Shape {
    method: "kubernetes_token",
    needed: &["kubernetes.io.namespace", "kubernetes.io.serviceaccount.name"],
    also: &[
        "kubernetes.io.node.name",
        "kubernetes.io.node.uid",
        "kubernetes.io.pod.name",
        "kubernetes.io.pod.uid",
        "kubernetes.io.serviceaccount.uid",
    ],
    shown: (&[], &[]),
    job: &[],
};

const PEOPLE: Shape = Shape {
    method: "person_oidc",
    needed: &[],
    also: &["email", "email_verified", "name", "preferred_username"],
    shown: (&["name", "email"], &[]),
    job: &[],
};

const GENERIC: Shape =
    Shape { method: "generic_oidc", needed: &[], also: &[], shown: (&[], &[]), job: &[] };
