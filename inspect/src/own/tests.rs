use std::collections::HashSet;

use super::*;
use crate::engine::Engine;
use crate::known::Known;

#[test]
fn holds_more_formats_than_promised() {
    let all = definitions().unwrap();
    assert!(all.len() >= 250, "{}", all.len());
    let ids: HashSet<&str> = all.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids.len(), all.len());
}

#[test]
fn every_rule_is_complete_and_compiles() {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let mut wrong = Vec::new();
    for definition in definitions().unwrap() {
        let is_complete = definition.source.starts_with("https://")
            && !definition.description.is_empty()
            && definition.id.bytes().all(is_plain);
        let compiled = definition
            .rule()
            .map_err(|error| error.to_string())
            .and_then(|rule| Engine::new(vec![rule]).map_err(|error| error.to_string()));
        wrong.extend((!is_complete).then(|| definition.id.clone()));
        wrong.extend(compiled.err());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn refuses_what_is_no_rule() {
    assert!(parse("[[rule]]\nid = 'a'\ndescription = 'b'\nsource = 'c'\nkeyword = ['d']").is_err());
    let rule = |fields: &str| {
        let text = format!("[[rule]]\nid = 'a'\ndescription = 'b'\nsource = 'c'\n{fields}");
        parse(&text).unwrap().remove(0).rule()
    };
    assert!(rule("value = 'abc_[0-9]{8}'").is_ok());
    assert!(rule("value = '[0-9]{8}'").is_err());
    assert!(rule("value = 'abc_[0-9]{8}'\npattern = 'abc'").is_err());
    assert!(rule("value = 'abc_[0-9]{8}'\nkeywords = ['ab']").is_err());
    assert!(rule("value = 'abc_[0-9]{8}'\nkeywords = ['ABC']").is_err());
    assert!(rule("value = 'abc_[0-9]{8}'\nfilter = { not = ['('] }").is_err());
}

#[test]
fn finds_a_value_in_every_kind_of_assignment() {
    let text = "[[rule]]\nid = 'a'\ndescription = 'b'\nsource = 'c'\ncontext = ['message bird']\nvalue = '[0-9a-z]{25}'";
    let engine = Engine::new(vec![parse(text).unwrap().remove(0).rule().unwrap()]).unwrap();
    let value = "yikbl4u2ucs8ti3g5hfw0ynp6";
    for before in [
        "messagebirdToken = '",
        "MESSAGE_BIRD_TOKEN=",
        "message-bird.api-key: ",
        "\"message_bird_token\": \"",
        "messageBirdKey := `",
        "$messageBirdKey .= \"",
        "System.setProperty(\"MESSAGEBIRD_KEY\", \"",
        "<message_birdToken>\n    ",
        "var messageBirdToken string = \"",
        "  \"messagebirdToken\" => \"",
        "MESSAGEBIRD_TOKEN ?= \"",
        "MESSAGEBIRD_TOKEN :::= \"",
        "- name: MESSAGEBIRD_KEY\n  value: \"",
        "<add key=\"MessageBirdKey\" value=\"",
        "{\"name\": \"MESSAGEBIRD_KEY\", \"value\": \"",
        "--message-bird-token ",
        "const messageBirdKey: &str = \"",
        "env['MESSAGEBIRD_KEY'] = '",
        "messageBirdToken = String(\"",
        "message_bird_token=\\\"",
        "os.getenv('MESSAGEBIRD_KEY') or '",
    ] {
        let whole = format!("x\n{before}{value}\"\n");
        let found = engine.find(whole.as_bytes(), &Known::default());
        let spans: Vec<_> = found.iter().map(|one| whole.get(one.span.clone()).unwrap()).collect();
        assert_eq!(spans, [value], "{before}");
    }
}
