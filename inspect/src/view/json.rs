//! JSON without parsing it into values: where its strings and numbers stand.
//!
//! - input: JSON texts one after the other, also broken off
//! - output: [`Token`]s; strings without escapes; the path to a place
//! - bound: linear in the text; 12 bytes for each token
//! - on failure: none if something stands outside strings that JSON does not have there

use std::ops::Range;

use memchr::memchr2;

use super::unescape::unicode;
use super::{Style, View};

/// A string, or a number of at least [`MIN_DIGITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    start: u32,
    end: u32,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Without any escape.
    Plain,
    /// With escapes.
    Escaped,
    Number,
}

impl Token {
    fn new(span: Range<usize>, kind: Kind) -> Option<Self> {
        let (start, end) = (u32::try_from(span.start).ok()?, u32::try_from(span.end).ok()?);
        Some(Self { start, end, kind })
    }

    /// Of a string: what stands between its quotation marks.
    pub(crate) fn span(self) -> Range<usize> {
        let wide = |at| usize::try_from(at).unwrap_or(usize::MAX);
        wide(self.start)..wide(self.end)
    }
}

/// Could this be JSON? Its first bytes are looked at.
pub(crate) fn begins(text: &[u8]) -> bool {
    let rest = text.get(start(text)..).unwrap_or_default();
    let (first, rest) = match rest.trim_ascii_start() {
        [first @ (b'{' | b'['), rest @ ..] => (*first, rest.trim_ascii_start()),
        [b'"', ..] => return true,
        _ => return false,
    };
    match rest {
        [b'"' | b'}' | b']', ..] => true,
        [b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n', ..] => first == b'[',
        _ => false,
    }
}

/// Behind a byte order mark, and the prefix against inclusion as a script.
fn start(text: &[u8]) -> usize {
    let rest = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let rest = rest.strip_prefix(b")]}'").unwrap_or(rest);
    text.len() - rest.len()
}

/// All strings but empty ones, and long numbers.
pub(crate) fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = start(text);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                let (end, escaped) = string(text, at + 1);
                let kind = if escaped { Kind::Escaped } else { Kind::Plain };
                if end > at + 1 {
                    tokens.push(Token::new(at + 1..end, kind)?);
                }
                at = end + 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = text.get(at..)?;
                let length = rest.iter().take_while(|byte| in_number(**byte)).count();
                if length >= MIN_DIGITS {
                    tokens.push(Token::new(at..at + length, Kind::Number)?);
                }
                at += length;
            }
            b'{' | b'}' | b'[' | b']' | b':' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x1e => {
                at += 1
            }
            _ => at += word(text.get(at..)?)?,
        }
    }
    Some(tokens)
}

/// Where a string ends: at its quotation mark, or with the text. And has it escapes?
fn string(text: &[u8], start: usize) -> (usize, bool) {
    let mut at = start;
    let mut escaped = false;
    while let Some(rest) = text.get(at..)
        && let Some(found) = memchr2(b'"', b'\\', rest)
    {
        at += found;
        if text.get(at) == Some(&b'"') {
            return (at, escaped);
        }
        escaped = true;
        at += 2;
    }
    (text.len(), escaped)
}

/// The length of a literal, also broken off.
fn word(rest: &[u8]) -> Option<usize> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let found = rest.get(..length)?;
    let whole = length < rest.len();
    let is = |word: &&[u8]| if whole { found == *word } else { word.starts_with(found) };
    [b"true".as_slice(), b"false", b"null"].iter().any(is).then_some(length.max(1))
}

fn in_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// Adds a string's content to `view`, without escapes. What is none stays.
pub(crate) fn unescape(text: &[u8], token: Token, view: &mut View) {
    let Range { start: mut from, end } = token.span();
    if token.kind != Kind::Escaped {
        return view.copy(text, from..end);
    }
    let mut at = from;
    while let Some(rest) = text.get(at..end)
        && let Some(found) = memchr::memchr(b'\\', rest)
    {
        at += found;
        let mut character = [0; 4];
        let (length, out): (_, &[u8]) = match text.get(at + 1..end).unwrap_or_default() {
            [b'n', ..] => (2, b"\n"),
            [b'"', ..] => (2, b"\""),
            [b'\\', ..] => (2, b"\\"),
            [b't', ..] => (2, b"\t"),
            [b'r', ..] => (2, b"\r"),
            [b'/', ..] => (2, b"/"),
            [b'b', ..] => (2, b"\x08"),
            [b'f', ..] => (2, b"\x0c"),
            rest @ [b'u', ..] => match unicode(rest) {
                Some((length, found)) => (length + 1, found.encode_utf8(&mut character).as_bytes()),
                None => (0, b""),
            },
            _ => (0, b""),
        };
        if length == 0 {
            at += 1;
            continue;
        }
        view.copy(text, from..at);
        view.put(at..at + length, out, Style::Backslash);
        at += length;
        from = at;
    }
    view.copy(text, from..end);
}

