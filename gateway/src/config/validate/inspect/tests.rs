use super::*;
use crate::config::{Config, ConfigError};

fn parse(text: &str) -> Inspect {
    Config::parse(text).expect("valid").inspect
}

/// The first route that fits.
fn route_of<'a>(config: &'a Inspect, host: &str) -> &'a Route {
    let fits = |route: &&Route| route.hosts.iter().any(|pattern| pattern.matches(host));
    config.routes.iter().find(fits).unwrap_or(&config.default)
}

#[test]
fn hosts_of_models_are_tokenised_and_others_detected() {
    let config = parse("");
    for host in [
        "api.openai.com",
        "eu.api.openai.com",
        "api.anthropic.com",
        "generativelanguage.googleapis.com",
        "us-central1-aiplatform.googleapis.com",
        "api.individual.githubcopilot.com",
        "bedrock-runtime.eu-central-1.amazonaws.com",
        "acme.openai.azure.com",
    ] {
        let route = route_of(&config, host);
        let modes = (route.requests, route.responses, route.restore);
        assert_eq!(modes, (Mode::Tokenise, Mode::Redact, true), "{host}");
    }
    for host in [
        "openai.com",
        "evil-api.openai.com.example",
        "s3.eu-central-1.amazonaws.com",
        "bedrock-runtime.a.b.amazonaws.com",
        "xaiplatform.googleapis.com",
    ] {
        let route = route_of(&config, host);
        assert_eq!((route.requests, route.responses), (Mode::Detect, Mode::Detect), "{host}");
    }
    assert_eq!((config.egress, config.environment), (Egress::Refuse, true));
}

#[test]
fn every_host_of_a_model_is_a_pattern() {
    assert_eq!(models(0).hosts.len(), MODEL_HOSTS.len());
}

#[test]
fn an_operators_route_comes_first() {
    let config = parse(
        "[inspect]\nrequests = \"redact\"\n[[inspect.route]]\nhosts = [\"api.openai.com\"]\n\
         requests = \"detect\"\nmax_body = \"1MiB\"\n",
    );
    let route = route_of(&config, "api.openai.com");
    assert_eq!((route.requests, route.max_body_bytes), (Mode::Detect, 1024 * 1024));
    assert_eq!(route_of(&config, "example.com").requests, Mode::Redact);
}

#[test]
fn the_key_is_made_only_where_none_is_named() {
    let config = parse("[inspect]\nstate_dir = \"/x\"\n");
    assert!(config.makes_key && config.fingerprint_key_file == Path::new("/x/fingerprint.key"));
    let config = parse("[inspect]\nfingerprint_key_file = \"/k\"\n");
    assert!(!config.makes_key && config.fingerprint_key_file == Path::new("/k"));
}

#[test]
fn every_problem_has_its_path() {
    let text = r#"
        [inspect]
        responses = "tokenise"
        max_body = "1GiB"
        fingerprint_key_file = "key"
        state_dir = "state"
        rules = ["rules.toml"]
        [[inspect.import]]
        file = "/rules.toml"
        sha256 = "abc"
        [[inspect.route]]
        hosts = []
        responses = "tokenise"
        [[inspect.known]]
        name = "a b"
        file = "value"
        hosts = ["a b"]
    "#;
    let Err(ConfigError::Invalid(problems)) = Config::parse(text) else { panic!("accepted") };
    for key in [
        "inspect.responses",
        "inspect.max_body",
        "inspect.fingerprint_key_file",
        "inspect.state_dir",
        "inspect.rules[0]",
        "inspect.import[0].sha256",
        "inspect.route[0].hosts",
        "inspect.route[0].responses",
        "inspect.known[0].name",
        "inspect.known[0].file",
        "inspect.known[0].hosts[0]",
    ] {
        assert!(problems.iter().any(|p| p.starts_with(&format!("{key}: "))), "{key}: {problems:?}");
    }
    assert_eq!(problems.len(), 11, "{problems:?}");
}
