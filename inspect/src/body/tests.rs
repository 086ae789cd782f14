use std::io::Read;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::encoding::Codec;
use super::*;
use crate::rule::{Confidence, Rule};

mod lenses;

use lenses::{LENSES, Lens};

pub(super) const TOKEN: &str = "ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8";
const PLACEHOLDER: &str = "ghp_WEIRMASKED00000000000";
const KEY: &str = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7\nabcdefghijklmnopqrstuvwxyz+/\n-----END KEY-----";

pub(super) fn engine() -> Engine {
    let rule = |id: &str, tier, pattern: &str, keyword: &str| Rule {
        id: Arc::from(id),
        description: String::new(),
        tier,
        confidence: Confidence::High,
        pattern: pattern.to_owned(),
        keywords: vec![keyword.to_owned()],
        filter: Default::default(),
        hosts: Vec::new(),
        source: String::new(),
    };
    Engine::new(vec![
        rule("token", Tier::Prefixed, r"\b(ghp_[A-Za-z0-9]{36})\b", "ghp_"),
        rule(
            "key",
            Tier::Prefixed,
            r"-----BEGIN KEY-----[\sA-Za-z0-9+/=]+-----END KEY-----",
            "-----begin",
        ),
        rule(
            "password",
            Tier::Contextual,
            r#"password["']?\s*[:=]\s*["']?([^\s"',;&]{8,64})"#,
            "password",
        ),
    ])
    .unwrap()
}

/// Replaces everything, and remembers where it was.
struct Replace {
    with: Vec<u8>,
    seen: Vec<(String, Vec<u8>, String)>,
}

impl Replace {
    fn new() -> Self {
        Self { with: PLACEHOLDER.into(), seen: Vec::new() }
    }
}

impl Judge for Replace {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        self.seen.push((found.rule.to_string(), found.value.to_vec(), found.at.to_string()));
        Verdict::Replace(self.with.clone())
    }
}

struct Always(Verdict);

impl Judge for Always {
    fn judge(&mut self, _: &Found<'_>) -> Verdict {
        self.0.clone()
    }
}

/// Masks with everything replaced; gives the text and what was seen.
fn masked(kind: &BodyKind<'_>, body: &[u8]) -> (Vec<u8>, Replace) {
    let (engine, known, mut judge) = (engine(), Known::default(), Replace::new());
    let new = Masker::new(&engine, &known, &mut judge).body(kind, body).unwrap();
    (new.unwrap_or_else(|| body.to_vec()), judge)
}

fn text(body: &str) -> String {
    String::from_utf8(masked(&BodyKind::default(), body.as_bytes()).0).unwrap()
}

fn typed(content_type: &str) -> BodyKind<'_> {
    BodyKind { content_type: Some(content_type.as_bytes()), content_encoding: None }
}

/// What a secret stands in.
fn surroundings(secret: &str) -> String {
    format!(
        "first line of a file, long enough\nexport KEY={secret}\nand \"another\" line <b> & 100% more\n"
    )
}

#[test]
fn every_lens_and_every_pair_of_them_is_seen_through() {
    let plain = surroundings(TOKEN);
    let expected = surroundings(PLACEHOLDER);
    let check = |lenses: &[&Lens]| {
        let names: Vec<_> = lenses.iter().map(|lens| lens.name).collect();
        let wire = lenses.iter().fold(plain.clone().into_bytes(), |text, lens| (lens.wrap)(&text));
        let (new, judge) = masked(&BodyKind::default(), &wire);
        let shown = || String::from_utf8_lossy(&wire).into_owned();
        assert_eq!(judge.seen.len(), 1, "judged once: {names:?} {:?}\n{}", judge.seen, shown());
        assert_eq!(judge.seen[0].1, TOKEN.as_bytes(), "{names:?}");
        let back = lenses.iter().rev().fold(new.clone(), |text, lens| (lens.unwrap)(&text));
        assert_eq!(
            String::from_utf8_lossy(&back),
            expected,
            "{names:?}\n{}\n{}",
            shown(),
            String::from_utf8_lossy(&new)
        );
    };
    for outer in LENSES {
        check(&[outer]);
        for inner in LENSES {
            if outer.takes_bytes || !inner.makes_bytes {
                check(&[inner, outer]);
            }
        }
    }
}

