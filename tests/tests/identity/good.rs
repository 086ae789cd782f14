//! Tokens as vendors make them: each becomes the identity that policy needs.

use serde_json::{Value, json};

use crate::world::{World, claims};

/// Kind, configuration, claims, method, display, and some of the ids.
type Case = (&'static str, &'static str, Value, &'static str, &'static str, Value);

fn ci_systems() -> Vec<Case> {
    vec![
        (
            "github",
            "claims = { repository_owner_id = \"42\", job_workflow_ref = [\"acme/shared/.github/workflows/b.yml@refs/tags/v1\"] }",
            json!({
                "sub": "repo:acme@42/app@77:environment:prod", "actor": "alice", "actor_id": "5",
                "repository": "acme/app", "repository_id": "77", "repository_owner": "acme",
                "repository_owner_id": "42", "repository_visibility": "private",
                "ref": "refs/heads/main", "ref_type": "branch", "base_ref": "", "head_ref": "",
                "sha": "0123456789abcdef0123456789abcdef01234567", "event_name": "push",
                "environment": "prod", "run_id": "99", "run_number": "12", "run_attempt": "1",
                "check_run_id": "4711", "runner_environment": "self-hosted", "workflow": "ci",
                "workflow_ref": "acme/app/.github/workflows/ci.yml@refs/heads/main",
                "job_workflow_ref": "acme/shared/.github/workflows/b.yml@refs/tags/v1",
                "jti": "0b9e8b1c-1",
            }),
            "github_oidc",
            "acme/app#99",
            json!({"repository_id": "77", "check_run_id": "4711", "environment": "prod", "event_name": "push"}),
        ),
        (
            "gitlab",
            "claims = { runner_id = \"7\", ref_protected = \"true\" }",
            json!({
                "sub": "project_path:acme/app:ref_type:branch:ref:main", "namespace_id": "3",
                "namespace_path": "acme", "project_id": "21", "project_path": "acme/app",
                "user_id": "1", "user_login": "alice", "user_email": "alice@corp.test",
                "user_identities": [{"provider": "github", "extern_uid": "1"}],
                "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main",
                "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
                "runner_id": 7, "runner_environment": "self-hosted", "project_visibility": "private",
                "ci_config_ref_uri": "gitlab.example/acme/app//.gitlab-ci.yml@refs/heads/main",
                "jti": "0b9e8b1c-2",
            }),
            "gitlab_oidc",
            "acme/app#302",
            json!({"project_id": "21", "runner_id": "7", "job_id": "302"}),
        ),
        (
            "buildkite",
            "claims = { organization_slug = \"acme\" }",
            json!({
                "sub": "organization:acme:pipeline:app:ref:refs/heads/main:commit:abc:step:test",
                "organization_slug": "acme", "pipeline_slug": "app", "build_number": 5,
                "build_branch": "main", "build_commit": "abc", "step_key": "test",
                "job_id": "0184990a", "agent_id": "0184990b", "runner_environment": "self-hosted",
            }),
            "buildkite_oidc",
            "app#5",
            json!({"agent_id": "0184990b", "organization_slug": "acme"}),
        ),
        (
            "circleci",
            "",
            json!({
                "sub": "org/0c/project/1d/user/2e", "aud": "weir",
                "oidc.circleci.com/project-id": "1d", "oidc.circleci.com/context-ids": ["c1", "c2"],
                "oidc.circleci.com/vcs-origin": "github.com/acme/app",
                "oidc.circleci.com/vcs-ref": "refs/heads/main",
                "oidc.circleci.com/ssh-rerun": false, "oidc.circleci.com/job-id": "3f",
            }),
            "circleci_oidc",
            "github.com/acme/app#3f",
            json!({"oidc.circleci.com/context-ids": "c1,c2", "oidc.circleci.com/ssh-rerun": "false"}),
        ),
        (
            "bitbucket",
            "audience = \"ari:cloud:bitbucket::workspace/9a\"",
            json!({
                "sub": "{repo}:{step}", "aud": "ari:cloud:bitbucket::workspace/9a",
                "repositoryUuid": "{repo}", "pipelineUuid": "{pipe}", "stepUuid": "{step}",
                "branchName": "main", "workspaceUuid": "{9a}",
            }),
            "bitbucket_oidc",
            "{repo}#{step}",
            json!({"pipelineUuid": "{pipe}", "branchName": "main"}),
        ),
        (
            "azure-devops",
            "claims = { sub = \"p://acme/app/ci\" }",
            json!({
                "sub": "p://acme/app/ci", "aud": "api://AzureADTokenExchange", "org_id": "o1",
                "prj_id": "p1", "def_id": "4", "rpo_id": "r1", "run_id": "812",
            }),
            "azure_devops_oidc",
            "p://acme/app/ci",
            json!({"org_id": "o1", "run_id": "812"}),
        ),
        (
            "jenkins",
            "",
            json!({"sub": "https://ci.corp.test/job/app/", "build_number": 17}),
            "jenkins_oidc",
            "https://ci.corp.test/job/app/",
            json!({"build_number": "17"}),
        ),
        (
            "kubernetes",
            "claims = { \"kubernetes.io.namespace\" = \"builds\" }",
            json!({
                "sub": "system:serviceaccount:builds:runner", "aud": ["weir"],
                "kubernetes.io": {
                    "namespace": "builds", "node": {"name": "n1", "uid": "nu"},
                    "pod": {"name": "runner-1", "uid": "pu"},
                    "serviceaccount": {"name": "runner", "uid": "su"},
                },
            }),
            "kubernetes_token",
            "system:serviceaccount:builds:runner",
            json!({"kubernetes.io.pod.uid": "pu", "kubernetes.io.serviceaccount.name": "runner"}),
        ),
        (
            "generic",
            "",
            json!({"sub": "machine-1", "groups": ["a", "b"]}),
            "generic_oidc",
            "machine-1",
            json!({}),
        ),
    ]
}

