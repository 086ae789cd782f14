//! Properties of matching: the whole text against a naive search, and any cutting of it.

use std::sync::Arc;

use proptest::prelude::*;
use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use super::*;
use crate::rule::Tier;

const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r";
const BASE64_LINE: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";

fn rule(id: &str, tier: Tier, pattern: &str, keywords: &[&str]) -> Rule {
    Rule {
        id: Arc::from(id),
        description: String::new(),
        tier,
        confidence: Confidence::Medium,
        pattern: pattern.to_owned(),
        keywords: keywords.iter().map(|word| (*word).to_owned()).collect(),
        filter: Default::default(),
        hosts: Vec::new(),
        source: String::new(),
    }
}

/// One rule of every kind.
fn rules() -> Vec<Rule> {
    use Tier::{Contextual, Prefixed};
    vec![
        rule("github", Prefixed, r"\b(gh[pousr]_[A-Za-z0-9]{36})\b", &["ghp_", "gho_", "ghs_"]),
        rule(
            "aws",
            Prefixed,
            r"\b((?:AKIA|ASIA|A3T[A-Z0-9])[A-Z2-7]{16})\b",
            &["akia", "asia", "a3t"],
        ),
        rule("openai", Prefixed, r"\bsk-[A-Za-z0-9_-]{20,}", &["sk-"]),
        rule("jwt", Prefixed, r"\beyJ[\w-]{10,300}\.eyJ[\w-]{10,}\.[\w-]{10,}", &["eyj"]),
        rule(
            "pem",
            Prefixed,
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\sA-Za-z0-9+/=]{64,}?-----END [A-Z ]{0,20}PRIVATE KEY-----",
            &["private key"],
        ),
        rule("telegram", Prefixed, r"\b([0-9]{8,10}:AA[\w-]{33})\b", &[":aa"]),
        rule("mailchimp", Prefixed, r"\b([a-f0-9]{32}-us[0-9]{1,2})\b", &["-us"]),
        rule("url", Prefixed, r"\b[a-z]{2,9}://[^\s:/@]{1,60}:([^\s:/@]{3,60})@", &["://"]),
        rule(
            "password",
            Contextual,
            r#"(?i)[\w.-]{0,50}?(?:password|passwd|secret|token)[ \t\w.-]{0,20}\s{0,3}(?:=|:|=>)[\s"']{0,5}([^\s"';,]{8,})"#,
            &["password", "passwd", "secret", "token"],
        ),
        rule(
            "tail",
            Contextual,
            r#"(?i)api_?key["'\s:=]{1,5}([a-z0-9]{16,40})(?:["'\s;]|\\[nr]|$)"#,
            &["apikey", "api_key"],
        ),
        rule("hex", Contextual, r"\b[a-f0-9]{24}\b", &["heroku"]),
        rule("branches", Prefixed, r"(?:AC=([a-f0-9]{8})|SK=([A-F0-9]{8,}))\b", &[]),
        rule("anywhere", Prefixed, r"\b[0-9]{9}\b", &[]),
        rule("wide", Contextual, r"dbconn.*pw=([a-z0-9]{6,40})\b", &["dbconn"]),
        rule("two", Prefixed, r"\bxox[ab]-(?:\d-)?[0-9a-zA-Z]{8,48}", &["xoxa", "xoxb"]),
    ]
}

fn engine() -> Engine {
    Engine::new(rules()).unwrap()
}

fn known() -> Known {
    Known::new([(7, b"hunter2hunter2".to_vec()), (9, b"hunter2hunter2-long".to_vec())])
}

fn pem(lines: usize) -> String {
    let body = format!("{BASE64_LINE}\n").repeat(lines);
    format!("-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----")
}

/// A text with the secret in it, and the secret.
fn examples() -> Vec<(String, String)> {
    let one = |text: &str, secret: &str| (text.replace("{}", secret), secret.to_owned());
    let token = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    vec![
        one("the token is {}, keep it", token),
        one("{}", token),
        one("export AWS_ACCESS_KEY_ID={}\n", "AKIAIOSFODNN7EXAMPLE"),
        one("key {} and", "sk-abcdefghijklmnopqrstuvwx0123"),
        one("Bearer {} ok", JWT),
        one("here:\n{}\nthat was it", &pem(1)),
        one("here:\n{}\nthat was it", &pem(12)),
        one("bot {} ok", "123456789:AAabcdefghijklmnopqrstuvwxyz0123456"),
        one("mail {};", "0123456789abcdef0123456789abcdef-us12"),
        one("postgres://weir:{}@db:5432/x", "s3cr3tpw"),
        one("DB_PASSWORD = \"{}\"\n", "correct-horse-battery"),
        one("my secret: {} yes", "abcdefghij"),
        one("api_key=\"{}\"", "0123456789abcdef0123"),
        one("api_key={}", "0123456789abcdef0123"),
        one("heroku is at {} ok", "0123456789abcdef01234567"),
        one("AC={} ok", "0123abcd"),
        one("SK={} ok", "0123ABCDEF"),
        one("ssn {} ok", "123456789"),
        one("use {} here", "hunter2hunter2"),
        one("use {} here", "hunter2hunter2-long"),
        one("token={}", "hunter2hunter2"),
        one("dbconn pw=abc with more pw={};", "0123456789"),
        one("slack {} ok", "xoxb-1-abcdefgh0123"),
    ]
}