#[test]
fn every_content_encoding_is_kept() {
    let plain = surroundings(TOKEN);
    for list in ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, br", "identity"] {
        let codecs = encoding::decode(Some(list.as_bytes()), b"", 9).unwrap().codecs;
        let wire = encoding::encode(&codecs, plain.clone().into_bytes()).unwrap();
        let kind = BodyKind { content_type: None, content_encoding: Some(list.as_bytes()) };
        let (new, _) = masked(&kind, &wire);
        let back = encoding::decode(kind.content_encoding, &new, 1 << 20).unwrap().body;
        assert_eq!(String::from_utf8(back).unwrap(), surroundings(PLACEHOLDER), "{list}");
        let (engine, known, mut judge) = (engine(), Known::default(), Replace::new());
        let record = Masker::new(&engine, &known, &mut judge).plain(&kind, &wire).unwrap();
        assert_eq!(String::from_utf8(record).unwrap(), surroundings(PLACEHOLDER), "{list}");
    }
}

#[test]
fn a_secret_in_the_head_of_gzip_does_not_pass() {
    let body = Codec::Gzip.encode(b"harmless").unwrap();
    // RFC 1952: flag FNAME, a name that ends with zero.
    let wire = [&body[..3], &[8], &body[4..10], TOKEN.as_bytes(), &[0], &body[10..]].concat();
    let kind = BodyKind { content_type: None, content_encoding: Some(b"gzip") };
    let (new, judge) = masked(&kind, &wire);
    assert_eq!(judge.seen.len(), 1);
    let mut back = String::new();
    flate2::read::GzDecoder::new(&*new).read_to_string(&mut back).unwrap();
    assert_eq!(back, "harmless");
    assert!(memchr::memmem::find(&new, TOKEN.as_bytes()).is_none());
}