/// Names places, in ascending order; others begin from the start again.
pub(crate) struct Paths<'t> {
    text: &'t [u8],
    at: usize,
    stack: Vec<Step>,
    name: Range<usize>,
    restarts: usize,
}

enum Step {
    Key(Range<usize>),
    Nth(usize),
}

impl<'t> Paths<'t> {
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self { text, at: start(text), stack: Vec::new(), name: 0..0, restarts: 0 }
    }

    /// The path to the string or number at `place`: `$.messages[0].content`.
    pub(crate) fn path(&mut self, place: usize) -> String {
        if place < self.at {
            let restarts = self.restarts + 1;
            if restarts > MAX_RESTARTS {
                return "$".to_owned();
            }
            *self = Self { restarts, ..Self::new(self.text) };
        }
        self.walk(place);
        let mut path = "$".to_owned();
        for step in self.stack.iter().take(MAX_STEPS) {
            match step {
                Step::Key(key) => {
                    let end = key.end.min(key.start + MAX_KEY_BYTES);
                    let key = self.text.get(key.start..end).unwrap_or_default();
                    path.extend([".", &String::from_utf8_lossy(key)]);
                }
                Step::Nth(nth) => path.push_str(&format!("[{nth}]")),
            }
        }
        path
    }

    fn walk(&mut self, place: usize) {
        while self.at < place
            && let Some(byte) = self.text.get(self.at)
        {
            match (byte, self.stack.last_mut()) {
                (b'"', _) => {
                    let (end, _) = string(self.text, self.at + 1);
                    if end >= place {
                        return;
                    }
                    self.name = self.at + 1..end;
                    self.at = end;
                }
                (b':', Some(Step::Key(key))) => *key = self.name.clone(),
                (b',', Some(Step::Nth(nth))) => *nth += 1,
                (b'{', _) => self.stack.push(Step::Key(0..0)),
                (b'[', _) => self.stack.push(Step::Nth(0)),
                (b'}' | b']', _) => {
                    self.stack.pop();
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// Shorter numbers are no secrets.
const MIN_DIGITS: usize = 8;
/// Of a path: it is for people.
const MAX_KEY_BYTES: usize = 64;
const MAX_STEPS: usize = 32;
/// Each costs a walk; then places have no names any more.
const MAX_RESTARTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(text: &str) -> Option<Vec<String>> {
        let tokens = tokens(text.as_bytes())?;
        let one = |token: &Token| {
            let mut view = View::default();
            unescape(text.as_bytes(), *token, &mut view);
            String::from_utf8(view.text).unwrap()
        };
        Some(tokens.iter().map(one).collect())
    }

    #[test]
    fn strings_and_long_numbers_are_tokens() {
        let text = "\u{feff})]}'\n{\"a\\n\": [\"\", \"b\\u0041\\ud83d\\ude00\\q\", true, 12345678.9, 1e5]}\n{\"x\":null}";
        assert_eq!(strings(text).unwrap(), ["a\n", "bA😀\\q", "12345678.9", "x"]);
        assert_eq!(strings(r#"{"a":"broken \"#).unwrap(), ["a", "broken \\"], "broken off");
        assert_eq!(strings(r#"{"a":tru"#).unwrap(), ["a"]);
        for text in ["{a: 1}", "[INFO] \"x\"", "{\"a\": 'b'}", "{ return \"x\"; }"] {
            assert_eq!(strings(text), None, "{text}");
        }
    }

    #[test]
    fn paths_name_places() {
        let text =
            br#"{"id":1,"messages":[{"role":"user","content":"x"},{"content":["a","here"]}]}"#;
        let place = |part| memchr::memmem::find(text, part).unwrap();
        let mut paths = Paths::new(text);
        assert_eq!(paths.path(place(b"user")), "$.messages[0].role");
        assert_eq!(paths.path(place(b"here")), "$.messages[1].content[1]");
        assert_eq!(paths.path(place(b"user")), "$.messages[0].role", "back again");
    }

    proptest! {
        #[test]
        fn strings_are_what_serde_says(text: String, key: String) {
            let json = serde_json::json!({ &key: [&text] }).to_string();
            let expected: Vec<_> = [key, text].into_iter().filter(|s| !s.is_empty()).collect();
            prop_assert_eq!(strings(&json).unwrap(), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in "[{}\\[\\]\":,\\\\ntrue0-9 ]{0,80}") {
            Paths::new(text.as_bytes()).path(text.len() / 2);
            strings(&text);
        }
    }
}
