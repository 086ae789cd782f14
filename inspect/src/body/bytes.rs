//! Bytes of which little is known: compressed, in another charset, JSON, text or neither.
//!
//! - input: bytes, and a content type if there is one
//! - output: [`Outcome`]
//! - bound: the caller's budget of decoded bytes
//! - on failure: [`Error`]; what is not what it looks like is searched as it is

use super::encoding::Codec;
use super::text::{How, Outcome};
use super::{Error, Masker};
use crate::view::charset::{self, Charset};
use crate::view::{Edit, json, splice};

impl Masker<'_> {
    /// Searches bytes of a content type.
    pub(super) fn typed(&mut self, kind: Option<&[u8]>, body: &[u8]) -> Result<Outcome, Error> {
        let kind = kind.unwrap_or_default();
        let essence = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let essence = essence.to_ascii_lowercase();
        let named = parameter(kind, b"charset").map_or(Charset::Ascii, |n| charset::named(&n));
        let charset = if named == Charset::Latin { named } else { charset::sniff(body) };
        match if charset == Charset::Ascii { named } else { charset } {
            Charset::Unknown => return Err(Error::UnknownCharset),
            charset => {
                if let Some(view) = charset.view(body) {
                    self.spend_view(&view)?;
                    return Ok(self.of_type(&essence, kind, &view.text)?.through(&view));
                }
            }
        }
        self.of_type(&essence, kind, body)
    }

    fn of_type(&mut self, essence: &[u8], kind: &[u8], body: &[u8]) -> Result<Outcome, Error> {
        match essence {
            b"application/x-www-form-urlencoded" => self.form(body),
            _ if essence.starts_with(b"multipart/") => match parameter(kind, b"boundary") {
                Some(boundary) => self.parts(&boundary, body),
                None => self.bytes(body, false),
            },
            _ => self.bytes(body, is_binary_type(essence)),
        }
    }

    /// Searches bytes by what they look like; of those that may be no text, only what has a prefix.
    pub(super) fn bytes(&mut self, bytes: &[u8], maybe_binary: bool) -> Result<Outcome, Error> {
        if let Some(outcome) = self.packed(bytes)? {
            return Ok(outcome);
        }
        if let Some(view) = charset::sniff(bytes).view(bytes) {
            self.spend_view(&view)?;
            return Ok(self.textual(&view.text)?.through(&view));
        }
        if maybe_binary && is_binary(bytes) {
            return self.scan(bytes, How { binary: true, path: None });
        }
        self.textual(bytes)
    }

    fn textual(&mut self, text: &[u8]) -> Result<Outcome, Error> {
        match json::begins(text).then(|| json::tokens(text)).flatten() {
            Some(tokens) => self.document(text, &tokens),
            None => self.scan(text, How::default()),
        }
    }

    /// Bytes that are compressed without a header saying so.
    fn packed(&mut self, bytes: &[u8]) -> Result<Option<Outcome>, Error> {
        let codec = match bytes {
            [0x1f, 0x8b, 8, ..] => Codec::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Codec::Zstd,
            _ => return Ok(None),
        };
        let inner = match codec.decode(bytes, self.left) {
            Ok(inner) => inner,
            Err(Error::Malformed) => return self.broken(codec, bytes),
            Err(error) => return Err(error),
        };
        self.spend(inner.len())?;
        let found = self.nested(&codec.to_string(), |masker| masker.bytes(&inner, true))?;
        let mut outcome = Outcome::default();
        if !found.hits.is_empty() {
            outcome.hits.push(0..bytes.len());
        }
        if !found.edits.is_empty() {
            let with = codec.encode(&splice(&inner, &found.edits))?;
            outcome.edits.push(Edit { span: 0..bytes.len(), with });
        }
        Ok(Some(outcome))
    }

    /// Bytes that only begin as if they were compressed: readers take what they can read of them.
    fn broken(&mut self, codec: Codec, bytes: &[u8]) -> Result<Option<Outcome>, Error> {
        let inner = codec.begin(bytes, self.left)?;
        self.spend(inner.len())?;
        let found = self.nested(&codec.to_string(), |masker| masker.bytes(&inner, true))?;
        // They cannot be put together again.
        if found.edits.is_empty() { Ok(None) } else { Err(Error::Malformed) }
    }
}

/// A parameter of a content type, without quotation marks.
pub(super) fn parameter(kind: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    kind.split(|byte| *byte == b';').skip(1).find_map(|parameter| {
        let equals = parameter.iter().position(|byte| *byte == b'=')?;
        let (found, value) = parameter.split_at_checked(equals)?;
        let value = value.get(1..)?.trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let value = value.strip_suffix(b"\"").unwrap_or(value);
        found.trim_ascii().eq_ignore_ascii_case(name).then(|| value.to_vec())
    })
}

/// Types that may be no text. What calls itself text, or nothing, is searched as text whatever it is.
fn is_binary_type(essence: &[u8]) -> bool {
    let textual = |end: &[u8]| essence.ends_with(end);
    let prefixes: [&[u8]; 4] = [b"image/", b"audio/", b"video/", b"font/"];
    let whole: [&[u8]; 11] = [
        b"application/octet-stream",
        b"application/zip",
        b"application/gzip",
        b"application/x-gzip",
        b"application/x-tar",
        b"application/pdf",
        b"application/wasm",
        b"application/x-protobuf",
        b"application/grpc",
        b"application/vnd.amazon.eventstream",
        b"application/x-git-receive-pack-request",
    ];
    !textual(b"xml")
        && (prefixes.iter().any(|p| essence.starts_with(p)) || whole.contains(&essence))
}

/// Has it more control characters than text has?
fn is_binary(bytes: &[u8]) -> bool {
    let head = bytes.get(..4096).unwrap_or(bytes);
    let odd = |byte: &&u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31 | 127);
    head.iter().filter(odd).count() * 20 > head.len()
}
