//! How a value may be written in a text.
//!
//! - input: a value
//! - output: its spellings, each once where they differ
//! - bound: [`MAX_SPELLINGS`] of a value
//! - on failure: cannot fail
//!
//! In base64 a value may begin at any of three places of a group, and its first and last characters depend on
//! its neighbours: what is between them is the spelling.

use crate::known::MIN_VALUE_BYTES;

/// Of one value.
pub const MAX_SPELLINGS: usize = 15;

/// One way to write a value, plainest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// In a JSON string, `/` as it is.
    Json,
    /// In a JSON string, `/` escaped.
    JsonSlash,
    /// In a URL or form, upper-case digits; also with `+` for a space.
    Url,
    /// The same with lower-case digits.
    UrlLower,
    /// A part of base64.
    Base64,
    /// A part of base64 with the alphabet of URLs.
    Base64Url,
    /// Hexadecimal digits.
    Hex,
    /// Upper-case ones.
    HexUpper,
}

/// Calls `each` for every spelling of a value.
pub(crate) fn of(value: &[u8], mut each: impl FnMut(Encoding, Vec<u8>)) {
    each(Encoding::Raw, value.to_vec());
    for (encoding, slash) in [(Encoding::Json, false), (Encoding::JsonSlash, true)] {
        each(encoding, json(value, slash));
    }
    for (encoding, upper) in [(Encoding::Url, true), (Encoding::UrlLower, false)] {
        each(encoding, url(value, upper, false));
        each(encoding, url(value, upper, true));
    }
    for before in 0..3 {
        for (encoding, alphabet) in [(Encoding::Base64, BASE64), (Encoding::Base64Url, BASE64_URL)]
        {
            let inner = base64(value, before, alphabet);
            if inner.len() >= MIN_VALUE_BYTES {
                each(encoding, inner);
            }
        }
    }
    each(Encoding::Hex, hex(value, b"0123456789abcdef"));
    each(Encoding::HexUpper, hex(value, b"0123456789ABCDEF"));
}

fn json(value: &[u8], slash: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'/' if slash => out.extend(b"\\/"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            _ => out.push(*byte),
        }
    }
    out
}

fn url(value: &[u8], upper: bool, plus: bool) -> Vec<u8> {
    let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            // RFC 3986 section 2.3
            b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            b' ' if plus => out.push(b'+'),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte),
            byte => {
                out.push(b'%');
                out.extend(pair(*byte, digits));
            }
        }
    }
    out
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    value.iter().flat_map(|byte| pair(*byte, digits)).collect()
}

fn pair(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    let digit = |nibble: u8| digits.get(usize::from(nibble)).copied().unwrap_or(b'0');
    [digit(byte >> 4), digit(byte & 15)]
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters that only `value` decides, when `before` bytes of its first group are others'.
fn base64(value: &[u8], before: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let bits = (before + value.len()) * 8;
    let bit = |at: usize| {
        let byte = at.checked_sub(before * 8).and_then(|own| value.get(own / 8));
        byte.map_or(0, |byte| byte >> (7 - at % 8) & 1)
    };
    let first = (before * 8).div_ceil(6);
    (first..bits / 6)
        .map(|sextet| (0..6).fold(0, |all, n| all << 1 | bit(sextet * 6 + n)))
        .map(|sextet: u8| alphabet.get(usize::from(sextet)).copied().unwrap_or(b'A'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(value: &[u8]) -> Vec<(Encoding, String)> {
        let mut all = Vec::new();
        of(value, |encoding, bytes| all.push((encoding, String::from_utf8(bytes).unwrap())));
        all
    }

    #[test]
    fn a_value_has_its_spellings() {
        let all = all(b"a/b \"c\"\nd");
        let has = |encoding, text: &str| all.contains(&(encoding, text.to_owned()));
        assert!(has(Encoding::Json, "a/b \\\"c\\\"\\nd"));
        assert!(has(Encoding::JsonSlash, "a\\/b \\\"c\\\"\\nd"));
        assert!(
            has(Encoding::Url, "a%2Fb%20%22c%22%0Ad") && has(Encoding::Url, "a%2Fb+%22c%22%0Ad")
        );
        assert!(has(Encoding::UrlLower, "a%2fb%20%22c%22%0ad"));
        assert!(has(Encoding::Hex, "612f622022632 20a64".replace(' ', "").as_str()));
        // YS9iICJjIgpk
        assert!(has(Encoding::Base64, "YS9iICJjIgpk"));
        assert!(all.len() <= MAX_SPELLINGS, "{}", all.len());
    }

    #[test]
    fn the_inner_part_of_base64_does_not_depend_on_its_neighbours() {
        // "x", "yz" before: eHNlY3JldCE=, eXpzZWNyZXQh
        assert_eq!(base64(b"secret!", 1, BASE64), b"NlY3JldC");
        assert_eq!(base64(b"secret!", 2, BASE64), b"zZWNyZXQh");
        assert_eq!(base64(b"secret!", 0, BASE64), b"c2VjcmV0I");
        assert_eq!(base64(&[0xfb, 0xff, 0xfe], 0, BASE64), b"+//+");
        assert_eq!(base64(&[0xfb, 0xff, 0xfe], 0, BASE64_URL), b"-__-");
    }
}
