//! A JSON text with the place of every value in it.
//!
//! - input: one JSON text (RFC 8259)
//! - output: values by key, with their spans, so that one string can be replaced and every other byte
//!   stays
//! - bound: `MAX_DEPTH` levels, `MAX_NODES` values
//! - on failure: [`Error`]; also for an object that has the asked key twice

use std::borrow::Cow;
use std::ops::Range;

use crate::stream::Error;
use crate::stream::string;

/// A parsed text.
#[derive(Debug)]
pub(super) struct Json<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
}

/// One value of it.
#[derive(Clone, Copy)]
pub(super) struct Value<'j> {
    json: &'j Json<'j>,
    node: Node,
    /// Index of the node after the first child's place.
    first: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    start: u32,
    end: u32,
    /// Index of the next node that is not inside this one.
    next: u32,
    /// Content of the key, without quotes; empty for elements of arrays.
    key: (u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Other,
}

const MAX_DEPTH: usize = 128;
const MAX_NODES: usize = 1 << 20;

impl<'a> Json<'a> {
    /// Parses all of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if std::str::from_utf8(bytes).is_err() || u32::try_from(bytes.len()).is_err() {
            return Err(MALFORMED);
        }
        let mut parser = Parser { bytes, at: 0, nodes: Vec::new() };
        parser.space();
        parser.value((0, 0), 0)?;
        parser.space();
        if parser.at == bytes.len() {
            Ok(Self { bytes, nodes: parser.nodes })
        } else {
            Err(MALFORMED)
        }
    }

    /// The outermost value.
    pub(super) fn root(&self) -> Option<Value<'_>> {
        self.at(0)
    }

    fn at(&self, index: usize) -> Option<Value<'_>> {
        let node = *self.nodes.get(index)?;
        Some(Value { json: self, node, first: index + 1 })
    }

    fn slice(&self, start: u32, end: u32) -> &[u8] {
        self.bytes.get(index(start)..index(end)).unwrap_or_default()
    }
}

impl<'j> Value<'j> {
    /// Its bytes, with the quotes of a string.
    pub(super) fn span(&self) -> Range<usize> {
        index(self.node.start)..index(self.node.end)
    }

    pub(super) fn is_object(&self) -> bool {
        self.node.kind == Kind::Object
    }

    pub(super) fn is_array(&self) -> bool {
        self.node.kind == Kind::Array
    }

    pub(super) fn is_string(&self) -> bool {
        self.node.kind == Kind::String
    }

    pub(super) fn is_null(&self) -> bool {
        self.raw() == b"null"
    }

    /// Whether it is a number, `true`, `false` or `null`.
    pub(super) fn is_word(&self) -> bool {
        self.node.kind == Kind::Other
    }

    /// Whether it has no members or elements.
    pub(super) fn is_empty(&self) -> bool {
        self.children().next().is_none()
    }

    pub(super) fn is_true(&self) -> bool {
        self.raw() == b"true"
    }

    pub(super) fn is_false(&self) -> bool {
        self.raw() == b"false"
    }