#[tokio::test]
async fn every_ci_system_becomes_an_identity() {
    let world = World::new();
    for (kind, config, more, method, display, ids) in ci_systems() {
        let name = if kind == "circleci" { "circle/org/0c" } else { kind };
        let issuer = world.issuer(name, kind, config);
        let verifier = world.verifier(&issuer);
        let token = world.idp.sign(&claims(&issuer.issuer, &more));
        let verified = match world.verify(&verifier, &token).await {
            Ok(verified) => verified,
            Err(error) => panic!("{kind}: {error}"),
        };
        let identity = verified.identity();
        assert_eq!((identity.method, identity.display.as_str()), (method, display), "{kind}");
        assert_eq!(identity.subject, more["sub"].as_str().unwrap(), "{kind}");
        for (name, value) in ids.as_object().unwrap() {
            assert_eq!(
                identity.ids.get(name.as_str()).map(String::as_str),
                value.as_str(),
                "{kind} {name}"
            );
        }
        let expires = verified.expires_at().0 - verified.issued_at().0;
        assert_eq!((expires, identity.expires_at), (300_000_000, verified.expires_at()));
    }
}

#[tokio::test]
async fn a_person_who_logged_in_is_named_with_groups() {
    let world = World::new();
    let issuer = world.issuer("corp", "people", "audience = \"weir-cli\"");
    let verifier = world.verifier(&issuer);
    let token = world.idp.login("bob")["id_token"].as_str().unwrap().to_owned();
    let verified = world.verify(&verifier, &token).await.unwrap();
    let identity = verified.identity();
    assert_eq!((identity.method, identity.subject.as_str()), ("person_oidc", "bob"));
    assert_eq!(
        (identity.display.as_str(), identity.ids["email"].as_str()),
        ("Bob", "bob@corp.test")
    );
    assert_eq!(identity.groups, ["eng", "approvers"]);
    // The same provider's access token is signed by the same key, and is something else.
    let access = world.idp.access_token();
    assert_eq!(world.outcome(&verifier, &access).await, "token_type");
}

#[tokio::test]
async fn a_token_that_lacks_what_its_kind_needs_is_refused() {
    let world = World::new();
    for (kind, config, mut more, ..) in ci_systems() {
        let needed = match kind {
            "github" => "run_id",
            "gitlab" => "job_id",
            "buildkite" => "pipeline_slug",
            "circleci" => "oidc.circleci.com/project-id",
            "bitbucket" => "stepUuid",
            _ => continue,
        };
        more[needed] = Value::Null;
        let name = if kind == "circleci" { "circle/org/0c" } else { kind };
        let issuer = world.issuer(name, kind, config);
        let token = world.idp.sign(&claims(&issuer.issuer, &more));
        assert_eq!(world.outcome(&world.verifier(&issuer), &token).await, "token_claim", "{kind}");
    }
}

#[tokio::test]
async fn a_circleci_job_with_ssh_access_is_refused_by_default() {
    let world = World::new();
    let rerun = |value: Value| json!({"oidc.circleci.com/project-id": "1d", "oidc.circleci.com/ssh-rerun": value});
    let strict = world.issuer("c/org/1", "circleci", "");
    let verifier = world.verifier(&strict);
    for (value, expected) in [
        (json!(true), "token_ssh_rerun"),
        (json!("true"), "token_ssh_rerun"),
        (json!(1), "token_ssh_rerun"),
        (json!(false), "ok"),
    ] {
        let token = world.idp.sign(&claims(&strict.issuer, &rerun(value.clone())));
        assert_eq!(world.outcome(&verifier, &token).await, expected, "{value}");
    }
    let open = world.issuer("c/org/1", "circleci", "danger_allow_ssh_rerun = true");
    let token = world.idp.sign(&claims(&open.issuer, &rerun(json!(true))));
    assert_eq!(world.outcome(&world.verifier(&open), &token).await, "ok");
}