/// Text, and secrets between brackets.
fn show(pieces: &[Piece]) -> String {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Secret { by, value, .. } => {
                out.extend_from_slice(format!("\u{ab}{by:?} ").as_bytes());
                out.extend_from_slice(value);
                out.extend_from_slice("\u{bb}".as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn whole(engine: &Engine, text: &[u8]) -> String {
    let mut pieces = Vec::new();
    let mut from = 0;
    for Match { span, by, confidence } in engine.find(text, &known()) {
        pieces.push(Piece::Text(text[from..span.start].to_vec()));
        from = span.end;
        let value = text[span].iter().take(limits::MAX_HELD_BYTES).copied().collect();
        pieces.push(Piece::Secret { by, confidence, value });
    }
    pieces.push(Piece::Text(text[from..].to_vec()));
    show(&pieces)
}

fn pieces(engine: &Engine, parts: &[&[u8]], end: End) -> Vec<Piece> {
    let mut channel = Channel::default();
    let mut out = Vec::new();
    for part in parts {
        channel.push(engine, &known(), part, &mut out);
        assert!(channel.text.len() <= engine.look_behind + 2 * limits::MAX_HELD_BYTES + part.len());
    }
    channel.finish(engine, &known(), end, &mut out);
    out
}

/// Every rule at every place, without any prefilter or window.
fn naive(engine: &Engine, text: &[u8]) -> Vec<Match> {
    let mut ready = Vec::new();
    for (index, compiled) in engine.rules.iter().enumerate() {
        let parts = pattern::take_apart(&compiled.rule.pattern).unwrap();
        let regex = Regex::builder().build_from_hir(&parts.whole).unwrap();
        let has_keyword = |start: usize, end: usize| {
            let around = &text[start.saturating_sub(96)..end.min(start + 96 + 16)];
            let around = String::from_utf8_lossy(around).to_ascii_lowercase();
            let keywords = &compiled.rule.keywords;
            keywords.is_empty() || keywords.iter().any(|word| around.contains(word))
        };
        for start in 0..text.len() {
            let mut captures = regex.create_captures();
            regex.captures(Input::new(text).range(start..).anchored(Anchored::Yes), &mut captures);
            let Some(matched) = captures.get_match() else { continue };
            let group = captures.iter().skip(1).flatten().find(|group| !group.is_empty());
            let span = group.map_or(matched.range(), |group| group.range());
            let is_inside = compiled.near.as_ref().is_none_or(|near| near.is_inside);
            let end = if is_inside { matched.end() } else { span.start };
            if has_keyword(start, end) && !crate::placeholder::is_one(&text[span.clone()]) {
                let (confidence, tier) = (Confidence::Medium, compiled.rule.tier);
                ready.push(Ready { rule: index, span, is_long: false, confidence, tier });
            }
        }
    }
    ready.sort_by_key(Ready::order);
    engine.merge(text, &known(), &RuleMatches(ready.into()))
}

#[test]
fn every_example_is_found() {
    let engine = engine();
    for (text, secret) in examples() {
        let found = engine.find(text.as_bytes(), &known());
        let values: Vec<&str> =
            found.iter().map(|found| text.get(found.span.clone()).unwrap()).collect();
        assert_eq!(values, [secret], "in {text}");
    }
}

#[test]
fn any_two_cuts_change_nothing() {
    let engine = engine();
    for (text, secret) in examples() {
        let text = format!("Some prose before it, with a key point: {text} and some after it.");
        let text = text.as_bytes();
        let expected = whole(&engine, text);
        assert!(
            expected.contains(&format!(" {}\u{bb}", secret.get(..512).unwrap_or(&secret))),
            "{expected}"
        );
        for first in 0..text.len() {
            let step = if text.len() > 300 { 37 } else { 5 };
            for second in (first..text.len()).step_by(step) {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(show(&pieces(&engine, &parts, End::Complete)), expected);
            }
        }
        for size in [1, 2, 3, 4, 7, 64] {
            let parts: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(show(&pieces(&engine, &parts, End::Complete)), expected);
        }
    }
}

#[test]
fn no_beginning_of_a_secret_leaves_before_it_is_judged() {
    let engine = engine();
    for (text, secret) in examples() {
        let at = text.find(&secret).unwrap();
        for cut in at + 1..at + secret.len() {
            let out = pieces(&engine, &[&text.as_bytes()[..cut]], End::Cut);
            let texts = out.iter().filter_map(|piece| match piece {
                Piece::Text(text) => Some(text.as_slice()),
                Piece::Secret { .. } => None,
            });
            let text_out = texts.collect::<Vec<_>>().concat();
            assert!(text_out.len() <= at, "{}", String::from_utf8_lossy(&text_out));
        }
    }
}

#[test]
fn a_long_value_is_replaced_and_dropped_to_its_end() {
    let engine = engine();
    let long = pem(40);
    let text = format!("a {long}\nb ghp_0123456789abcdefghijABCDEFGHIJ012345 c");
    let found = engine.find(text.as_bytes(), &known());
    assert_eq!(text.get(found[0].span.clone()).unwrap(), long);
    assert_eq!(found.len(), 2);
    for size in [1, 5, 100, 700, 9000] {
        let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let out = pieces(&engine, &parts, End::Complete);
        assert_eq!(show(&out), whole(&engine, text.as_bytes()));
        assert!(show(&out).contains("\u{bb}\nb \u{ab}"));
    }
    // Too long even for that: it ends at the cap, and what follows is looked at.
    let endless = format!("a {}", "sk-".to_owned() + &"x".repeat(limits::MAX_VALUE_BYTES + 100));
    let found = engine.find(endless.as_bytes(), &known());
    assert_eq!(found[0].span, 2..2 + limits::MAX_VALUE_BYTES);
}

/// Were it quadratic, each of these would take minutes.
#[test]
fn texts_made_to_be_slow_take_linear_time() {
    let engine = engine();
    for part in [
        "password=",
        "token ",
        "secret:x",
        "a://a:",
        "-----BEGIN PRIVATE KEY-----",
        "eyJ",
        "sk-",
        "a",
        "0",
        "heroku 0",
        "deadbeef",
        "ghp_",
        "1-us",
        "api_key=a",
        "AC=",
        "xoxb-1-",
        "hunter2",
    ] {
        let text = part.repeat(200_000 / part.len());
        let text = text.as_bytes();
        let parts: Vec<&[u8]> = text.chunks(1000).collect();
        let leaves = pieces(&engine, &parts, End::Complete);
        assert!(show(&leaves) == whole(&engine, text), "{part}");
    }
}

#[test]
fn own_placeholders_and_filtered_values_stay() {
    let engine = engine();
    let text = b"token ghp_WEIRABCDEFGH234567abcdefghijABCDEFGH ok";
    assert_eq!(engine.find(text, &known()).len(), 1);
    let secret = b"ghp_0123456789abcdefghijABCDEFGHIJ012345";
    let scope = crate::fingerprint::Key::new(vec![7; 32]).unwrap().scope(b"a");
    let text = format!("token {} ok", crate::placeholder::of(&scope, secret, 0));
    assert_eq!(engine.find(text.as_bytes(), &known()), []);
}

#[test]
fn a_bad_pattern_names_its_rule() {
    for pattern in ["(", "(?:[a-z]{1000}){1000}", "\\p{Greek}{4000}"] {
        let error = Engine::new(vec![rule("bad-one", Tier::Prefixed, pattern, &[])]).unwrap_err();
        assert!(error.to_string().starts_with("rule bad-one: "), "{error}");
    }
}

#[test]
fn rules_without_literal_and_keyword_are_told() {
    let slow: Vec<Arc<str>> = engine().slow_rules().map(|rule| Arc::clone(&rule.id)).collect();
    assert_eq!(slow, [Arc::from("anywhere")]);
}

/// Parts of texts: whole and broken secrets, contexts, words, edges.
fn part() -> impl Strategy<Value = String> {
    let examples: Vec<String> =
        examples().into_iter().flat_map(|(text, secret)| [text, secret]).collect();
    let words = [
        " ",
        "\n",
        "password",
        "secret: ",
        "token=",
        "\"",
        "api_key",
        "=",
        "the ",
        "of a ",
        "ghp_",
        "sk-",
        "-us",
        "://",
        "https",
        "heroku",
        "eyJ",
        ".",
        "-----BEGIN ",
        "@",
        "deadbeef",
        "12345678",
        "hunter2",
        "key",
        "AC=",
        "WEIR",
        "a",
        "0",
        "-",
        "xox",
        "12345678",
    ];
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    prop_oneof![
        1 => prop::sample::select(examples.clone()),
        1 => (prop::sample::select(examples), any::<prop::sample::Index>())
            .prop_map(|(text, at)| text.get(..at.index(text.len())).unwrap().to_owned()),
        3 => prop::sample::select(words),
        1 => "[a-zA-Z0-9 =:\"./-]{0,12}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(part(), 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_cutting_gives_the_same(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24)) {
        let engine = engine();
        let text = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let expected = whole(&engine, text);
        prop_assert_eq!(show(&pieces(&engine, &parts, End::Complete)), expected.clone());
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        prop_assert_eq!(show(&pieces(&engine, &bytes, End::Complete)), expected);
    }

    #[test]
    fn the_whole_text_is_searched_like_a_naive_search_would(text in text()) {
        let engine = engine();
        let found = engine.find(text.as_bytes(), &known());
        prop_assume!(found.iter().all(|found| found.span.len() < limits::MAX_HELD_BYTES));
        let places = |all: Vec<Match>| -> Vec<_> { all.into_iter().map(|m| (m.span, m.by)).collect() };
        prop_assert_eq!(places(found), places(naive(&engine, text.as_bytes())));
    }
}
