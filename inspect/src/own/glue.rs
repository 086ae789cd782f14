//! Makes the expression of a rule from its value and its context.
//!
//! - input: the expression of a value, words of a context
//! - output: an expression with one group: the value
//! - bound: the parts around a value take at most some 100 bytes
//! - on failure: cannot fail; the engine refuses what does not compile

use regex_syntax::hir::{Class, Hir, HirKind};

/// What a name says when its value is secret.
const NOUN: &str = "token|key|secret|pass|pwd|auth|cred|api|access|client|bearer|webhook|hook|pat|sid|sign|licen[cs]e|private|app|dsn|jwt|login";

/// Bytes of a word from which on it is not found inside of other words by chance.
const DISTINCT_BYTES: usize = 7;

/// A value that is known by its own beginning.
pub(super) fn prefixed(value: &str) -> String {
    // An escape like `\n` of a text that is quoted once more is no part of a word.
    let signs = last_signs(value);
    let end =
        if signs.is_empty() { r"\b{end-half}".to_owned() } else { format!(r"(?:[^\w{signs}]|$)") };
    format!(r"(?:\b{{start-half}}|\\[nrt])({value}){end}")
}

/// Signs that a value may end in, so that what continues it is no end.
fn last_signs(value: &str) -> String {
    let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(value);
    let has = |sign: u8| parsed.as_ref().is_ok_and(|hir| ends_in(hir, sign));
    let signs = [("-", b'-'), ("~", b'~'), ("+", b'+'), ("/", b'/')];
    let escaped = signs.iter().filter(|(_, sign)| has(*sign)).map(|(text, _)| format!("\\{text}"));
    escaped.collect()
}

fn ends_in(hir: &Hir, sign: u8) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(Class::Unicode(_)) => false,
        HirKind::Literal(literal) => literal.0.last() == Some(&sign),
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&sign))
        }
        HirKind::Repetition(repetition) => ends_in(&repetition.sub, sign),
        HirKind::Capture(capture) => ends_in(&capture.sub, sign),
        HirKind::Alternation(subs) => subs.iter().any(|sub| ends_in(sub, sign)),
        HirKind::Concat(subs) => {
            // Items at the end may be missing.
            let is_there =
                |sub: &Hir| sub.properties().minimum_len().is_some_and(|least| least > 0);
            let needed = subs.iter().rposition(is_there).unwrap_or(0);
            subs.iter().skip(needed).any(|sub| ends_in(sub, sign))
        }
    }
}

/// A value that is known by the name it is assigned to.
pub(super) fn assigned(name: &str, value: &str) -> String {
    format!("(?:{name}){ASSIGN}({value}){END}")
}

/// Names with one of the words, and with one that says secret.
pub(super) fn name(words: &[String], is_named: bool) -> String {
    let words: Vec<String> = words.iter().map(|word| self::word(word)).collect();
    let words = words.join("|");
    let tail = if is_named {
        format!(r"[\w.\- ]{{0,16}}?(?i:{NOUN})[\w.\-]{{0,20}}")
    } else {
        r"(?:[A-Z0-9_.\- ][\w.\-]{0,20}|(?i:token|key|secret|api|pass)[\w.\-]{0,16})?".to_owned()
    };
    format!("(?:{words}){tail}")
}

/// From the end of a name to its value, in code, configuration, JSON, YAML, XML, shells.
const ASSIGN: &str = concat!(
    // closes the name: `"`, `']`, `")`, `\"`
    r#"[\\'"`\])]{0,3}"#,
    "(?:",
    // = := ::= :::= ?= .= += == => : -> || ?? or , > (
    r"\s{0,6}(?:[:?.+=|]{0,3}=>?|:|->|\|\||\?\?|or |,|>|\()",
    // name: type = value, name type = value
    r"|\s?:?\s{0,2}[A-Za-z&*'.<>?\[\]]{1,14}\s{0,2}=",
    // name="…" value="…", name: …, value: …
    r#"|[\s,;]{1,12}[\\'"]{0,2}(?i:value|default)[\\'"]{0,2}\s{0,2}[:=>]"#,
    // --name value, ENV name value
    r"|[ \t]",
    ")",
    // opens the value: `b"`, `String("`, `\"`, `<![CDATA[`
    r#"\s{0,12}(?:[A-Za-z.]{1,16}\(|<!\[CDATA\[)?(?:[@bBuUrRfFL$]?[\\'"`(\[{]{1,3})?"#,
);

/// What stands after a value.
const END: &str = r#"(?:[\s'"`\\;,<&)}\]|#]|$)"#;

/// A word in a name, in any case: `message bird` is `messageBird`, `message_bird`, `MESSAGE-BIRD`.
fn word(words: &str) -> String {
    let plain = words.split(' ').collect::<Vec<_>>().join("[-_. ]?");
    if words.len() >= DISTINCT_BYTES {
        return format!("(?i:{plain})");
    }
    // A short word begins a name or a part of it.
    let humps: Vec<String> = words.split(' ').map(capitalised).collect();
    format!("(?:(?:^|[^A-Za-z])(?i:{plain})|[a-z]{})", humps.concat())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}
