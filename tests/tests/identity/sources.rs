//! Tokens requested or found by what a job's environment says.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use weir_gateway::config::url::HttpUrl;
use weir_gateway::error::Faulty as _;
use weir_gateway::identify::source::{self, Environment, kubernetes};

use crate::world::{World, claims};

fn environment(variables: &[(&str, String)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Gets a token the way of `kind`, and verifies it.
async fn run(
    world: &World,
    kind: &str,
    config: &str,
    job: Value,
    variables: &[(&str, String)],
) -> String {
    let issuer = world.issuer(kind, kind, config);
    world.idp.job("credential", &job);
    let found = source::token(&environment(variables), &issuer, &world.fetcher).await;
    match found {
        Err(error) => error.outcome().to_owned(),
        Ok(token) => {
            let outcome = world.outcome(&world.verifier(&issuer), token.expose_secret()).await;
            format!("verified {outcome}")
        }
    }
}

fn github_job() -> Value {
    json!({
        "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app",
        "repository_id": "77", "repository_owner": "acme", "repository_owner_id": "42",
        "run_id": "99", "run_attempt": "1", "check_run_id": "4711",
    })
}

fn github(world: &World, credential: &str) -> Vec<(&'static str, String)> {
    let url = format!("{}/github/idtoken?api-version=2.0", world.idp.ci("github"));
    vec![
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", credential.to_owned()),
    ]
}

#[tokio::test]
async fn ci_systems_are_asked_with_the_job_s_credential() {
    let world = World::new();
    let variables = github(&world, "credential");
    assert_eq!(run(&world, "github", "", github_job(), &variables).await, "verified ok");

    let config = "claims = { organization_slug = \"acme\" }\nrequest_hosts = [\"127.0.0.1\"]";
    let job = json!({
        "sub": "organization:acme:pipeline:app", "organization_slug": "acme",
        "pipeline_slug": "app", "job_id": "j-1",
    });
    let variables = [
        ("BUILDKITE_AGENT_ENDPOINT", format!("{}/buildkite/v3", world.idp.ci("buildkite"))),
        ("BUILDKITE_JOB_ID", "j-1".to_owned()),
        ("BUILDKITE_AGENT_ACCESS_TOKEN", "credential".to_owned()),
    ];
    assert_eq!(run(&world, "buildkite", config, job, &variables).await, "verified ok");

    let config = "claims = { sub = \"p://acme/app/ci\" }";
    let job = json!({"sub": "p://acme/app/ci"});
    let variables = [
        ("SYSTEM_OIDCREQUESTURI", format!("{}/azure/oidctoken", world.idp.ci("azure-devops"))),
        ("SYSTEM_ACCESSTOKEN", "credential".to_owned()),
    ];
    assert_eq!(run(&world, "azure-devops", config, job, &variables).await, "verified ok");
}

#[tokio::test]
async fn a_refused_or_redirected_request_gives_no_token() {
    let world = World::new();
    let variables = github(&world, "wrong");
    assert_eq!(run(&world, "github", "", github_job(), &variables).await, "provider_status");
    world.idp.behave("github", "redirect-tokens");
    let variables = github(&world, "credential");
    assert_eq!(run(&world, "github", "", github_job(), &variables).await, "provider_redirect");
    assert_eq!(world.idp.asked("elsewhere", "tokens"), 0, "the credential went nowhere else");
    world.idp.behave("github", "good");
    // The job says where to ask; the configuration says where it may be asked.
    let config = "request_hosts = [\"*.actions.githubusercontent.com\"]";
    let asked = world.idp.asked("github", "tokens");
    assert_eq!(run(&world, "github", config, github_job(), &variables).await, "token_request_host");
    assert_eq!(world.idp.asked("github", "tokens"), asked);
}

#[tokio::test]
async fn a_token_in_the_environment_is_found_by_issuer_and_audience() {
    let world = World::new();
    let config = "claims = { runner_id = \"7\" }";
    let issuer = world.issuer("gitlab", "gitlab", config);
    let ours = json!({
        "project_id": "21", "project_path": "acme/app", "namespace_id": "3", "job_id": "302",
        "runner_id": "7",
    });
    let mut vault = ours.clone();
    vault["aud"] = json!("vault");
    let variables = [
        ("VAULT_ID_TOKEN", world.idp.sign(&claims(&issuer.issuer, &vault))),
        ("WHATEVER_THE_JOB_CALLS_IT", world.idp.sign(&claims(&issuer.issuer, &ours))),
    ];
    assert_eq!(run(&world, "gitlab", config, json!({}), &variables).await, "verified ok");
    assert_eq!(run(&world, "gitlab", config, json!({}), &variables[..1]).await, "token_not_found");
    // Found is not verified.
    let forged = json!({"claims": claims(&issuer.issuer, &ours), "key": "foreign"});
    let variables = [("T", world.idp.forge(&forged))];
    let outcome = run(&world, "gitlab", config, json!({}), &variables).await;
    assert_eq!(outcome, "verified token_signature");
}

#[tokio::test]
async fn a_node_agent_asks_the_cluster_for_a_pod_s_token() {
    let world = World::new();
    let issuer = world.issuer("cluster", "kubernetes", "");
    let server = HttpUrl::parse(&world.idp.ci("cluster")).unwrap();
    let pod = kubernetes::Pod {
        namespace: "builds".to_owned(),
        name: "runner-1".to_owned(),
        uid: "pu".to_owned(),
        service_account: "runner".to_owned(),
    };
    world.idp.job(
        "agent",
        &json!({
            "sub": "system:serviceaccount:builds:runner",
            "kubernetes.io": {
                "namespace": "builds", "pod": {"name": "runner-1", "uid": "pu"},
                "serviceaccount": {"name": "runner", "uid": "su"},
            },
        }),
    );
    let agent = SecretString::from("agent");
    let token = kubernetes::token(&server, &agent, &pod, &issuer, &world.fetcher).await.unwrap();
    let verifier = world.verifier(&issuer);
    let verified = world.verify(&verifier, token.expose_secret()).await.unwrap();
    assert_eq!(verified.identity().ids["kubernetes.io.pod.uid"], "pu");
}
