//! Charsets in which ASCII does not stand as ASCII, and Latin-1.
//!
//! Nearly every charset contains ASCII, and secrets consist of it: such bytes are searched as they are.
//!
//! - input: bytes, the name of a charset
//! - output: a view in UTF-8
//! - bound: linear in the bytes
//! - on failure: [`Charset::Unknown`] for names of charsets without ASCII that are not decoded here

use super::{Style, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charset {
    /// ASCII stands as ASCII.
    Ascii,
    Utf16Le,
    Utf16Be,
    /// ISO-8859-1 and its extensions: bytes are characters.
    Latin,
    /// Others without ASCII, or with states.
    Unknown,
}

/// What bytes are in: by their byte order mark, or their zeros (every second byte of ASCII in UTF-16).
pub(crate) fn sniff(bytes: &[u8]) -> Charset {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] => Charset::Unknown,
        [0xff, 0xfe, ..] => Charset::Utf16Le,
        [0xfe, 0xff, ..] => Charset::Utf16Be,
        [0, 0, 0, _, ..] => Charset::Ascii,
        _ => {
            let head = bytes.get(..bytes.len().min(64) & !1).unwrap_or_default();
            let zeros = |place| {
                let chosen = head.iter().skip(place).step_by(2);
                chosen.filter(|byte| **byte == 0).count() * 10 >= head.len() * 4
            };
            match (head.len() >= 8, zeros(0), zeros(1)) {
                (true, false, true) => Charset::Utf16Le,
                (true, true, false) => Charset::Utf16Be,
                _ => Charset::Ascii,
            }
        }
    }
}

/// The charset of a name (of a `charset` parameter).
pub(crate) fn named(name: &[u8]) -> Charset {
    let name = name.trim_ascii().to_ascii_lowercase();
    match name.as_slice() {
        b"utf-16" | b"utf16" | b"utf-16be" | b"unicode" => Charset::Utf16Be,
        b"utf-16le" | b"ucs-2" | b"iso-10646-ucs-2" => Charset::Utf16Le,
        b"iso-8859-1" | b"latin1" | b"windows-1252" | b"iso-8859-15" => Charset::Latin,
        b"utf-7" | b"hz-gb-2312" => Charset::Unknown,
        name if [&b"utf-32"[..], b"ucs-4", b"iso-2022", b"ibm", b"cp037", b"ebcdic"]
            .iter()
            .any(|unknown| name.starts_with(unknown)) =>
        {
            Charset::Unknown
        }
        _ => Charset::Ascii,
    }
}

impl Charset {
    /// The bytes in UTF-8; none if they are searched as they are.
    pub(crate) fn view(self, bytes: &[u8]) -> Option<View> {
        let mut view = View::default();
        match self {
            Self::Ascii | Self::Unknown => return None,
            Self::Latin if bytes.is_ascii() => return None,
            Self::Latin => {
                for (at, byte) in bytes.iter().enumerate() {
                    let mut utf8 = [0; 4];
                    let character = char::from(*byte).encode_utf8(&mut utf8);
                    view.put(at..at + 1, character.as_bytes(), Style::Latin);
                }
            }
            Self::Utf16Le => wide(bytes, u16::from_le_bytes, Style::Utf16Le, &mut view),
            Self::Utf16Be => wide(bytes, u16::from_be_bytes, Style::Utf16Be, &mut view),
        }
        Some(view)
    }
}

fn wide(bytes: &[u8], unit: fn([u8; 2]) -> u16, style: Style, view: &mut View) {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    let mut at = 0;
    for character in char::decode_utf16(units) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        let mut utf8 = [0; 4];
        let length = if u32::from(character) > 0xffff { 4 } else { 2 };
        view.put(at..at + length, character.encode_utf8(&mut utf8).as_bytes(), style);
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_16_is_known_with_and_without_mark() {
        for (style, charset) in
            [(Style::Utf16Le, Charset::Utf16Le), (Style::Utf16Be, Charset::Utf16Be)]
        {
            for text in ["\u{feff}{\"a\": \"é😀\"}", "{\"a\": \"plain\"}"] {
                let wire = style.encode(text.as_bytes());
                assert_eq!(sniff(&wire), charset);
                let view = charset.view(&wire).unwrap();
                assert_eq!(view.text, text.as_bytes());
                let at = memchr::memmem::find(&view.text, b"\"a\"").unwrap();
                let part = view.span(&(at..at + 3));
                assert_eq!(wire[part.clone()], style.encode(b"\"a\""));
                assert_eq!(view.style(&(at..at + 3)), style);
            }
        }
        assert_eq!(sniff(b"plain text"), Charset::Ascii);
        assert_eq!(named(b"UTF-7"), Charset::Unknown);
        assert_eq!(Charset::Latin.view(b"caf\xe9").unwrap().text, "café".as_bytes());
    }
}
