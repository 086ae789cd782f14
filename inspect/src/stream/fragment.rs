//! The view of a JSON text that comes in fragments: arguments of a tool call.
//!
//! - input: fragments, cut anywhere
//! - output: the text with the escape sequences of its strings decoded, so that a secret in it and
//!   the key before it can be seen
//! - bound: one escape sequence, or a surrogate pair, is held
//! - on failure: cannot fail; what is not JSON is seen as it stands

use crate::stream::string;
use crate::stream::unit::{Class, Units};

/// Where in the JSON text the fragment before ended.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    in_string: bool,
    /// An unfinished escape sequence.
    escape: Vec<u8>,
}

impl Lexer {
    /// Adds a fragment to `units`, and its view to `view`.
    pub(super) fn push(&mut self, fragment: &[u8], units: &mut Units, view: &mut Vec<u8>) {
        for &byte in fragment {
            self.byte(byte, units, view);
        }
    }

    /// Ends the text: an unfinished escape sequence stands for itself.
    pub(super) fn finish(&mut self, units: &mut Units, view: &mut Vec<u8>) {
        self.flush(units, view);
    }

    /// Bytes of an unfinished escape sequence.
    pub(super) fn held(&self) -> usize {
        self.escape.len()
    }

    fn byte(&mut self, byte: u8, units: &mut Units, view: &mut Vec<u8>) {
        if !self.escape.is_empty() {
            self.escaped(byte, units, view);
        } else if byte == b'"' {
            self.in_string = !self.in_string;
            see(Class::Quote, byte, units, view);
        } else if self.in_string && byte == b'\\' {
            self.escape.push(byte);
        } else {
            see(if self.in_string { Class::Inside } else { Class::Outside }, byte, units, view);
        }
    }

    /// A byte after the `\` of an escape sequence that is not finished. After six bytes it is a high
    /// surrogate, which waits for its low one.
    fn escaped(&mut self, byte: u8, units: &mut Units, view: &mut Vec<u8>) {
        let fits = match self.escape.len() {
            1 => true,
            6 => byte == b'\\',
            7 => byte == b'u',
            _ => byte.is_ascii_hexdigit(),
        };
        if !fits {
            // What was begun ends here; the byte stands for itself or begins anew.
            self.flush(units, view);
            return self.byte(byte, units, view);
        }
        self.escape.push(byte);
        match (self.escape.len(), byte) {
            (2, b'u') => {}
            (2, _) => match string::simple(byte) {
                Some(stands_for) => self.emit(&[stands_for], units, view),
                None => self.flush(units, view),
            },
            (6, _) if !string::is_high(unit(&self.escape, 2)) => self.decode(units, view),
            (12, _) if string::is_low(unit(&self.escape, 8)) => self.decode(units, view),
            (12, _) => self.split(units, view),
            _ => {}
        }
    }

    /// A high surrogate that no low one follows, but another escape sequence.
    fn split(&mut self, units: &mut Units, view: &mut Vec<u8>) {
        let second = self.escape.split_off(6);
        self.decode(units, view);
        self.escape = second;
        if !string::is_high(unit(&self.escape, 2)) {
            self.decode(units, view);
        }
    }

    /// The escape sequence is finished: it is seen decoded.
    fn decode(&mut self, units: &mut Units, view: &mut Vec<u8>) {
        let text = string::decode(&self.escape).into_owned();
        self.emit(&text, units, view);
    }

    fn emit(&mut self, text: &[u8], units: &mut Units, view: &mut Vec<u8>) {
        units.add_escape(&self.escape, text);
        view.extend(text);
        self.escape.clear();
    }

    /// What cannot be finished: a high surrogate is seen as such, the rest as it stands.
    fn flush(&mut self, units: &mut Units, view: &mut Vec<u8>) {
        if self.escape.len() >= 6 {
            let rest = self.escape.split_off(6);
            self.decode(units, view);
            self.escape = rest;
        }
        units.add(Class::Inside, &self.escape);
        view.append(&mut self.escape);
    }
}

fn see(class: Class, byte: u8, units: &mut Units, view: &mut Vec<u8>) {
    units.add(class, &[byte]);
    view.push(byte);
}

/// The UTF-16 unit whose digits begin at `at`.
fn unit(escape: &[u8], at: usize) -> u16 {
    string::hex4(escape.get(at..).unwrap_or_default()).0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(fragments: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let (mut lexer, mut units, mut view) = (Lexer::default(), Units::default(), Vec::new());
        for fragment in fragments {
            lexer.push(fragment, &mut units, &mut view);
        }
        lexer.finish(&mut units, &mut view);
        let mut raw = Vec::new();
        assert_eq!(units.len(), view.len());
        units.keep(units.len(), &mut raw);
        (view, raw)
    }

    #[test]
    fn escape_sequences_are_seen_decoded() {
        let text = br#"{"a\"b": "x\n\u00e9\ud83d\ude00\ud83d\u0041\ud83dz", "n": 1}"#;
        let seen = view(&[text]).0;
        let lone = b"\xED\xA0\xBD";
        let wanted = ["{\"a\"b\": \"x\né😀".as_bytes(), lone, b"A", lone, b"z\", \"n\": 1}"];
        assert_eq!(seen, wanted.concat());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter_and_no_wire_byte_is_lost(
            text in r#"["\\ud83e04n{}x]{0,40}"#,
            cut in any::<prop::sample::Index>(),
        ) {
            let text = text.as_bytes();
            let (head, tail) = text.split_at(cut.index(text.len() + 1));
            let (seen, raw) = view(&[head, tail]);
            prop_assert_eq!(&raw, text);
            prop_assert_eq!(seen, view(&[text]).0);
        }
    }
}
