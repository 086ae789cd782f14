//! The wire bytes of what is held in a channel.
//!
//! - input: bytes of a view, each with the wire bytes that it stands for
//! - output: wire bytes, as they were or with a span replaced; JSON stays JSON
//! - bound: what the channel holds
//! - on failure: cannot fail

use std::collections::VecDeque;

use crate::stream::string;

/// A queue of view bytes and their wire bytes.
#[derive(Debug, Default)]
pub(super) struct Units {
    units: VecDeque<Unit>,
    raw: VecDeque<u8>,
}

/// One byte of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    /// Wire bytes: 1 for a plain byte; of an escape sequence the first view byte has all of them.
    raw: u8,
    class: Class,
}

/// Where a byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// In text.
    Plain,
    /// In a string of a JSON text.
    Inside,
    /// The quote of a string of a JSON text.
    Quote,
    /// Between the strings of a JSON text.
    Outside,
}

/// What befalls bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// They stay.
    #[default]
    Keep,
    /// This stands in their place.
    Replace(Vec<u8>),
}

impl Fate {
    /// What befalls the rest of a value whose beginning had this fate.
    pub(super) fn rest(&self) -> Self {
        match self {
            Self::Keep => Self::Keep,
            Self::Replace(_) => Self::Replace(Vec::new()),
        }
    }
}

impl Units {
    /// Adds bytes that stand for themselves.
    pub(super) fn add(&mut self, class: Class, bytes: &[u8]) {
        self.units.extend(bytes.iter().map(|_| Unit { raw: 1, class }));
        self.raw.extend(bytes);
    }

    /// Adds an escape sequence of a JSON string that stands for `view`.
    pub(super) fn add_escape(&mut self, raw: &[u8], view: &[u8]) {
        let first = u8::try_from(raw.len()).unwrap_or(u8::MAX);
        let lens = std::iter::once(first).chain(std::iter::repeat(0)).take(view.len());
        self.units.extend(lens.map(|raw| Unit { raw, class: Class::Inside }));
        self.raw.extend(raw);
    }

    /// View bytes.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Wire bytes.
    pub(super) fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// Lets the first `count` view bytes go as they are.
    pub(super) fn keep(&mut self, count: usize, out: &mut Vec<u8>) {
        let raw = self.units.drain(..count.min(self.units.len())).map(|u| usize::from(u.raw)).sum();
        out.extend(self.raw.drain(..self.raw.len().min(raw)));
    }

    /// Lets the first `count` view bytes meet their fate.
    pub(super) fn replace(&mut self, count: usize, fate: &Fate, out: &mut Vec<u8>) {
        match fate {
            Fate::Keep => self.keep(count, out),
            Fate::Replace(with) => self.put(count, with, out),
        }
    }

    /// Puts `with` in the place of the first `count` view bytes: in a string of a JSON text if some
    /// of them stand in one, and always so that the text stays JSON if it is.
    fn put(&mut self, count: usize, with: &[u8], out: &mut Vec<u8>) {
        let inside = self.units.iter().take(count).any(|unit| unit.class == Class::Inside);
        let mut with = Some(with);
        let mut left = count.min(self.units.len());
        while let Some(class) = self.units.front().map(|unit| unit.class).filter(|_| left > 0) {
            let run = self.units.iter().take(left).take_while(|unit| unit.class == class).count();
            left -= run;
            let mut raw = Vec::new();
            self.keep(run, &mut raw);
            match class {
                Class::Plain => out.extend(with.take().unwrap_or_default()),
                Class::Inside => string::encode(with.take().unwrap_or_default(), out),
                Class::Quote => out.append(&mut raw),
                Class::Outside if inside => outside(&raw, &mut None, out),
                Class::Outside => outside(&raw, &mut with, out),
            }
        }
    }
}

/// Masks what stands between strings. Punctuation and words of JSON stay; a number stays a number,
/// without its digits; anything else is no JSON, and is replaced like text.
fn outside(raw: &[u8], with: &mut Option<&[u8]>, out: &mut Vec<u8>) {
    for token in raw.chunk_by(|a, b| is_punctuation(*a) == is_punctuation(*b)) {
        let punctuation = token.first().is_some_and(|byte| is_punctuation(*byte));
        if punctuation || matches!(token, b"true" | b"false" | b"null") {
            out.extend(token);
        } else if token.iter().all(|b| b.is_ascii_digit() || b"+-.eE".contains(b)) {
            out.extend(token.iter().map(|b| if b.is_ascii_digit() { b'1' } else { *b }));
        } else {
            string::encode(with.take().unwrap_or_default(), out);
        }
    }
}

fn is_punctuation(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"{}[]:,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(parts: &[(Class, &str)]) -> String {
        let mut units = Units::default();
        for (class, bytes) in parts {
            units.add(*class, bytes.as_bytes());
        }
        let mut out = Vec::new();
        units.replace(units.len(), &Fate::Replace(b"[\"]".to_vec()), &mut out);
        assert_eq!(units.raw_len(), 0);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_span_over_several_strings_leaves_json() {
        use Class::{Inside, Outside, Quote};
        let parts = [(Inside, "ab"), (Quote, "\""), (Outside, ", "), (Quote, "\""), (Inside, "cd")];
        assert_eq!(masked(&parts), r#"[\"]", ""#);
        assert_eq!(masked(&[(Outside, "[-12.5, true")]), "[-11.1, true");
        assert_eq!(masked(&[(Outside, "sk-12")]), r#"[\"]"#);
        assert_eq!(masked(&[(Class::Plain, "sk-12")]), r#"["]"#);
    }
}
