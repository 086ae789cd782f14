//! The claims of each kind of token: which are needed, which are taken, what names the job.
//!
//! - input: a kind of issuer
//! - output: [`Shape`]
//! - bound: these lists
//! - on failure: cannot fail

use crate::config::identity::Kind;

/// The claims of a kind.
pub(super) struct Shape {
    pub(super) method: &'static str,
    /// Without these it is no token of this kind.
    pub(super) needed: &'static [&'static str],
    /// Taken where they are.
    pub(super) also: &'static [&'static str],
    /// The first that is there is shown, with the second list's first after a `#`.
    pub(super) shown: (&'static [&'static str], &'static [&'static str]),
    /// Together they name one job that runs once; empty where no claim does.
    pub(super) job: &'static [&'static str],
}

pub(super) fn shape(kind: Kind) -> &'static Shape {
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
        Kind::Spiffe => &SPIFFE,
        Kind::Generic => &GENERIC,
    }
}

/// Every one.
pub(super) const ALL: [&Shape; 12] = [
    &GITHUB,
    &GITHUB_APP,
    &GITLAB,
    &BUILDKITE,
    &CIRCLECI,
    &BITBUCKET,
    &AZURE_DEVOPS,
    &JENKINS,
    &KUBERNETES,
    &PEOPLE,
    &SPIFFE,
    &GENERIC,
];

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

/// What the API says of a job, by the names that its token would use. A branch comes without
/// `refs/heads/`, and is not called `ref` therefore.
pub(super) const GITHUB_APP: Shape = Shape {
    method: "github_app",
    needed: &[
        "repository",
        "repository_id",
        "repository_owner",
        "repository_owner_id",
        "run_id",
        "run_attempt",
        "check_run_id",
    ],
    also: &[
        "actor",
        "actor_id",
        "event_name",
        "head_branch",
        "head_repository",
        "repository_visibility",
        "run_number",
        "runner_id",
        "runner_name",
        "sha",
        "workflow",
        "workflow_path",
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

/// The id of a workload, of which several may run: it names no job.
const SPIFFE: Shape =
    Shape { method: "spiffe_jwt", needed: &[], also: &[], shown: (&[], &[]), job: &[] };

const GENERIC: Shape =
    Shape { method: "generic_oidc", needed: &[], also: &[], shown: (&[], &[]), job: &[] };