#[test]
fn names_in_json_are_context_and_only_values_change() {
    let cases = [
        (r#"{"password": "hunter2hunter2", "n": 1.50}"#, r#"{"password": "X", "n": 1.50}"#),
        (r#"{"password":"with/\u0071uotes\"in it"}"#, r#"{"password":"X\"in it"}"#),
        (r#"{"password":12345678901, "a":12345678901}"#, r#"{"password":"X", "a":12345678901}"#),
        (r#"{"a":"{\"password\":\"hunter2hunter2\"}"}"#, r#"{"a":"{\"password\":\"X\"}"}"#),
        (
            "{\"a\":\"password=hunter2hunter2\\n\"}\n{\"b\": 1}\n",
            "{\"a\":\"password=X\\n\"}\n{\"b\": 1}\n",
        ),
        (r#"{"a":"password=hunter2hunter2 bro"#, r#"{"a":"password=X bro"#),
        ("password = 'hunter2hunter2';", "password = 'X';"),
    ];
    for (wire, expected) in cases {
        let (engine, known, mut judge) = (engine(), Known::default(), Replace::new());
        judge.with = b"X".to_vec();
        let new = Masker::new(&engine, &known, &mut judge).text(wire.as_bytes()).unwrap().unwrap();
        let new = String::from_utf8(new).unwrap();
        assert_eq!(new, expected, "{:?}", judge.seen);
    }
}

#[test]
fn matches_and_regions_do_not_cut_escapes() {
    let inner = |secret: &str| json!({ "x": format!("password=\"{secret}\"\n") }).to_string();
    let escaped = |secret: &str| format!("let a = {};", Value::from(inner(secret)));
    assert_eq!(text(&escaped("hunter2hunter2")), escaped(PLACEHOLDER));
    let packed = |secret: &str| {
        let digits = lenses::base64_lines(surroundings(secret).as_bytes());
        let digits = String::from_utf8(digits).unwrap();
        [
            digits.replace('\n', "\\n"),
            digits.replace('\n', "%0A").replace('+', "%2B").replace('=', "%3D"),
        ]
    };
    for (wire, expected) in packed(TOKEN).iter().zip(packed(PLACEHOLDER)) {
        assert_eq!(text(&format!("x = '{wire}'")), format!("x = '{expected}'"));
    }
}

#[test]
fn what_gzip_does_not_end_is_refused_only_with_a_secret() {
    let engine = engine();
    let broken = |text: &str| [Codec::Gzip.encode(text.as_bytes()).unwrap(), vec![0]].concat();
    let mut judge = Replace::new();
    let known = Known::default();
    let mut masker = Masker::new(&engine, &known, &mut judge);
    let kind = BodyKind::default();
    assert_eq!(masker.body(&kind, &broken("nothing")), Ok(None));
    assert_eq!(masker.body(&kind, &broken(&surroundings(TOKEN))), Err(Error::Malformed));
}

#[test]
fn places_are_named() {
    let arguments = json!({ "command": format!("curl -H {TOKEN}") }).to_string();
    let body = json!({ "messages": [{ "content": "x" }, { "arguments": arguments }] }).to_string();
    let wire = Codec::Gzip.encode(body.as_bytes()).unwrap();
    let kind = BodyKind { content_type: None, content_encoding: Some(b"gzip") };
    let (_, judge) = masked(&kind, &wire);
    assert_eq!(judge.seen[0].2, "gzip > $.messages[1].arguments > $.command");
}

#[test]
fn keys_over_lines_with_prefixes_are_one_secret() {
    let numbered: Vec<_> =
        KEY.lines().enumerate().map(|(n, line)| format!("{:6}\t{line}", n + 8)).collect();
    let listing = format!("     7\tfirst\n{}\n    12\tlast\n", numbered.join("\n"));
    let diff = format!("@@ -1 +1 @@\n+{}\n done", KEY.replace('\n', "\n+"));
    for wire in [listing.clone(), diff.clone(), format!("{KEY}\n"), KEY.replace('\n', "\r\n")] {
        for wire in [wire.clone(), json!({ "tool_result": wire }).to_string()] {
            let (new, judge) = masked(&BodyKind::default(), wire.as_bytes());
            let new = String::from_utf8(new).unwrap();
            assert_eq!(judge.seen.len(), 1, "{wire}");
            assert!(!new.contains("MIIE") && !new.contains("abcdef"), "{new}");
        }
    }
    assert_eq!(text(&diff), format!("@@ -1 +1 @@\n+{PLACEHOLDER}\n done"));
}

#[test]
fn multipart_keeps_its_frame() {
    let wire = |secret: &str| {
        let data = json!({ "a": [secret] });
        let packed = lenses::base64_lines(surroundings(secret).as_bytes());
        let packed = String::from_utf8(packed).unwrap();
        format!(
            "--b1\r\nContent-Disposition: form-data; name=\"j\"\r\nContent-Type: application/json\r\n\r\n{data}\r\n--b1\r\ncontent-disposition: form-data; name=\"f\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{packed}\r\n--b1\r\nX-Token: {secret}\r\n\r\nbody\r\n--b1--\r\n"
        )
    };
    let (new, judge) =
        masked(&typed("multipart/form-data; boundary=\"b1\""), wire(TOKEN).as_bytes());
    assert_eq!(String::from_utf8(new).unwrap(), wire(PLACEHOLDER));
    assert_eq!(judge.seen.len(), 3);
}

#[test]
fn forms_headers_and_urls_are_masked_in_their_own_writing() {
    let form =
        format!("a=1&payload=%7B%22k%22%3A%22{TOKEN}%22%7D&password=hunter2%2Bhunter2&b=c+d");
    let (new, _) = masked(&typed("application/x-www-form-urlencoded"), form.as_bytes());
    let expected =
        format!("a=1&payload=%7B%22k%22%3A%22{PLACEHOLDER}%22%7D&password={PLACEHOLDER}&b=c+d");
    assert_eq!(String::from_utf8(new).unwrap(), expected);

    let (engine, known, mut judge) = (engine(), Known::default(), Replace::new());
    judge.with = b"a b/c".to_vec();
    let mut masker = Masker::new(&engine, &known, &mut judge);
    let url =
        format!("https://u:{TOKEN}@host/p%20q/?x=%67hp_{}&y", TOKEN.trim_start_matches("ghp_"));
    let new = masker.url(url.as_bytes()).unwrap().unwrap();
    assert_eq!(String::from_utf8(new).unwrap(), "https://u:a%20b/c@host/p%20q/?x=a%20b%2Fc&y");
    let new = masker.header("x-password", b"hunter2hunter2").unwrap().unwrap();
    assert_eq!(new, b"a b/c", "the name is context");
    let cookie = format!("a=b; s={TOKEN}; t=%7B%22x%22%7D");
    let new = masker.header("cookie", cookie.as_bytes()).unwrap().unwrap();
    assert_eq!(String::from_utf8(new).unwrap(), "a=b; s=a b/c; t=%7B%22x%22%7D");
    let basic = lenses::base64(format!("user:{TOKEN}").as_bytes());
    let basic = [b"Basic ".as_slice(), &basic].concat();
    let new = masker.header("authorization", &basic).unwrap().unwrap();
    assert_eq!(new, [b"Basic ".as_slice(), &lenses::base64(b"user:a b/c")].concat());
    assert_eq!(masker.header("accept", b"text/html").unwrap(), None);
}

#[test]
fn short_basic_credentials_are_seen() {
    let (engine, known, mut judge) =
        (engine(), Known::new([(7, b"pa55pa55".to_vec())]), Replace::new());
    let mut masker = Masker::new(&engine, &known, &mut judge);
    let new = masker.header("authorization", b"basic bWU6cGE1NXBhNTU=").unwrap().unwrap();
    assert_eq!(
        new,
        [b"basic ".as_slice(), &lenses::base64(format!("me:{PLACEHOLDER}").as_bytes())].concat()
    );
}

#[test]
fn charsets_keep_their_bytes() {
    let (new, _) =
        masked(&typed("text/plain; charset=latin1"), &[b"caf\xe9 ", TOKEN.as_bytes()].concat());
    assert_eq!(new, [b"caf\xe9 ", PLACEHOLDER.as_bytes()].concat());
    let (engine, known, mut judge) =
        (engine(), Known::new([(1, "pässwörd".into())]), Replace::new());
    let mut masker = Masker::new(&engine, &known, &mut judge);
    let new = masker.body(&typed("text/plain;charset=ISO-8859-1"), b"x p\xe4ssw\xf6rd").unwrap();
    assert_eq!(new.unwrap(), [b"x ", PLACEHOLDER.as_bytes()].concat());
    let refused = masker.body(&typed("text/plain; charset=utf-7"), b"x");
    assert_eq!(refused, Err(Error::UnknownCharset));
}

#[test]
fn binary_bodies_lose_what_has_a_prefix_and_no_more() {
    let noise: Vec<u8> = (0..=255).cycle().take(600).collect();
    let wire = [&noise[..], b" password=hunter2hunter2 ", TOKEN.as_bytes(), b"\0", &noise].concat();
    let (new, judge) = masked(&typed("application/octet-stream"), &wire);
    assert_eq!(judge.seen.len(), 1);
    let expected =
        [&noise[..], b" password=hunter2hunter2 ", PLACEHOLDER.as_bytes(), b"\0", &noise];
    assert_eq!(new, expected.concat());
}

#[test]
fn what_was_clean_is_skipped_and_nothing_else() {
    let (engine, known, cache) = (engine(), Known::default(), Cache::default());
    let filling = "some text\n".repeat(50);
    let content = |secret: &str| format!("{filling}{}{filling}", lenses_in(secret));
    let body = |texts: &[&str]| {
        let all: Vec<_> = texts.iter().map(|text| json!({ "text": content(text) })).collect();
        json!({ "messages": all }).to_string()
    };
    let mask = |known: &Known, body: &str| {
        let mut judge = Replace::new();
        let mut masker = Masker::new(&engine, known, &mut judge).with_cache(&cache);
        let new = masker.text(body.as_bytes()).unwrap();
        let left = masker.left;
        (new.map(|new| String::from_utf8(new).unwrap()), left, judge.seen.len())
    };
    let cold = mask(&known, &body(&["one", "two"]));
    let warm = mask(&known, &body(&["one", "two"]));
    assert_eq!((&cold.0, &warm.0), (&None, &None));
    assert!(warm.1 > cold.1, "what is skipped is not decoded");
    // The same place, other text; and found again whenever it is sent again.
    for _ in 0..2 {
        let (new, _, seen) = mask(&known, &body(&["one", TOKEN]));
        assert_eq!((new, seen), (Some(body(&["one", PLACEHOLDER])), 1));
    }
    // What becomes known later.
    let later = Known::new([(1, b"of 'one'".to_vec())]);
    let out = mask(&later, &body(&["one", "two"]));
    assert_eq!(out.2, 1);
    // The same value behind another name.
    let named = |name: &str| json!({ name: format!("hunter2hunter2 {filling}") }).to_string();
    assert_eq!(mask(&known, &named("comment")).2, 0);
    assert_eq!(mask(&known, &named("password")).2, 1);
}

fn lenses_in(secret: &str) -> String {
    String::from_utf8(lenses::base64(format!("the text of '{secret}'\n").as_bytes())).unwrap()
}

#[test]
fn verdicts_are_obeyed_and_bounds_hold() {
    let (engine, known) = (engine(), Known::default());
    let wire = surroundings(TOKEN);
    let mut keep = Always(Verdict::Keep);
    assert_eq!(Masker::new(&engine, &known, &mut keep).text(wire.as_bytes()), Ok(None));
    let mut refuse = Always(Verdict::Refuse);
    let refused = Masker::new(&engine, &known, &mut refuse).text(wire.as_bytes());
    assert_eq!(refused, Err(Error::Refused { rule: Arc::from("token") }));
    let nested =
        |times| (0..times).fold(wire.clone().into_bytes(), |text, _| lenses::base64(&text));
    assert_eq!(Masker::new(&engine, &known, &mut keep).text(&nested(MAX_NESTING)), Ok(None));
    let refused = Masker::new(&engine, &known, &mut keep).text(&nested(MAX_NESTING + 1));
    assert_eq!(refused, Err(Error::OverBound));
    let bomb = Codec::Gzip.encode(&vec![b'a'; MAX_DECODED_BYTES + 1]).unwrap();
    let refused = Masker::new(&engine, &known, &mut keep).text(&bomb);
    assert_eq!(refused, Err(Error::OverBound));
}

/// All strings of a value, changed.
fn each_string(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(all) => all.iter_mut().for_each(|value| each_string(value, change)),
        Value::Object(all) => all.values_mut().for_each(|value| each_string(value, change)),
        _ => {}
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z \\\\\"\n\t{}é😀]{0,20}".prop_map(Value::from),
        "[a-z \\\\\"\n\t{}é😀]{0,20}".prop_map(|text| format!("{text} {TOKEN}\n{text}").into()),
        "[a-z \"]{0,9}".prop_map(|text| json!({ "in": [text, TOKEN] }).to_string().into()),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\ ]{0,8}", inner, 0..5)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn masked_json_stays_valid_and_otherwise_the_same(value in value(), pretty: bool) {
        let wire = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        let new = text(&wire);
        prop_assert_eq!(&new, &wire.replace(TOKEN, PLACEHOLDER), "bytes");
        let mut expected = value;
        each_string(&mut expected, &|text| text.replace(TOKEN, PLACEHOLDER));
        prop_assert_eq!(serde_json::from_str::<Value>(&new).unwrap(), expected, "values");
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_stay(
        body: Vec<u8>, kind in "(multipart/x; boundary=|application/json|image/png|text/x; charset=)[a-z]{0,4}",
    ) {
        let (engine, known) = (engine(), Known::default());
        let mut judge = Always(Verdict::Keep);
        let new = Masker::new(&engine, &known, &mut judge).body(&typed(&kind), &body);
        prop_assert!(new == Ok(None) || new == Err(Error::UnknownCharset));
    }

    #[test]
    fn arbitrary_pieces_never_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60),
    ) {
        let wire = pieces.concat();
        let (engine, known, mut judge) = (engine(), Known::default(), Replace::new());
        let mut masker = Masker::new(&engine, &known, &mut judge);
        for body in [wire.as_bytes(), &Style::Utf16Le.encode(wire.as_bytes())] {
            for kind in ["", "application/x-www-form-urlencoded", "multipart/mixed; boundary=b1"] {
                let new = masker.body(&typed(kind), body);
                prop_assert!(matches!(new, Ok(_) | Err(Error::OverBound)), "{new:?}");
            }
        }
        let new = text(&wire);
        prop_assert!(!new.contains(TOKEN), "{new}");
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\",
    "\\\"",
    "\\n",
    "\\u0041",
    "\\ud83d",
    "\n",
    "\r\n",
    "%41",
    "%",
    "&amp;",
    "&#",
    "=\n",
    "=3D",
    "--b1",
    "--b1\r\nA: b\r\n\r\n",
    "-----BEGIN KEY-----",
    "     7\t",
    "ZXhhbXBsZSB0ZXh0IGZvciBhIHRlc3Q",
    "6578616d706c65207465787420666f72",
    "==",
    "+",
    "&",
    "=",
    " ",
    "\u{200b}",
    "\u{1b}[1m",
    "H4sIAAAAAAAA",
    " ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8 ",
    "password",
    "password=hunter2hunter2",
    "12345678901",
];
