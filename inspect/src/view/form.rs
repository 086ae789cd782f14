//! Forms: `a=b&c=d`.
//!
//! - input: the body of a form, or a query
//! - output: its pairs; a value without `%` and `+`
//! - bound: linear in the text
//! - on failure: cannot fail; what only looks encoded stays

use std::ops::Range;

use memchr::memchr2;

use super::unescape::hex_digit;
use super::{Style, View};

/// The pairs, in order: name with `=`, and value.
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = 0;
    text.split(|byte| *byte == b'&').map(move |pair| {
        let start = at;
        at += pair.len() + 1;
        let name = pair.iter().position(|byte| *byte == b'=').map_or(0, |equals| equals + 1);
        (start..start + name, start + name..start + pair.len())
    })
}

/// Adds what stands at `span` to `view`, decoded.
pub(crate) fn decode(text: &[u8], span: Range<usize>, view: &mut View) {
    let Range { start: mut from, end } = span;
    let mut at = from;
    while let Some(rest) = text.get(at..end)
        && let Some(found) = memchr2(b'%', b'+', rest)
    {
        at += found;
        let (length, byte) = match text.get(at..end).unwrap_or_default() {
            [b'+', ..] => (1, Some(b' ')),
            [_, high, low, ..] => {
                let byte = hex_digit(*high).zip(hex_digit(*low));
                (3, byte.map(|(high, low)| high * 16 + low))
            }
            _ => (1, None),
        };
        let Some(byte) = byte else {
            at += 1;
            continue;
        };
        view.copy(text, from..at);
        view.put(at..at + length, &[byte], Style::Percent);
        at += length;
        from = at;
    }
    view.copy(text, from..end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let text = b"a=b+c%2Bd&empty&x=%zz%4";
        let all: Vec<_> = pairs(text)
            .map(|(name, value)| {
                let mut view = View::default();
                decode(text, value, &mut view);
                (text[name].to_vec(), view.text)
            })
            .collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"a=", b"b c+d"), (b"", b"empty"), (b"x=", b"%zz%4")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
    }
}
