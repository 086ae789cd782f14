use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;
use crate::config::Config;

fn issuer(kind: &str, more: &str) -> Issuer {
    let text = format!(
        "[[identity.issuer]]\nname = \"ci\"\nissuer = \"https://ci.example/org/1\"\nkind = \"{kind}\"\n\
         audience = \"weir\"\n{more}\n"
    );
    Config::parse(&text).unwrap().identity.issuers.remove(0)
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn fetcher() -> Fetcher {
    Fetcher::new(rustls::RootCertStore::empty()).unwrap()
}

async fn outcome(variables: &[(&str, &str)], issuer: &Issuer) -> &'static str {
    let found = token(&environment(variables), issuer, &fetcher()).await;
    found.err().map_or("ok", |e| e.outcome())
}

fn jwt(claims: &Value) -> String {
    format!(
        "{}.{}.{}",
        B64.encode(r#"{"alg":"RS256"}"#),
        B64.encode(claims.to_string()),
        B64.encode("x")
    )
}

#[test]
fn an_environment_is_read_as_procfs_shows_it() {
    let found = Environment::parse(b"A=1\0B=x=y\0\0NOEQUALS\0C=\xff\0A=2\0D=");
    assert_eq!(found.variable("A").unwrap(), "1");
    assert_eq!(found.variable("B").unwrap(), "x=y");
    for absent in ["C", "D", "NOEQUALS"] {
        assert_eq!(found.variable(absent).unwrap_err().outcome(), "token_absent");
    }
    assert_eq!(format!("{found:?}"), r#"{"A", "B", "D"}"#);
}

#[tokio::test]
async fn hosts_that_nobody_configured_are_not_asked() {
    let github = issuer("github", "request_hosts = [\"*.actions.example\"]");
    for url in [
        "https://evil.example/",
        "https://actions.example.evil.example/",
        "https://actions.example/",
        "http://run.actions.example/",
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/",
    ] {
        let variables =
            [("ACTIONS_ID_TOKEN_REQUEST_URL", url), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t")];
        assert_eq!(outcome(&variables, &github).await, "token_request_host", "{url}");
    }
    let variables = [("ACTIONS_ID_TOKEN_REQUEST_URL", "https://a@run.actions.example/")];
    assert_eq!(outcome(&variables, &github).await, "token_variable");
    assert_eq!(outcome(&[], &github).await, "token_absent");
    let variables = [("ACTIONS_ID_TOKEN_REQUEST_URL", "https://run.actions.example/")];
    assert_eq!(outcome(&variables, &github).await, "token_absent");
}

#[tokio::test]
async fn a_job_id_cannot_leave_its_part_of_the_path() {
    let buildkite = issuer("buildkite", "claims = { organization_slug = \"acme\" }");
    let variables = [
        ("BUILDKITE_AGENT_ENDPOINT", "https://agent.buildkite.com/v3"),
        ("BUILDKITE_JOB_ID", "../../x"),
        ("BUILDKITE_AGENT_ACCESS_TOKEN", "t"),
    ];
    assert_eq!(outcome(&variables, &buildkite).await, "token_variable");
}

#[tokio::test]
async fn a_credential_with_a_line_break_is_not_sent() {
    let github = issuer("github", "request_hosts = [\"run.actions.example\"]");
    let variables = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://run.actions.example/"),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t\r\nHost: evil"),
    ];
    assert_eq!(outcome(&variables, &github).await, "provider_request");
}

#[tokio::test]
async fn the_token_of_the_issuer_for_us_is_found_under_any_name() {
    let gitlab = issuer("gitlab", "claims = { runner_id = \"7\" }");
    let iss = "https://ci.example/org/1";
    let good = jwt(&json!({"iss": iss, "aud": ["weir"], "exp": 20}));
    let variables = [
        ("A", jwt(&json!({"iss": iss, "aud": "vault", "exp": 90}))),
        ("B", jwt(&json!({"iss": "https://other.example", "aud": "weir", "exp": 90}))),
        ("C", jwt(&json!({"iss": iss, "aud": "weir", "exp": 10}))),
        ("D", good.clone()),
        ("E", "eyJ.eyJ.x".to_owned()),
        ("PATH", "/usr/bin".to_owned()),
    ];
    let variables: Environment =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let found = token(&variables, &gitlab, &fetcher()).await.unwrap();
    assert_eq!(found.expose_secret(), good);
    assert_eq!(outcome(&[("PATH", "/usr/bin")], &gitlab).await, "token_not_found");
    assert_eq!(outcome(&[], &issuer("people", "")).await, "token_not_ambient");
}

#[tokio::test]
async fn an_svid_is_found_by_the_trust_domain_of_its_subject() {
    let text = "[[identity.issuer]]\nname = \"m\"\nissuer = \"spiffe://mesh.example\"\nkind = \"spiffe\"\n\
                audience = \"weir\"\njwks_file = \"/bundle\"\n";
    let mesh = Config::parse(text).unwrap().identity.issuers.remove(0);
    let svid = |sub: &str| jwt(&json!({"sub": sub, "aud": ["weir"], "exp": 9}));
    let (own, other) = (svid("spiffe://mesh.example/x"), svid("spiffe://other.example/x"));
    let variables = [("A", other.as_str()), ("WEIR_TOKEN", own.as_str())];
    let found = token(&environment(&variables), &mesh, &fetcher()).await.unwrap();
    assert_eq!(found.expose_secret(), own);
    assert_eq!(outcome(&[("A", other.as_str())], &mesh).await, "token_not_found");
}

proptest! {
    #[test]
    fn any_environment_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let environment = Environment::parse(&bytes);
        prop_assert!(found::token(&environment, &issuer("generic", "")).is_none());
    }
}
