//! Quoted-printable, as in mail.
//!
//! - input: a text
//! - output: a view of all of it
//! - bound: linear in the text
//! - on failure: none if it does not look like it

use memchr::{memchr, memmem};

use super::unescape::hex_digit;
use super::{Style, View};

/// Bytes of a line that is broken for its length only.
const LONG_LINE_BYTES: usize = 60;

/// The text without its soft breaks and `=XX`.
pub(crate) fn view(text: &[u8]) -> Option<View> {
    let broken = memmem::find_iter(text, b"=\n").chain(memmem::find_iter(text, b"=\r\n"));
    let long = |at: usize| {
        let line = text.get(at.saturating_sub(LONG_LINE_BYTES)..at).unwrap_or_default();
        line.len() == LONG_LINE_BYTES && memchr(b'\n', line).is_none()
    };
    if memmem::find(text, b"=3D").is_none() && !broken.into_iter().any(long) {
        return None;
    }
    let mut view = View::default();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| memchr(b'=', rest)) {
        at += found;
        let (length, byte) = match text.get(at + 1..).unwrap_or_default() {
            [b'\n', ..] => (2, None),
            [b'\r', b'\n', ..] => (3, None),
            [high, low, ..] => match hex_digit(*high).zip(hex_digit(*low)) {
                Some((high, low)) => (3, Some(high * 16 + low)),
                None => (0, None),
            },
            _ => (0, None),
        };
        if length == 0 {
            at += 1;
            continue;
        }
        view.copy(text, from..at);
        view.put(at..at + length, byte.as_slice(), Style::Quoted);
        at += length;
        from = at;
    }
    view.copy(text, from..text.len());
    Some(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_and_codes_go() {
        let line = "a long line that is broken for no other reason than its length";
        let text = format!("{line}=\r\n and =C3=A9 a=3Db =zz");
        assert_eq!(view(text.as_bytes()).unwrap().text, format!("{line} and é a=b =zz").as_bytes());
        assert!(view(b"x =\n 5").is_none());
    }
}
