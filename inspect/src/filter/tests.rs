use proptest::prelude::*;

use super::*;
use crate::limits;

/// Whether a filter drops `secret` in `before secret`.
fn drops(filter: &str, before: &str, secret: &str) -> bool {
    let text = format!("{before}{secret} after");
    let secret = before.len()..before.len() + secret.len();
    let start = before.rfind(' ').map_or(0, |at| at + 1);
    let candidate = Candidate { text: text.as_bytes(), matched: start..secret.end, secret };
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).drops(&candidate)
}

#[test]
fn the_default_and_the_empty_filter_drop_nothing() {
    assert!(!drops("", "", "x"));
    assert!(!drops(" \n\t", "", "x"));
    assert!(Filter::default().is_empty());
}

#[test]
fn expressions_are_what_they_say() {
    // (filter, what stands before the secret, the secret, dropped)
    let table = [
        ("true", "", "x", true),
        ("false", "", "x", false),
        ("entropy(secret) < 3.5", "", "aaaaaaaaaaaaaaaa", true),
        ("entropy(secret) < 3.5", "", "0123456789abcdef", false),
        ("entropy(secret) <= 4.0", "", "0123456789abcdef", true),
        (r#"entropy(finding["secret"]) <= 4.0"#, "", "0123456789abcdef", true),
        ("len(secret) == 3", "", "abc", true),
        ("len(secret) in [3, 5]", "", "abcd", false),
        ("len(secret) not in [3, 5]", "", "abcd", true),
        ("len(secret) >= 3 && len(secret) <= 5", "", "abcd", true),
        ("len(secret) - 1 == 2 + 1", "", "abcd", true),
        ("-1 < 0", "", "x", true),
        ("1 - -1 == 2", "", "x", true),
        ("1e3 == 1000 and 1_000 == 1000.0", "", "x", true),
        ("secret == \"abc\"", "", "abc", true),
        ("secret != 'abc'", "", "abc", false),
        ("secret in [`abc`, \"d\"]", "", "d", true),
        ("secret contains \"b\"", "", "abc", true),
        ("secret startsWith \"b\"", "", "abc", false),
        ("secret endsWith \"bc\"", "", "abc", true),
        ("secret matches `^a.c$`", "", "abc", true),
        ("!(secret matches `^a.c$`)", "", "abc", false),
        ("not (secret == `abc`) or true", "", "abc", true),
        ("matchesAny(secret, [`^x`, `c$`,])", "", "abc", true),
        ("matchesAny(secret, [])", "", "abc", false),
        ("matchesAny(secret, [`[0-9]`])", "", "abc1", true),
        ("containsAny(secret, [\"example\", \"TEST\"])", "", "my-Test-key", true),
        ("containsAny(secret, [\"\"])", "", "my-Test-key", false),
        ("startsWithAny(secret, [\"my-\", \"your-\"])", "", "my-key", true),
        ("endsWithAny(secret, [\"my-\", \"your-\"])", "", "my-key", false),
        ("match == \"key=abc\"", "a key=", "abc", true),
        ("line == \"a key=abc\"", "before\na key=", "abc", true),
        (r#"finding["fragment_raw"] startsWith "before""#, "before\na key=", "abc", true),
        (
            r#"finding["match_start_idx"] == 2 && finding["match_end_idx"] == 9"#,
            "a key=",
            "abc",
            true,
        ),
        (r#"finding["match_line_start_idx"] == 1"#, "\na key=", "abc", true),
        (
            r#"finding["fragment_raw"][finding["match_line_start_idx"]:] == "a key=abc""#,
            "b\na key=",
            "abc",
            true,
        ),
        ("secret[1:3] == \"bc\" && secret[:1] + secret[3:] == \"ad\"", "", "abcd", true),
        ("secret[-2:] == \"cd\" && secret[1] == \"b\"", "", "abcd", true),
        ("secret[3:1] == \"\" && secret[99:] == \"\"", "", "abcd", true),
        ("lower(secret) == \"abc\" && upper(secret) == \"ABC\"", "", "aBc", true),
        ("trim(\" a \") == \"a\"", "", "x", true),
        ("max(len(secret), 7) == 7 && min(1, 2) == 1", "", "abc", true),
        ("findMatch(match, `^[a-z]+`) == \"key\"", "key=", "abc", true),
        ("findMatch(match, `[0-9]+`) == \"\"", "key=", "abc", true),
        ("replace(secret, \"a\", \"x\") == \"xbxb\"", "", "abab", true),
        ("replace(secret, \"a\", \"x\", 1) == \"xbab\"", "", "abab", true),
        ("join(split(secret, \"-\"), \"+\") == \"a+b+c\"", "", "a-b-c", true),
        ("split(secret, \"-\")[1] == \"b\"", "", "a-b-c", true),
        (
            "join(map(split(secret, \"-\"), { let x = upper(#); x + \"!\" })) == \"A!B!\"",
            "",
            "a-b",
            true,
        ),
        ("len(split(secret, \"-\")[1:]) == 2", "", "a-b-c", true),
        ("secret == \"b\" ? true : secret == \"c\" ? false : true", "", "a", true),
        ("let a = len(secret); let b = a + 1; b == 4", "", "abc", true),
        ("false || (let a = true; a)", "", "abc", true),
        ("let _ = setConfidence(\"low\"); true", "", "abc", true),
        ("// why\n true /* or */ && true", "", "x", true),
        (
            r#""\x41\u00e9\n\\\"" == 'Aé
\\"'"#,
            "",
            "x",
            true,
        ),
        ("filter.len(secret) == 3", "", "abc", true),
    ];
    for (filter, before, secret, dropped) in table {
        assert_eq!(drops(filter, before, secret), dropped, "{filter}");
    }
}

#[test]
fn what_is_unknown_drops_nothing_and_hides_nothing() {
    let drops = |filter: &str| {
        let (filter, unknown) = Filter::parse_foreign(filter).unwrap();
        let candidate = Candidate { text: b"secret", matched: 0..6, secret: 0..6 };
        (filter.drops(&candidate), unknown.join(" "))
    };
    let path = r#"matchesAny(attributes["path"], [`test`])"#;
    assert_eq!(drops(path), (false, String::new()));
    assert_eq!(drops(&format!("!{path}")), (false, String::new()));
    assert_eq!(drops(&format!("{path} || len(secret) == 6")), (true, String::new()));
    assert_eq!(drops(&format!("{path} && len(secret) == 6")), (false, String::new()));
    assert_eq!(drops(&format!("!({path} && len(secret) == 5)")), (true, String::new()));
    assert_eq!(drops(&format!("{path} ? true : true")), (false, String::new()));
    assert_eq!(drops(&format!("let p = {path}; p || true")), (true, String::new()));
    assert_eq!(drops(r#"get(attributes, "path", "") == """#), (false, String::new()));
    assert_eq!(drops(r#"attributes?.["path"] in ["a"]"#), (false, String::new()));
    assert_eq!(drops("!magic(secret, 3)"), (false, "magic()".into()));
    assert_eq!(drops("magic() > 3 || b(1) == `x` || true"), (true, "b() magic()".into()));
    assert_eq!(drops(r#"finding["captures"]["x"] == "y""#).1, r#"finding["captures"]"#);
    assert!(Filter::parse("magic(secret)").unwrap_err().to_string().contains("unknown magic()"));
}

#[test]
fn errors_say_what_and_where() {
    let table = [
        ("entropy(secret) <", "line 1, column 18: expected a value"),
        ("true &&\n  secrt", "unknown name secrt"),
        ("true true", "line 1, column 6: expected an operator or the end"),
        ("len(secret)", "not a condition"),
        ("secret && true", "expected a condition, found a text"),
        ("len(3 == 3)", "not a condition"),
        ("entropy(3) < 1", "expected a text, found a number"),
        ("entropy() < 1", "wrong number of arguments"),
        ("secret < 3", "expected a number, found a text"),
        ("secret + 3 == 3", "expected a text, found a number"),
        ("true ? 1 : secret", "expected a number, found a text"),
        ("matchesAny(secret, secret)", "expected a list, found a text"),
        ("matchesAny(secret, [secret])", "a pattern is a quoted text"),
        ("matchesAny(secret, [`(`])", "unclosed group"),
        ("containsAny(secret, [lower(secret)])", "a word is a quoted text"),
        ("\"abc", "text without an end"),
        ("\"\\q\" == secret", "not an escape"),
        ("/* abc", "comment without an end"),
        ("(true", "expected `)`"),
        ("# == 1", "expected a value"),
        ("let x = 1 true", "expected `;`"),
        ("@", "unexpected character"),
        ("1.2.3 == 1", "not a number"),
    ];
    for (filter, wanted) in table {
        let error = Filter::parse(filter).expect_err(filter).to_string();
        assert!(error.contains(wanted), "{filter}: {error}");
    }
}

#[test]
fn nesting_length_and_work_are_bounded() {
    let deep = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(5000), close.repeat(5000))
    };
    for text in [
        deep("(", "true", ")"),
        deep("!", "true", ""),
        deep("-", "1", "") + " == 1",
        deep("[", "1", "]") + " == 1",
        deep("true ? true : ", "true", ""),
        deep("map([1], {", "1", "})") + " == 1",
        deep("len(", "secret", ")") + " == 1",
        format!("secret{} == secret", "[0:]".repeat(5000)),
        format!("1{} == 1", " - 1".repeat(5000)),
    ] {
        let error = Filter::parse(&text).unwrap_err().to_string();
        assert!(error.contains("too deeply") || error.contains("too long a sum"), "{error}");
    }
    assert!(Filter::parse(&" ".repeat(MAX_TEXT_BYTES + 1)).is_ok(), "blank is empty");
    assert!(Filter::parse(&"true ||".repeat(MAX_TEXT_BYTES)).is_err());
    // Long chains are flat.
    assert!(drops(&format!("{}true", "false || ".repeat(5000)), "", "x"));
    // Grows by doubling: given up, and what is not known drops nothing.
    let names: Vec<_> = (1..60).map(|n| format!("let x{n} = x{0} + x{0};", n - 1)).collect();
    let doubling = format!("let x0 = secret; {} len(x59) > 0", names.join(" "));
    assert!(!drops(&doubling, "", "0123456789"));
    let nested = "join(map(split(secret, \"a\"), { join(map(split(secret, \"a\"), { \
                  join(map(split(secret, \"a\"), { secret })) })) })) != \"\"";
    assert!(!drops(nested, "", &"a".repeat(400)));
}

#[test]
fn nothing_is_seen_that_a_stream_would_not_have() {
    let far = "x".repeat(limits::LOOK_BEHIND_BYTES);
    assert!(!drops("line contains \"prod\"", &format!("prod{far} "), "secret"));
    assert!(drops("line contains \"prod\"", "prod ", "secret"));
    assert!(!drops(r#"finding["fragment_raw"] contains "after""#, "", "secret"));
    assert!(drops(&format!("len(secret) == {}", limits::MAX_HELD_BYTES), "", &"s".repeat(9999)));
    // Ranges that do not fit are cut, not followed.
    let filter = Filter::parse("len(secret) == 0 && len(match) == 0").unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
    let odd = Candidate { text: b"abc", matched: 9..2, secret: 7..70 };
    assert!(filter.drops(&odd));
}

#[test]
fn entropy_is_shannons() {
    assert!((entropy(b"") - 0.0).abs() < 1e-9);
    assert!((entropy(b"aaaa") - 0.0).abs() < 1e-9);
    assert!((entropy(b"abab") - 1.0).abs() < 1e-9);
    assert!((entropy(b"0123456789abcdef") - 4.0).abs() < 1e-9);
}

proptest! {
    #[test]
    fn no_text_panics_the_parser(text in ".{0,200}") {
        let _outcome = Filter::parse(&text);
    }

    #[test]
    fn no_words_of_the_language_panic(
        words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40),
        text in prop::collection::vec(any::<u8>(), 0..200),
        range in any::<[usize; 4]>(),
    ) {
        if let Ok((filter, _)) = Filter::parse_foreign(&words.join(" ")) {
            let [a, b, c, d] = range.map(|at| at % 220);
            filter.drops(&Candidate { text: &text, matched: a..b, secret: c..d });
        }
    }
}

const WORDS: [&str; 42] = [
    "secret",
    "match",
    "line",
    "finding",
    "[\"secret\"]",
    "[\"match_start_idx\"]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "#",
    "!",
    "not",
    "&&",
    "||",
    "?",
    ":",
    "==",
    "<",
    "in",
    "contains",
    "matches",
    "+",
    "-",
    "1",
    "0.5",
    "\"a\"",
    "`[a-z]+`",
    ",",
    ";",
    "let x =",
    "x",
    "map(",
    "entropy(",
    "split(",
    "join(",
    "matchesAny(",
    "len(",
    "true",
    "attributes[\"path\"]",
];
