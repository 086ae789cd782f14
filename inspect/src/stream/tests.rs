//! Every provider's stream, every cutting of it, against one masking of the whole text.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::engine::Engine;
use crate::judge::{Found, Judge, Verdict};
use crate::known::Known;
use crate::limits;
use crate::rule::{Confidence, Rule, Tier};

mod events;
mod framed;
mod wire;

fn texts() -> impl Iterator<Item = &'static wire::Shape> {
    wire::TEXTS.iter().chain(framed::TEXTS)
}

fn tools() -> impl Iterator<Item = &'static wire::Shape> {
    wire::TOOLS.iter().chain(framed::TOOLS)
}

fn shapes() -> impl Iterator<Item = &'static wire::Shape> {
    texts().chain(tools())
}

/// Rule, its pattern, an example.
const RULES: [(&str, &str, &str); 12] = [
    ("github", "ghp_[A-Za-z0-9]{36}", "ghp_aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3"),
    ("aws", "AKIA[A-Z0-9]{16}", "AKIAQ2W3E4R5T6Y7U8I9"),
    ("anthropic", "sk-ant-[a-z0-9]{8}-[A-Za-z0-9_-]{20}", "sk-ant-api03abc-qwertyuiopASDFGHJK_-"),
    ("slack", "xoxb-[0-9]{10}-[A-Za-z0-9]{12}", "xoxb-1234567890-AbCdEfGhIjKl"),
    ("npm", "npm_[A-Za-z0-9]{20}", "npm_abcdefghij0123456789"),
    ("stripe", "sk_live_[A-Za-z0-9]{16}", "sk_live_0123456789abcdef"),
    ("google", "AIza[A-Za-z0-9_-]{20}", "AIzaSyA-1234567890abcd_e"),
    ("url", "postgres://[a-z]+:([^@\\s]{6,64})@", "postgres://user:p\"\\ssw0rd\u{e9}x@db"),
    (
        "jwt",
        "eyJ[A-Za-z0-9_-]{8,40}\\.eyJ[A-Za-z0-9_-]{8,40}\\.[A-Za-z0-9_-]{8,40}",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ),
    (
        "pem",
        "-----BEGIN KEY-----[A-Za-z0-9+/=\\s]{8,80}-----END KEY-----",
        "-----BEGIN KEY-----\nMIIBabcd1234\nEFGH5678+/==\n-----END KEY-----",
    ),
    (
        "context",
        r#"api_key"?\s*[:=]\s*"?([A-Za-z0-9_]{16,40})"#,
        "\"api_key\": \"abcd1234efgh5678\" ",
    ),
    (
        "long",
        "-----BEGIN LONG-----[A-Za-z0-9+/=\\s]{8,8000}-----END LONG-----",
        "-----BEGIN LONG-----\nMIIBabcd1234\n-----END LONG-----",
    ),
];

pub(super) fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(compile);
    &ENGINE
}

fn compile() -> Engine {
    let rule = |(id, pattern, _): &(&str, &str, &str)| Rule {
        id: Arc::from(*id),
        description: String::new(),
        tier: Tier::Prefixed,
        confidence: Confidence::High,
        pattern: (*pattern).to_owned(),
        keywords: Vec::new(),
        filter: Default::default(),
        hosts: Vec::new(),
        source: String::new(),
    };
    Engine::new(RULES.iter().map(rule).collect()).unwrap()
}

/// Replaces what rules find by `<"rule">`, and known values by what the test says.
#[derive(Default)]
pub(super) struct Names {
    pub(super) keep: bool,
    pub(super) refuse: bool,
    pub(super) restore: Vec<u8>,
    pub(super) seen: Vec<String>,
}

impl Judge for Names {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        self.seen.push(format!("{} at {}", found.rule, found.at));
        match found.known {
            _ if self.refuse => Verdict::Refuse,
            _ if self.keep => Verdict::Keep,
            Some(_) => Verdict::Replace(self.restore.clone()),
            None => Verdict::Replace(format!("<\"{}\">", found.rule).into_bytes()),
        }
    }
}

