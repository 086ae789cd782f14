use crate::config::identity::{Algorithm, KeyLocation, Kind};
use crate::config::{Config, ConfigError};

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text) {
        Err(ConfigError::Invalid(problems)) => problems,
        Ok(_) => Vec::new(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn defaults_depend_on_the_kind() {
    let text = r#"
        [[identity.issuer]]
        name = "gh"
        issuer = "https://token.actions.githubusercontent.com"
        kind = "github"
        audience = "weir"
        claims = { repository_owner_id = "42" }
        [[identity.issuer]]
        name = "gl"
        issuer = "https://gitlab.example"
        kind = "gitlab"
        audience = "weir"
        claims = { runner_id = ["7", "8"] }
        [[identity.issuer]]
        name = "az"
        issuer = "https://vstoken.dev.azure.com/0b1c"
        kind = "azure-devops"
        claims = { sub = "p://org/project/pipeline" }
        [[identity.issuer]]
        name = "k8s"
        issuer = "https://cluster.example/id/1"
        kind = "kubernetes"
        audience = "weir"
        jwks_file = "/etc/weir/cluster.jwks"
    "#;
    let all = Config::parse(text).unwrap().identity.issuers;
    assert_eq!(
        all.iter().map(|i| i.kind).collect::<Vec<_>>(),
        [Kind::Github, Kind::Gitlab, Kind::AzureDevops, Kind::Kubernetes]
    );
    assert_eq!(all[0].algorithms, [Algorithm::Rs256]);
    assert_eq!(all[0].request_hosts[0].to_string(), "*.actions.githubusercontent.com");
    assert_eq!((all[0].max_lifetime.as_secs(), all[0].clock_skew.as_secs()), (3600, 60));
    assert_eq!((all[0].max_age_at_start.as_secs(), all[1].max_age_at_start.as_secs()), (0, 600));
    assert_eq!(all[1].request_hosts[0].to_string(), "gitlab.example");
    assert_eq!(all[2].audience, "api://AzureADTokenExchange");
    assert_eq!(all[3].algorithms, [Algorithm::Rs256, Algorithm::Es256]);
    assert_eq!(all[3].keys, KeyLocation::File("/etc/weir/cluster.jwks".into()));
}

#[test]
fn every_problem_of_every_issuer_is_reported() {
    let text = r#"
        [[identity.issuer]]
        name = "a b"
        issuer = "http://idp.example"
        kind = "generic"
        algorithms = ["RS256", "none", "HS256", "RS256"]
        clock_skew = "151s"
        max_lifetime = "8d"
        [[identity.issuer]]
        name = "two"
        issuer = "https://idp.example/?x"
        kind = "people"
        audience = "weir"
        jwks_url = "https://idp.example/jwks"
        jwks_file = "/x"
        claims = { iss = "x", groups = [] }
        danger_allow_ssh_rerun = true
        [[identity.issuer]]
        name = "two"
        issuer = "http://192.0.2.1/"
        kind = "people"
        audience = ""
        algorithms = []
        danger_allow_http = true
        request_hosts = ["a b"]
    "#;
    let found = problems(text);
    for key in [
        "[0].name",
        "[0].issuer",
        "[0].audience",
        "[0].algorithms[1]",
        "[0].algorithms[2]",
        "[0].algorithms[3]",
        "[0].clock_skew",
        "[0].max_lifetime",
        "[1].issuer",
        "[1].jwks_file",
        "[1].claims.iss",
        "[1].claims.groups",
        "[1].danger_allow_ssh_rerun",
        "[2].name",
        "[2].issuer",
        "[2].audience",
        "[2].algorithms",
        "[2].request_hosts[0]",
    ] {
        let key = format!("identity.issuer{key}: ");
        assert!(found.iter().any(|p| p.starts_with(&key)), "{key} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 18, "{found:#?}");
}

#[test]
fn issuers_that_strangers_share_need_a_claim() {
    for (kind, issuer) in [
        ("github", "https://token.actions.githubusercontent.com"),
        ("gitlab", "https://gitlab.com"),
        ("buildkite", "https://agent.buildkite.com"),
        ("azure-devops", "https://vstoken.dev.azure.com/0b1c"),
        ("circleci", "https://oidc.circleci.com"),
    ] {
        let text = format!(
            "[[identity.issuer]]\nname = \"x\"\nissuer = \"{issuer}\"\nkind = \"{kind}\"\n\
             audience = \"weir\"\nclaims = {{ actor = \"alice\" }}\n"
        );
        assert_eq!(problems(&text).len(), 1, "{kind}");
    }
}

#[test]
fn plain_http_is_for_loopback_addresses_only() {
    let text = |host: &str, danger: bool| {
        format!(
            "[[identity.issuer]]\nname = \"x\"\nissuer = \"http://{host}:4455\"\nkind = \"people\"\n\
             audience = \"weir\"\ndanger_allow_http = {danger}\n"
        )
    };
    assert_eq!(problems(&text("127.0.0.1", true)), [""; 0]);
    assert_eq!(problems(&text("[::1]", true)), [""; 0]);
    assert_eq!(problems(&text("127.0.0.1", false)).len(), 1);
    assert_eq!(problems(&text("localhost", true)).len(), 1);
    assert_eq!(problems(&text("192.0.2.1", true)).len(), 1);
}

#[test]
fn an_app_is_complete_and_of_github() {
    let text = |kind: &str, more: &str| {
        format!(
            "[[identity.issuer]]\nname = \"x\"\nissuer = \"https://x.example\"\nkind = \"{kind}\"\n\
             audience = \"weir\"\n{more}\n"
        )
    };
    let all = "app_id = \"1\"\napp_key_file = \"/k\"\napp_installation = 9\napp_runners = [\"a\", \"b-*\"]";
    let config = Config::parse(&text("github", all)).unwrap();
    let app = config.identity.issuers[0].github_app.as_ref().unwrap();
    assert_eq!(app.api.to_string(), "https://api.github.com/");
    assert_eq!((app.installation, app.runners.len()), (9, 2));
    for (kind, more, count) in [
        ("generic", all, 4),
        ("github", "app_runners = [\"a\"]", 1),
        ("github", "app_id = \"1\"", 3),
        ("github", &all.replace("b-*", "*"), 1),
        ("github", &all.replace("b-*", "b*c"), 1),
        ("github", &all.replace("\"1\"", "\"a b\""), 1),
        ("github", &format!("{all}\napp_api = \"http://api.example\""), 1),
    ] {
        let found = problems(&text(kind, more));
        assert_eq!(found.len(), count, "{kind} {more}: {found:#?}");
    }
}

#[test]
fn a_trust_domain_needs_its_name_and_keys() {
    let text = |issuer: &str, more: &str| {
        format!(
            "[[identity.issuer]]\nname = \"x\"\nissuer = \"{issuer}\"\nkind = \"spiffe\"\n\
             audience = \"weir\"\n{more}\n"
        )
    };
    let config = Config::parse(&text("spiffe://a_b.example", "jwks_file = \"/b\"")).unwrap();
    assert_eq!(config.identity.issuers[0].algorithms, [Algorithm::Rs256, Algorithm::Es256]);
    for (issuer, more) in [
        ("spiffe://a.example", ""),
        ("spiffe://a.example/x", "jwks_file = \"/b\""),
        ("https://a.example", "jwks_file = \"/b\""),
        ("spiffe://A.example", "jwks_file = \"/b\""),
        ("spiffe://a.example", "jwks_url = \"http://a.example/b\""),
    ] {
        assert_eq!(problems(&text(issuer, more)).len(), 1, "{issuer} {more}");
    }
}
