//! Text without escapes: `\n`, `\u0041`, `\x41`, `%41`, `&quot;`, `&#65;`, continued lines, invisible
//! characters and terminal sequences, all of them in one pass.
//!
//! - input: a text
//! - output: a view of those of its lines in which something is escaped
//! - bound: linear in the text
//! - on failure: none if nothing is escaped; what only looks like an escape stays

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3, memrchr};

use super::{Style, View};

/// The escaped lines of `text`, unescaped. Only those, because code is full of escapes, and a value on
/// a line without any is found without this.
pub(crate) fn lines(text: &[u8]) -> Option<View> {
    let mut view: Option<View> = None;
    let mut triggers = Triggers::default();
    let mut from = 0;
    while let Some(at) = triggers.next(text, from) {
        from = at + 1;
        if escape(text, at).is_some() {
            let head = text.get(..at).unwrap_or_default();
            let start = memrchr(b'\n', head).map_or(0, |newline| newline + 1);
            let view = view.get_or_insert_default();
            from = line(text, start, view);
            // `&lt;name&gt;`, and the value on the next line.
            if matches!(view.text.trim_ascii_end().last(), Some(b'>' | b'=' | b':' | b'(')) {
                from = line(text, from, view);
            }
        }
    }
    view
}

/// Unescapes the line at `start`, and those that continue it; returns where the next one begins.
fn line(text: &[u8], start: usize, view: &mut View) -> usize {
    let mut end = line_end(text, start);
    let (mut from, mut at) = (start, start);
    while at < end {
        let rest = text.get(at..end).unwrap_or_default();
        let Some(step) = rest.iter().position(|byte| is_trigger(*byte)) else { break };
        at += step;
        let Some(escape) = escape(text, at) else {
            at += 1;
            continue;
        };
        view.copy(text, from..at);
        view.put(at..at + escape.length, escape.out(), escape.style);
        at += escape.length;
        from = at;
        if at >= end {
            end = line_end(text, at);
        }
    }
    view.copy(text, from..end);
    end
}

fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    memchr(b'\n', rest).map_or(text.len(), |newline| from + newline + 1)
}

/// Finds bytes at which an escape may begin.
#[derive(Default)]
struct Triggers([Option<usize>; 3]);

impl Triggers {
    fn next(&mut self, text: &[u8], from: usize) -> Option<usize> {
        let rest = text.get(from..)?;
        let [marks, wide, controls] = &mut self.0;
        let seek = |known: &mut Option<usize>, find: fn(&[u8]) -> Option<usize>| {
            if known.is_none_or(|at| at < from) {
                *known = Some(find(rest).map_or(usize::MAX, |at| from + at));
            }
            known.unwrap_or(usize::MAX)
        };
        let first = seek(marks, |rest| memchr3(b'\\', b'%', b'&', rest))
            .min(seek(wide, |rest| memchr3(0xe2, 0xef, 0xc2, rest)))
            .min(seek(controls, |rest| memchr2(b'\r', 0x1b, rest)));
        (first != usize::MAX).then_some(first)
    }
}

fn is_trigger(byte: u8) -> bool {
    matches!(byte, b'\\' | b'%' | b'&' | 0xe2 | 0xef | 0xc2 | b'\r' | 0x1b)
}

/// What an escape means.
#[derive(Debug, PartialEq, Eq)]
struct Escape {
    /// In the source.
    length: usize,
    bytes: [u8; 4],
    count: usize,
    style: Style,
}

impl Escape {
    fn new(length: usize, character: char, style: Style) -> Self {
        let mut bytes = [0; 4];
        let count = character.encode_utf8(&mut bytes).len();
        Self { length, bytes, count, style }
    }

    fn nothing(length: usize) -> Self {
        Self { length, bytes: [0; 4], count: 0, style: Style::Verbatim }
    }

    fn out(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }
}

fn escape(text: &[u8], at: usize) -> Option<Escape> {
    let rest = text.get(at..)?;
    match rest {
        [b'%', high, low, ..] => {
            let byte = hex_digit(*high)? * 16 + hex_digit(*low)?;
            Some(Escape { length: 3, bytes: [byte, 0, 0, 0], count: 1, style: Style::Percent })
        }
        [b'\\', rest @ ..] => backslash(rest),
        [b'&', rest @ ..] => entity(rest),
        [b'\r', next, ..] if *next != b'\n' => Some(Escape::nothing(1)),
        // Zero-width, joining and direction marks; soft hyphen; byte order mark.
        [0xe2, 0x80, 0x8b..=0x8f | 0xaa..=0xae, ..]
        | [0xe2, 0x81, 0xa0..=0xa9, ..]
        | [0xef, 0xbb, 0xbf, ..] => Some(Escape::nothing(3)),
        [0xc2, 0xad, ..] => Some(Escape::nothing(2)),
        [0x1b, b'[', rest @ ..] => {
            let end = rest.iter().take(32).position(|byte| (0x40..=0x7e).contains(byte))?;
            Some(Escape::nothing(end + 3))
        }
        _ => None,
    }
}