/// All that leaves when `chunks` come.
pub(super) fn run(
    mut stream: Stream,
    judge: &mut Names,
    known: &Known,
    chunks: &[&[u8]],
    end: End,
) -> Result<Vec<u8>, Error> {
    let engine = engine();
    let mut out = Vec::new();
    for chunk in chunks {
        stream.push(&mut Masker::new(engine, known, judge), chunk, &mut out)?;
    }
    stream.finish(&mut Masker::new(engine, known, judge), end, &mut out)?;
    Ok(out)
}

pub(super) fn whole(stream: Stream, wire: &[u8]) -> Vec<u8> {
    run(stream, &mut Names::default(), &Known::default(), &[wire], End::Complete).unwrap()
}

/// What masking the whole text at once gives.
fn masked(text: &str) -> String {
    let (engine, known, mut judge) = (engine(), Known::default(), Names::default());
    let found = engine.find(text.as_bytes(), &known);
    let mut masker = Masker::new(engine, &known, &mut judge);
    let mut out = Vec::new();
    let mut from = 0;
    for found in found {
        out.extend(&text.as_bytes()[from..found.span.start]);
        out.extend(masker.judge(&found, &text.as_bytes()[found.span.clone()]).unwrap().unwrap());
        from = found.span.end;
    }
    out.extend(&text.as_bytes()[from..]);
    String::from_utf8(out).unwrap()
}

fn examples() -> impl Iterator<Item = String> {
    RULES.iter().map(|(id, _, example)| format!("é {id}: {example} 😀."))
}

/// All ways to cut a text into two, and some into many.
fn cuttings(text: &str) -> Vec<Vec<&str>> {
    let cuts: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    let mut all: Vec<Vec<&str>> =
        cuts.iter().map(|at| <[&str; 2]>::from(text.split_at(*at)).to_vec()).collect();
    for size in [1, 3, 5] {
        let ends = cuts.iter().copied().step_by(size).chain([text.len()]);
        all.push(ends.clone().zip(ends.skip(1)).map(|(a, b)| text.get(a..b).unwrap()).collect());
    }
    all
}

#[test]
fn texts_of_every_provider_are_masked_at_every_split() {
    for shape in texts() {
        for text in examples() {
            let wanted = masked(&text);
            assert_ne!(wanted, text);
            for cutting in cuttings(&text) {
                let out = whole((shape.stream)(), &(shape.write)(&cutting));
                assert_eq!((shape.read)(&out), wanted, "{} {cutting:?}", shape.name);
            }
        }
    }
}

#[test]
fn arguments_of_tools_are_masked_at_every_split_and_stay_json() {
    for shape in tools() {
        for text in examples() {
            let wanted = serde_json::json!({"cmd": masked(&text), "n": 1});
            let plain = serde_json::json!({"cmd": text, "n": 1}).to_string();
            let escaped = plain.replace('é', "\\u00e9").replace('😀', "\\ud83d\\ude00");
            for arguments in [plain, escaped] {
                for cutting in cuttings(&arguments) {
                    let out = whole((shape.stream)(), &(shape.write)(&cutting));
                    let joined = (shape.read)(&out);
                    let read: serde_json::Value = serde_json::from_str(&joined)
                        .unwrap_or_else(|error| panic!("{error}: {} {joined}", shape.name));
                    assert_eq!(read, wanted, "{} {cutting:?}", shape.name);
                }
            }
        }
    }
}

#[test]
fn what_has_no_secret_leaves_byte_by_byte() {
    for shape in shapes() {
        let wire = (shape.write)(&[r#"{"a": "#, r#""plain \u00e9 "#, r#"\" text"}"#]);
        let mut judge = Names::default();
        let stream = (shape.stream)();
        let out = run(stream, &mut judge, &Known::default(), &[&wire], End::Complete).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wire), "{}", shape.name);
        assert!(judge.seen.is_empty());
    }
}

#[test]
fn a_kept_secret_is_not_touched() {
    for (at, shape) in shapes().enumerate() {
        for text in examples() {
            let arguments = serde_json::json!({"cmd": text}).to_string();
            let text = if at < texts().count() { text } else { arguments };
            let wire = (shape.write)(&<[&str; 2]>::from(text.split_at(20)));
            let mut judge = Names { keep: true, ..Names::default() };
            let stream = (shape.stream)();
            let out = run(stream, &mut judge, &Known::default(), &[&wire], End::Complete).unwrap();
            assert_eq!((shape.read)(&out), text, "{}", shape.name);
            assert!(!judge.seen.is_empty(), "{}", shape.name);
        }
    }
}

