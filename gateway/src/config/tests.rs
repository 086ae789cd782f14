use super::*;

#[test]
fn the_shipped_file_parses_and_equals_the_defaults() {
    let shipped = Config::parse(include_str!("../../../deploy/weir.toml")).expect("shipped file");
    assert_eq!(shipped, Config::parse("").expect("defaults"));
}

#[test]
fn every_problem_is_reported_with_its_path() {
    let text = r#"
        [capture]
        cgroup = "/"
        exclude = ["10.0.0.0/33"]
        [gateway]
        head_timeout = "1 fortnight"
        [spool]
        max_size = "64MiB"
        [store]
        url = "clickhouse:9000"
    "#;
    let Err(ConfigError::Invalid(problems)) = Config::parse(text) else { panic!("accepted") };
    for key in [
        "capture.cgroup",
        "capture.exclude[0]",
        "gateway.head_timeout",
        "spool.max_size",
        "store.url",
    ] {
        assert!(problems.iter().any(|p| p.starts_with(key)), "{key} is missing in {problems:?}");
    }
    assert_eq!(problems.len(), 5, "{problems:?}");
}

#[test]
fn an_unknown_key_is_named() {
    let error = Config::parse("[gateway]\nwokers = 2\n").expect_err("accepted").to_string();
    assert!(error.contains("wokers"), "{error}");
}

#[test]
fn the_gateway_may_not_capture_itself() {
    let text = "[capture]\ncgroup = \"a\"\ngateway_cgroup = \"a/b\"\n";
    assert!(Config::parse(text).is_err());
}

#[test]
fn host_patterns_match_names_and_subdomains() {
    let below = HostPattern::parse("*.Example.com").expect("pattern");
    assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
    assert!(!below.matches("example.com") && !below.matches("evilexample.com"));
    let exact = HostPattern::parse("example.com").expect("pattern");
    assert!(exact.matches("example.com") && !exact.matches("a.example.com"));
    assert!(HostPattern::parse("").is_err() && HostPattern::parse("a b").is_err());
}

#[test]
fn dns_servers_and_names_are_checked() {
    let text = r#"
        [dns]
        port = 15443
        upstream = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.1", "dns.example:53", "192.0.2.1:0"]
        refuse = ["*.example.com", "a b"]
        max_inflight = 0
        timeout = "2m"
        [policy]
        dns_check = "enforce"
    "#;
    let Err(ConfigError::Invalid(problems)) = Config::parse(text) else { panic!("accepted") };
    for key in [
        "dns.port",
        "dns.upstream[2]",
        "dns.upstream[3]",
        "dns.upstream[4]",
        "dns.refuse[1]",
        "dns.max_inflight",
        "dns.timeout",
    ] {
        assert!(problems.iter().any(|p| p.starts_with(key)), "{key} is missing in {problems:?}");
    }
    assert_eq!(problems.len(), 7, "{problems:?}");
    assert!(Config::parse("[policy]\ndns_check = \"sometimes\"\n").is_err());
}

#[test]
fn bridges_are_device_names() {
    let parse = |name: &str| Config::parse(&format!("[capture]\nbridges = [{name:?}]"));
    assert_eq!(parse("br-0a1b2c3d4e5f").unwrap().capture.bridges, ["br-0a1b2c3d4e5f"]);
    for bad in ["", "-x", "a b", "a\"; drop", "a,b", "sixteen-chars-xx"] {
        assert!(parse(bad).unwrap_err().to_string().contains("capture.bridges[0]"), "{bad:?}");
    }
}
