//! How a replacement is written, so that it stands in its surroundings as the value stood.
//!
//! - input: the replacement, a style
//! - output: its bytes
//! - bound: a few bytes for each byte
//! - on failure: cannot fail

use std::fmt::Write;

/// One way to write characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As they are.
    Verbatim,
    /// As in JSON strings, and nearly every other language.
    Backslash,
    /// As in URLs.
    Percent,
    /// As in HTML and XML.
    Entity,
    /// As in mail: quoted-printable.
    Quoted,
    /// Two bytes each, the low one first.
    Utf16Le,
    /// Two bytes each, the high one first.
    Utf16Be,
    /// One byte each; what has none becomes a question mark.
    Latin,
}

impl Style {
    /// Writes `text` in this style.
    pub(crate) fn encode(self, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Verbatim => text.to_vec(),
            Self::Backslash => backslash(text),
            Self::Percent => each(text, |byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => None,
                byte => Some(format!("%{byte:02X}")),
            }),
            Self::Entity => each(text, |byte| match byte {
                b'<' | b'>' | b'&' | b'"' | b'\'' => Some(format!("&#{byte};")),
                _ => None,
            }),
            Self::Quoted => each(text, |byte| match byte {
                b'=' | 0..=8 | 11..=31 | 127.. => Some(format!("={byte:02X}")),
                _ => None,
            }),
            Self::Utf16Le => units(text).flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => units(text).flat_map(u16::to_be_bytes).collect(),
            Self::Latin => String::from_utf8_lossy(text)
                .chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
                .collect(),
        }
    }
}

/// A JSON string's content. What is not UTF-8 stays, as its surroundings are not either.
fn backslash(text: &[u8]) -> Vec<u8> {
    each(text, |byte| match byte {
        b'"' => Some("\\\"".to_owned()),
        b'\\' => Some("\\\\".to_owned()),
        b'\n' => Some("\\n".to_owned()),
        b'\r' => Some("\\r".to_owned()),
        b'\t' => Some("\\t".to_owned()),
        0..=31 => Some(format!("\\u{byte:04x}")),
        _ => None,
    })
}

fn each(text: &[u8], encode: impl Fn(u8) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match encode(*byte) {
            Some(encoded) => out.extend_from_slice(encoded.as_bytes()),
            None => out.push(*byte),
        }
    }
    out
}

fn units(text: &[u8]) -> impl Iterator<Item = u16> {
    String::from_utf8_lossy(text).encode_utf16().collect::<Vec<_>>().into_iter()
}

/// Lower- or upper-case hexadecimal digits.
pub(crate) fn hex(text: &[u8], upper: bool) -> Vec<u8> {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text {
        // Writing to a string does not fail.
        let written = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
        debug_assert!(written.is_ok());
    }
    out.into_bytes()
}
