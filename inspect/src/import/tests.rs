use proptest::prelude::*;

use super::*;
use crate::engine::Engine;
use crate::known::Known;
use crate::rule::{Confidence, Tier};

const GITLEAKS: &str = include_str!("tests/gitleaks.toml");
const BETTERLEAKS: &str = include_str!("tests/betterleaks.toml");

fn imported(file: &str) -> Imported {
    import(file.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// What the rules of a file find, as `rule=secret`.
fn found(file: &str, text: &str) -> Vec<String> {
    let engine = Engine::new(imported(file).rules).unwrap();
    let matches = engine.find(text.as_bytes(), &Known::default()).into_iter();
    let name = |found: crate::engine::Match| {
        let crate::engine::By::Rule(index) = found.by else { panic!("no rule") };
        format!("{}={}", engine.rule(index).unwrap().id, text.get(found.span).unwrap())
    };
    matches.map(name).collect()
}

fn notes(imported: &Imported, rule: &str) -> Vec<(Outcome, String)> {
    let of = |note: &&Note| note.rule.as_deref().unwrap_or("") == rule;
    imported.notes.iter().filter(of).map(|note| (note.outcome, note.reason.clone())).collect()
}

/// One rule with more keys.
fn one(keys: &str) -> String {
    format!(
        "[[rules]]\nid = \"acme\"\nregex = 'acme_([a-z0-9]{{8}})'\nkeywords = ['acme_']\n{keys}"
    )
}

#[test]
fn a_gitleaks_file_is_taken_over_with_its_allow_lists() {
    let file = imported(GITLEAKS);
    let ids: Vec<_> = file.rules.iter().map(|rule| &*rule.id).collect();
    assert_eq!(ids, ["acme-token", "acme-pair", "acme-either", "generic-acme"]);
    assert_eq!(file.title, "rules of acme");
    let find = |text: &str| found(GITLEAKS, text);
    assert_eq!(find("acme_k3jf83kd92ls"), ["acme-token=acme_k3jf83kd92ls"]);
    assert!(find("acme_aaaaaaaaaaaa").is_empty(), "too little entropy");
    assert!(find("acme_sampl3sampl3").is_empty(), "a stop word of the rule");
    assert!(find("acme_k3jf83kd92ls # nosecret").len() == 1, "what follows is not looked at");
    assert!(find("nosecret: acme_k3jf83kd92ls").is_empty(), "a pattern for the line");
    assert!(find("acme_00000k3jf83k").is_empty(), "both conditions of an `AND`");
    assert!(find("acme_00000k3jf8zz").len() == 1, "one condition of an `AND`");
    assert!(find("acme_globalk3jf83").is_empty(), "an allow-list of the file");
    assert_eq!(find("ID=ab12 KEY=q8w7e6r5"), ["acme-pair=q8w7e6r5"], "secretGroup");
    assert_eq!(find("left:q8w7e6r5"), ["acme-either=q8w7e6r5"]);
    assert_eq!(find("right=q8w7e6r5"), ["acme-either=q8w7e6r5"]);
    assert!(find("right=targeted").is_empty(), "an allow-list for one rule");
    assert_eq!(find("left:old77old"), ["acme-either=old77old"]);
    assert!(find("my acme secret = old77old").is_empty(), "the old form of an allow-list");

    assert_eq!(file.rules[0].tier, Tier::Prefixed);
    assert_eq!(file.rules[0].confidence, Confidence::High);
    assert_eq!(file.rules[3].tier, Tier::Contextual);
    assert_eq!(file.rules[3].confidence, Confidence::Medium);
    assert_eq!(file.rules[0].keywords, ["acme_"]);
    let said =
        |rule: &str, part: &str| notes(&file, rule).iter().any(|(_, reason)| reason.contains(part));
    assert!(said("", "paths and commits are not known here"));
    assert!(said("acme-files", "no regex"));
    assert!(said("acme-pair", "path: it applies to all text"));
    assert!(said("acme-token", "needs a path or a commit: it allows nothing"));
    assert_eq!(file.count(Outcome::Refused), 1);
}

#[test]
fn a_betterleaks_file_is_taken_over_with_its_filters() {
    let file = imported(BETTERLEAKS);
    let ids: Vec<_> = file.rules.iter().map(|rule| &*rule.id).collect();
    assert_eq!(ids, ["acme-key.1", "acme-password", "acme-odd"]);
    let find = |text: &str| found(BETTERLEAKS, text);
    assert_eq!(find("acme.key: x7q9m2k4v8z1"), ["acme-key.1=x7q9m2k4v8z1"]);
    assert!(find("acme.key: aaaaaaaaaaaa").is_empty(), "entropy");
    assert!(find("acme.key: examplevalue").is_empty(), "token ratio");
    assert!(find("public acme.key: x7q9m2k4v8z1").is_empty(), "what stands before");
    assert!(find("acme.key: ${acme_value}").is_empty(), "the filter of the file");
    assert_eq!(find("pw=\"hunter22\""), ["acme-password=hunter22"], "the first group of two");
    assert_eq!(find("pw='hunter22'"), ["acme-password=hunter22"], "the second group of two");
    assert!(find("pw='changeme'").is_empty(), "a word");
    assert_eq!(
        find("odd_12345678"),
        ["acme-odd=odd_12345678"],
        "an unknown function drops nothing"
    );

    let confidences: Vec<_> = file.rules.iter().map(|rule| rule.confidence).collect();
    assert_eq!(confidences, [Confidence::High, Confidence::Low, Confidence::Medium]);
    for (rule, outcome, part) in [
        ("", Outcome::Ignored, "prefilter"),
        ("acme-key.1", Outcome::Ignored, "weir asks no provider"),
        ("acme-key.1", Outcome::Widened, "components"),
        ("acme-id", Outcome::Refused, "skipReport"),
        ("acme-odd", Outcome::Widened, "weir does not have crystalBall()"),
        ("acme-odd", Outcome::Ignored, "unknown key surprise"),
    ] {
        let said = notes(&file, rule);
        let has = said.iter().any(|(o, reason)| *o == outcome && reason.contains(part));
        assert!(has, "{rule} {part}: {said:?}");
    }
}

#[test]
fn what_a_rule_cannot_be_is_refused_alone() {
    let good = one("");
    for (bad, reason) in [
        ("id = 'bad'\nregex = '('", "unclosed group"),
        ("id = 'bad'\nregex = 'x*'", "matches where nothing is"),
        ("id = 'bad'\nregex = '(a)'\nsecretGroup = 2", "1 groups"),
        ("id = 'bad'\nregex = '(?:\\w{1000}){1000}'", "too large an automaton"),
        ("id = 'bad'\nregex = 'a(?=b)'", "look-around"),
        ("id = 'bad'\nregex = 7", "invalid type"),
        ("id = 'bad'", "no regex"),
        ("id = 'acme'\nregex = 'x'", "taken by an earlier rule"),
        ("id = 'bad id'\nregex = 'x'", "a rule's id is"),
        ("regex = 'x'", "a rule's id is"),
        ("id = 'bad'\nregex = 'x'\nkeywords = 'x'", "invalid type"),
    ] {
        let file = imported(&format!("{good}\n[[rules]]\n{bad}"));
        assert_eq!(file.rules.len(), 1, "{bad}");
        assert_eq!(file.count(Outcome::Refused), 1, "{bad}");
        let refused = file.notes.iter().find(|note| note.outcome == Outcome::Refused).unwrap();
        assert!(refused.reason.contains(reason), "{bad}: {}", refused.reason);
    }
}

#[test]
fn a_filter_that_is_not_understood_drops_nothing() {
    for keys in [
        "filter = 'entropy(secret) <'",
        "filter = 'entropy(3) < 100'",
        "filter = 'matchesAny(secret, [`(`])'",
        "[[rules.allowlists]]\nregexes = ['(']",
        "[[rules.allowlists]]\nregexes = ['.']\ncondition = 'MAYBE'",
        "[[rules.allowlists]]\nregexes = ['.']\nregexTarget = 'file'",
        "[[rules.allowlists]]\nregexes = ['.']\nunknown = 1",
        "[[rules.allowlists]]\nregexes = ['.']\npaths = ['x']\ncondition = 'AND'",
    ] {
        let file = one(keys);
        assert_eq!(found(&file, "acme_k3jf83kd"), ["acme=k3jf83kd"], "{keys}");
        assert_eq!(imported(&file).count(Outcome::Widened), 1, "{keys}");
    }
    // And one that is understood, for comparison.
    assert!(found(&one("[[rules.allowlists]]\nregexes = ['.']"), "acme_k3jf83kd").is_empty());
    assert!(found(&one("tokenEfficiency = true"), "acme_password").is_empty());
    // Quotes, escapes and controls of a pattern arrive as they are.
    let quoted =
        one("[[rules.allowlists]]\nregexTarget = 'line'\nregexes = [\"\\t\\\\\\\\\\\"`é acme\"]");
    assert!(found(&quoted, "\t\\\"`é acme_k3jf83kd").is_empty());
    assert_eq!(found(&quoted, "\t\\\"é acme_k3jf83kd").len(), 1);
}

#[test]
fn keywords_are_said_to_be_missing_or_apart() {
    let rule = |regex: &str, keywords: &str| {
        let file =
            imported(&format!("[[rules]]\nid = 'k'\nregex = '''{regex}'''\nkeywords = {keywords}"));
        notes(&file, "k").into_iter().map(|(_, reason)| reason).collect::<String>()
    };
    assert!(rule("acme_[a-z]{8}", "[]").contains("tried everywhere"));
    assert!(rule("(?i)key[ =]+([a-f0-9]{8})", "['acme']").contains("near the match"));
    for fine in ["(?i)acme[ =]+([a-f0-9]{8})", "(?:x|y)(acme_[a-z]{3})", "(?:acme_a|ACME_b)[0-9]"] {
        assert_eq!(rule(fine, "['ACME']"), "", "{fine}");
    }
    assert!(rule("(?:acme_a|other)[0-9]", "['acme']").contains("near the match"));
    assert!(rule("(?:acme)?_[0-9]", "['acme']").contains("near the match"));
}

#[test]
fn files_are_refused_as_a_whole_when_they_must_be() {
    let refused = |file: &[u8]| import(file).unwrap_err().to_string();
    assert!(refused(&vec![b'#'; limits::MAX_RULE_FILE_BYTES + 1]).contains("too long"));
    assert!(refused(b"title = 'x\xff'").contains("not UTF-8 at byte 10"));
    assert!(refused(b"title = 'x'\n[[rules").contains("line 2"));
    assert!(refused(b"title = 'x'").contains("no [[rules]]"));
    assert!(refused(b"rules = 3").contains("rule file"));
    let extends = format!("[extend]\nuseDefault = true\n{}", one(""));
    assert!(refused(extends.as_bytes()).contains("extends another one"));
    let many = "[[rules]]\nid='a'\n".repeat(limits::MAX_RULES + 1);
    assert!(refused(many.as_bytes()).contains("at most"));
    let deep = format!("title = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(deep.as_bytes()).contains("rule file"));
    // An error does not quote what may be a secret.
    assert!(!refused(b"a = 'hunter2'\nb = hunter2\n").contains("hunter2"));
}

#[test]
fn regex_bombs_end_the_import_soon() {
    let bomb =
        |n: usize| format!("[[rules]]\nid='b{n}'\nregex='(?:[a-z]{{900}}|\\w{{901}}){{500}}'\n");
    let bombs: String = (0..limits::MAX_RULES).map(bomb).collect();
    assert!(matches!(import(bombs.as_bytes()), Err(ImportError::Large)));
    let list = "`\\w{999}`,".repeat(400);
    let filter = |n: usize| {
        format!("[[rules]]\nid='f{n}'\nregex='x'\nfilter='''matchesAny(secret, [{list}])'''\n")
    };
    let filters: String = (0..500).map(filter).collect();
    assert!(matches!(import(filters.as_bytes()), Err(ImportError::Large)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = import(&bytes);
    }

    #[test]
    fn no_rule_panics(regex in "[a-z\\\\(){}|*+?\\[\\]^$0-9]{0,30}", filter in "[a-z(){}\\[\\]\"|&!<=# 0-9.,:;?]{0,60}") {
        let file = format!("[[rules]]\nid = 'x'\nregex = '''{regex}'''\nfilter = '''{filter}'''");
        if let Ok(file) = import(file.as_bytes()) {
            prop_assert_eq!(file.rules.len() + file.count(Outcome::Refused), 1);
            let engine = Engine::new(file.rules);
            prop_assert!(engine.is_ok(), "the engine compiles what was imported");
        }
    }
}