    /// The text of a string, else nothing.
    pub(super) fn text(&self) -> Option<Cow<'j, [u8]>> {
        let inner = self.raw().get(1..self.raw().len().saturating_sub(1));
        inner.filter(|_| self.is_string()).map(string::decode)
    }

    /// A number that counts.
    pub(super) fn count(&self) -> Option<u64> {
        std::str::from_utf8(self.raw()).ok()?.parse().ok()
    }

    /// Members of an object or elements of an array, with their keys.
    pub(super) fn children(&self) -> impl Iterator<Item = (Cow<'j, [u8]>, Value<'j>)> + use<'j> {
        let (json, end) = (self.json, index(self.node.next));
        let mut at = self.first;
        std::iter::from_fn(move || {
            let child = json.at(at).filter(|_| at < end)?;
            at = index(child.node.next);
            Some((string::decode(json.slice(child.node.key.0, child.node.key.1)), child))
        })
    }

    /// The member of a name.
    ///
    /// # Errors
    /// When there are two: readers differ in which one they take.
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, Error> {
        if !self.is_object() {
            return Ok(None);
        }
        let mut found = self.children().filter(|(name, _)| **name == *key.as_bytes());
        let first = found.next();
        if found.next().is_some() {
            return Err(Error::Malformed("an event has a key twice"));
        }
        Ok(first.map(|(_, value)| value))
    }

    fn raw(&self) -> &'j [u8] {
        self.json.slice(self.node.start, self.node.end)
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl Parser<'_> {
    fn value(&mut self, key: (u32, u32), depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || self.nodes.len() >= MAX_NODES {
            return Err(Error::TooLarge("JSON of an event"));
        }
        let (index, start) = (self.nodes.len(), self.at);
        let kind = match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            _ => Kind::Other,
        };
        let zero = number(start);
        self.nodes.push(Node { kind, start: zero, end: zero, next: 0, key });
        match kind {
            Kind::Object => self.members(depth)?,
            Kind::Array => self.elements(depth)?,
            Kind::String => self.string().map(|_| ())?,
            Kind::Other => self.scalar()?,
        }
        let (end, next) = (number(self.at), number(self.nodes.len()));
        if let Some(node) = self.nodes.get_mut(index) {
            node.end = end;
            node.next = next;
        }
        Ok(())
    }

    fn members(&mut self, depth: usize) -> Result<(), Error> {
        self.at += 1;
        self.space();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.need(b':')?;
            self.space();
            self.value((number(key.start), number(key.end)), depth + 1)?;
            self.space();
            if self.eat(b'}') {
                return Ok(());
            }
            self.need(b',')?;
        }
    }

    fn elements(&mut self, depth: usize) -> Result<(), Error> {
        self.at += 1;
        self.space();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.space();
            self.value((0, 0), depth + 1)?;
            self.space();
            if self.eat(b']') {
                return Ok(());
            }
            self.need(b',')?;
        }
    }

    /// Passes a string; the range of its content.
    fn string(&mut self) -> Result<Range<usize>, Error> {
        self.need(b'"')?;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                _ => return Err(MALFORMED),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Error> {
        self.at += 1;
        let after = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') => {
                let hex = self.bytes.get(self.at + 1..self.at + 5).unwrap_or_default();
                if hex.len() < 4 || !hex.iter().all(u8::is_ascii_hexdigit) {
                    return Err(MALFORMED);
                }
                5
            }
            _ => return Err(MALFORMED),
        };
        self.at += after;
        Ok(())
    }

    /// Passes a number or a word.
    fn scalar(&mut self) -> Result<(), Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len =
            rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
        let word = rest.get(..len).unwrap_or_default();
        self.at += len;
        let good = matches!(word, b"true" | b"false" | b"null") || is_number(word);
        if good { Ok(()) } else { Err(MALFORMED) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn need(&mut self, byte: u8) -> Result<(), Error> {
        if self.eat(byte) { Ok(()) } else { Err(MALFORMED) }
    }
}

/// RFC 8259, section 6.
fn is_number(word: &[u8]) -> bool {
    let word = word.strip_prefix(b"-").unwrap_or(word);
    let (integer, rest) = digits(word);
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => digits(rest),
        None => (1, rest),
    };
    let (exponent, rest) = match rest.split_first() {
        Some((b'e' | b'E', rest)) => {
            digits(rest.strip_prefix(b"+").or(rest.strip_prefix(b"-")).unwrap_or(rest))
        }
        _ => (1, rest),
    };
    let padded = integer > 1 && word.first() == Some(&b'0');
    integer > 0 && fraction > 0 && exponent > 0 && rest.is_empty() && !padded
}

/// How many digits there are, and what comes after.
fn digits(bytes: &[u8]) -> (usize, &[u8]) {
    let count = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    (count, bytes.get(count..).unwrap_or_default())
}

/// Lengths are checked when parsing begins.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

const MALFORMED: Error = Error::Malformed("an event is not JSON");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_those_of_the_values() {
        let text = br#" {"a" : [1, {"b\u0063": "x\"y"}], "n": -1.5e3} "#;
        let json = Json::parse(text).unwrap();
        let root = json.root().unwrap();
        let (_, element) = root.get("a").unwrap().unwrap().children().nth(1).unwrap();
        let string = element.get("bc").unwrap().unwrap();
        assert_eq!(&text[string.span()], br#""x\"y""#);
        assert_eq!(&*string.text().unwrap(), b"x\"y");
        assert_eq!(&text[root.get("n").unwrap().unwrap().span()], b"-1.5e3");
        assert!(root.get("b").unwrap().is_none());
    }

    #[test]
    fn a_key_that_is_asked_for_may_not_stand_twice() {
        let json = Json::parse(br#"{"a":1,"\u0061":2}"#).unwrap();
        assert!(json.root().unwrap().get("a").is_err());
    }

    proptest! {
        #[test]
        fn accepts_what_serde_accepts(text in r#"[\[\]{}:,"\\ut0-9a-f.eE+\- \n]{0,24}"#) {
            let serde = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(Json::parse(text.as_bytes()).is_ok(), serde, "{}", text);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if Json::parse(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok());
            }
        }
    }
}