#[test]
fn the_key_before_an_argument_is_seen() {
    let arguments = r#"{"n": 1, "api_key" : "abcd1234efgh5678", "b": [true]}"#;
    let wanted = arguments.replace("abcd1234efgh5678", r#"<\"context\">"#);
    for shape in tools() {
        for cutting in cuttings(arguments) {
            let out = whole((shape.stream)(), &(shape.write)(&cutting));
            assert_eq!((shape.read)(&out), wanted, "{} {cutting:?}", shape.name);
        }
    }
}

#[test]
fn values_longer_than_what_is_held_go_as_a_whole_or_stay_as_a_whole() {
    let value = "MIIBabcd12345678EFGH+/\n".repeat(120);
    let text = format!("a -----BEGIN LONG-----\n{value}-----END LONG----- b AKIAQ2W3E4R5T6Y7U8I9");
    for (keep, wanted) in [(true, text.clone()), (false, "a <\"long\"> b <\"aws\">".to_owned())] {
        for size in [1, 7, 100, 511, 3000] {
            let judge = || Names { keep, ..Names::default() };
            let pieces = |text: &str| -> Vec<String> {
                text.as_bytes()
                    .chunks(size)
                    .map(|c| String::from_utf8(c.to_vec()).unwrap())
                    .collect()
            };
            let run = |shape: &wire::Shape, text: &str| {
                let pieces = pieces(text);
                let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
                let (mut judge, known) = (judge(), Known::default());
                let wire = (shape.write)(&pieces);
                let out = run((shape.stream)(), &mut judge, &known, &[&wire], End::Complete);
                (shape.read)(&out.unwrap())
            };
            for shape in texts() {
                assert_eq!(run(shape, &text), wanted, "{} {size}", shape.name);
            }
            let arguments = serde_json::json!({"cmd": text}).to_string();
            for shape in tools() {
                let read: serde_json::Value =
                    serde_json::from_str(&run(shape, &arguments)).unwrap();
                assert_eq!(read["cmd"], wanted, "{} {size}", shape.name);
            }
        }
    }
}

#[test]
fn prose_leaves_with_its_own_delta() {
    let prose = "The quick brown fox, jumps over: the lazy dog; and 42 = \"answers\" {at} home.\n";
    let (mut late, mut deltas) = (0, 0);
    for shape in wire::TEXTS {
        let mut stream = (shape.stream)();
        let mut judge = Names::default();
        let known = Known::default();
        let words: Vec<_> = prose.split_inclusive(' ').collect();
        for many in 1..=words.len() {
            let wire = (shape.write)(&words[..many]);
            let mut out = Vec::new();
            stream = (shape.stream)();
            stream.push(&mut Masker::new(engine(), &known, &mut judge), &wire, &mut out).unwrap();
            deltas += 1;
            late += usize::from((shape.read)(&out) != words[..many].concat());
        }
        assert!(stream.held_bytes() < limits::MAX_STREAM_TEMPLATE_BYTES);
    }
    assert_eq!(late, 0, "of {deltas}");
}

#[test]
fn a_refused_secret_ends_the_stream_for_good() {
    for shape in shapes() {
        let wire = (shape.write)(&["x AKIAQ2W3E4R5T6Y7U8I9 y"]);
        let (engine, known) = (engine(), Known::default());
        let mut judge = Names { refuse: true, ..Names::default() };
        let mut masker = Masker::new(engine, &known, &mut judge);
        let (mut stream, mut out) = ((shape.stream)(), Vec::new());
        let pushed = stream.push(&mut masker, &wire, &mut out);
        let done = pushed.and_then(|()| stream.finish(&mut masker, End::Complete, &mut out));
        assert!(matches!(done, Err(Error::Body(body::Error::Refused { .. }))), "{done:?}");
        assert_eq!(stream.push(&mut masker, b"x", &mut out), Err(Error::Failed));
        assert!(!String::from_utf8_lossy(&out).contains("AKIAQ2"), "{}", shape.name);
    }
}

#[test]
fn placeholders_are_restored_also_when_they_are_split() {
    let known = Known::new([(7, b"ghp_WEIR0000".to_vec())]);
    let original = "gh\"p\n\\x";
    for (shapes, json) in [(texts().collect::<Vec<_>>(), false), (tools().collect(), true)] {
        for shape in shapes {
            let text = if json { r#"{"a":"x ghp_WEIR0000 y"}"# } else { "x ghp_WEIR0000 y" };
            for cutting in cuttings(text) {
                let mut judge = Names { restore: original.as_bytes().to_vec(), ..Names::default() };
                let wire = (shape.write)(&cutting);
                let stream = (shape.stream)();
                let out = run(stream, &mut judge, &known, &[&wire], End::Complete).unwrap();
                let joined = (shape.read)(&out);
                let got = match json {
                    true => serde_json::from_str::<serde_json::Value>(&joined).unwrap()["a"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                    false => joined,
                };
                assert_eq!(got, format!("x {original} y"), "{} {cutting:?}", shape.name);
            }
        }
    }
}

#[test]
fn nothing_unproven_leaves_a_stream_that_is_cut() {
    let secret = "ghp_aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3";
    for shape in shapes() {
        let wire = (shape.write)(&["before ghp_aB3aB3aB3aB3", "aB3aB3aB3aB3aB3aB3aB3aB3 after"]);
        for at in 0..wire.len() {
            let mut judge = Names::default();
            let stream = (shape.stream)();
            let known = Known::default();
            let out = run(stream, &mut judge, &known, &[&wire[..at]], End::Cut).unwrap();
            assert!(!String::from_utf8_lossy(&out).contains(secret), "{} {at}", shape.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cutting_the_wire_does_not_matter(
        shape in 0..shapes().count(),
        rule in 0..RULES.len(),
        at in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let shape = shapes().nth(shape).unwrap();
        let text = serde_json::json!({"a": RULES[rule].2, "b": "other text"}).to_string();
        let mut at = at.index(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let wire = (shape.write)(&<[&str; 2]>::from(text.split_at(at)));
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        ends.extend([0, wire.len()]);
        ends.sort_unstable();
        let chunks: Vec<&[u8]> = ends.windows(2).map(|w| &wire[w[0]..w[1]]).collect();
        let mut judge = Names::default();
        let known = Known::default();
        let out = run((shape.stream)(), &mut judge, &known, &chunks, End::Complete).unwrap();
        let one = whole((shape.stream)(), &wire);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&one));
    }

    #[test]
    fn cutting_the_wire_at_each_byte_does_not_matter(
        shape in 0..shapes().count(),
    ) {
        let shape = shapes().nth(shape).unwrap();
        let wire = (shape.write)(&["x AKIAQ2W3E4", "R5T6Y7U8I9 y"]);
        let chunks: Vec<&[u8]> = wire.chunks(1).collect();
        let mut judge = Names::default();
        let known = Known::default();
        let out = run((shape.stream)(), &mut judge, &known, &chunks, End::Complete).unwrap();
        prop_assert_eq!(out, whole((shape.stream)(), &wire));
    }

    #[test]
    fn hostile_bytes_never_panic(
        shape in 0..texts().count(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
    ) {
        let shape = texts().nth(shape).unwrap();
        let mut wire = (shape.write)(&["x AKIAQ2W3E4", "R5T6Y7U8I9 y"]);
        let at = at.index(wire.len());
        wire.splice(at..at, bytes);
        let (engine, known, mut judge) = (engine(), Known::default(), Names::default());
        let mut masker = Masker::new(engine, &known, &mut judge);
        let (mut stream, mut out) = ((shape.stream)(), Vec::new());
        for chunk in wire.chunks(7) {
            if stream.push(&mut masker, chunk, &mut out).is_err() {
                break;
            }
        }
        prop_assert_eq!(
            stream.finish(&mut masker, End::Cut, &mut out).is_err(),
            stream.push(&mut masker, b"", &mut out) == Err(Error::Failed)
        );
    }
}