/// What follows a backslash.
fn backslash(rest: &[u8]) -> Option<Escape> {
    let one = |character| Some(Escape::new(2, character, Style::Backslash));
    match rest {
        [b'\n', ..] => Some(Escape::nothing(2)),
        [b'\r', b'\n', ..] => Some(Escape::nothing(3)),
        [b'n', ..] => one('\n'),
        [b'r', ..] => one('\r'),
        [b't', ..] => one('\t'),
        [quoted @ (b'"' | b'\'' | b'\\' | b'/' | b'`' | b'$'), ..] => one(char::from(*quoted)),
        [b'x', high, low, ..] => {
            let byte = hex_digit(*high)? * 16 + hex_digit(*low)?;
            Some(Escape { length: 4, bytes: [byte, 0, 0, 0], count: 1, style: Style::Backslash })
        }
        [b'u', b'{', digits @ ..] => {
            let count = digits.iter().take(7).position(|byte| *byte == b'}')?;
            let code = number(digits.get(..count)?, 16)?;
            Some(Escape::new(count + 4, char::from_u32(code)?, Style::Backslash))
        }
        [b'u', ..] => {
            let (length, character) = unicode(rest)?;
            Some(Escape::new(length + 1, character, Style::Backslash))
        }
        _ => None,
    }
}

/// `uXXXX`, or a surrogate pair of them; what is half of a pair becomes U+FFFD. Returns its length.
pub(super) fn unicode(rest: &[u8]) -> Option<(usize, char)> {
    let code = |at: Range<usize>| number(rest.get(at)?, 16);
    let first = code(1..5)?;
    if (0xd800..0xdc00).contains(&first)
        && rest.get(5..7) == Some(b"\\u")
        && let Some(second @ 0xdc00..=0xdfff) = code(7..11)
    {
        let pair = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((11, char::from_u32(pair).unwrap_or('\u{fffd}')));
    }
    Some((5, char::from_u32(first).unwrap_or('\u{fffd}')))
}

/// What follows an ampersand.
fn entity(rest: &[u8]) -> Option<Escape> {
    const NAMED: [(&[u8], char); 17] = [
        (b"amp", '&'),
        (b"apos", '\''),
        (b"colon", ':'),
        (b"commat", '@'),
        (b"equals", '='),
        (b"gt", '>'),
        (b"hyphen", '-'),
        (b"lowbar", '_'),
        (b"lt", '<'),
        (b"nbsp", ' '),
        (b"newline", '\n'),
        (b"period", '.'),
        (b"plus", '+'),
        (b"quot", '"'),
        (b"sol", '/'),
        (b"tab", '\t'),
        (b"dollar", '$'),
    ];
    let end = rest.iter().take(10).position(|byte| *byte == b';')?;
    let name = rest.get(..end)?;
    let character = match name {
        [b'#', b'x' | b'X', digits @ ..] => char::from_u32(number(digits, 16)?)?,
        [b'#', digits @ ..] => char::from_u32(number(digits, 10)?)?,
        name => NAMED.iter().find(|(known, _)| name.eq_ignore_ascii_case(known))?.1,
    };
    Some(Escape::new(end + 2, character, Style::Entity))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    if digits.is_empty() || digits.len() > 7 {
        return None;
    }
    digits.iter().try_fold(0, |sum, byte| Some(sum * radix + char::from(*byte).to_digit(radix)?))
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> String {
        lines(text.as_bytes()).map_or_else(String::new, |v| String::from_utf8(v.text).unwrap())
    }

    #[test]
    fn escapes_of_every_kind_are_decoded() {
        assert_eq!(seen(r"a\nb\tc\x41\u0042\u{43}\ud83d\ude00\/"), "a\nb\tcABC😀/");
        assert_eq!(seen("a%41%2fb &quot;&#65;&#x42;&AMP;"), "aA/b \"AB&");
        assert_eq!(seen("x\u{200b}y\u{ad}z\u{1b}[1;31mred\u{1b}[0m\rq"), "xyzredq");
        assert_eq!(seen("one \\\ntwo\nthree\n"), "one two\n");
    }

    #[test]
    fn only_lines_with_escapes_are_seen() {
        assert_eq!(seen("plain\n&lt;key&gt;\n  value\nplain\n"), "<key>\n  value\n");
        assert_eq!(seen("plain\n100% & more\\q\r\nends in \\"), "");
        assert_eq!(
            seen("plain\nan \\\"escape\\\" here\nplain\nand%20here"),
            "an \"escape\" here\nand here"
        );
    }

    #[test]
    fn parts_lead_back_to_their_escapes() {
        let source = b"first\nkey=ab%2Fcd end";
        let view = lines(source).unwrap();
        assert_eq!(view.text, b"key=ab/cd end");
        assert_eq!(source.get(view.span(&(4..9))).unwrap(), b"ab%2Fcd");
        assert_eq!(view.style(&(4..9)), Style::Percent);
    }
}
