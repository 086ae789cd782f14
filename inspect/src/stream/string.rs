//! Content of JSON strings.
//!
//! - input: content between the quotes; or text
//! - output: text; or content that says the same. Lone surrogates, which UTF-8 cannot say, pass as
//!   their three-byte form, because a pair may be split over two strings
//! - bound: linear
//! - on failure: cannot fail; what is no text becomes U+FFFD

use std::borrow::Cow;

/// The text of valid content.
pub(super) fn decode(content: &[u8]) -> Cow<'_, [u8]> {
    if !content.contains(&b'\\') {
        return Cow::Borrowed(content);
    }
    let mut text = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else { break };
        rest = after;
        if kind != b'u' {
            text.push(simple(kind).unwrap_or(kind));
            continue;
        }
        let (unit, after) = hex4(rest);
        rest = after;
        let low = rest.strip_prefix(b"\\u").map(hex4);
        match low {
            Some((low, after)) if is_high(unit) && is_low(low) => {
                rest = after;
                push_code(pair(unit, low), &mut text);
            }
            _ => push_code(u32::from(unit), &mut text),
        }
    }
    Cow::Owned(text)
}

/// Content that says `text`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        let len = sequence(rest);
        let (now, after) = rest.split_at(len.max(1).min(rest.len()));
        rest = after;
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            0x20..0x80 => out.push(byte),
            _ => match (now, std::str::from_utf8(now)) {
                (_, Ok(_)) => out.extend(now),
                ([0xED, second, third], Err(_)) => {
                    let unit = 0xD000 | u32::from(second & 0x3F) << 6 | u32::from(third & 0x3F);
                    out.extend(format!("\\u{unit:04x}").bytes());
                }
                _ => out.extend("\u{FFFD}".bytes()),
            },
        }
    }
}

/// How much of `text` does not end inside a character.
pub(super) fn whole(text: &[u8]) -> usize {
    let begins = text.iter().rev().take(3).position(|byte| byte & 0xC0 != 0x80);
    let Some(back) = begins else { return text.len() };
    let at = text.len() - back - 1;
    let wanted = match text.get(at) {
        Some(0xF0..=0xF4) => 4,
        Some(0xE0..=0xEF) => 3,
        Some(0xC2..=0xDF) => 2,
        _ => 1,
    };
    if back + 1 < wanted { at } else { text.len() }
}

/// The byte that `\` and `kind` stand for.
pub(super) fn simple(kind: u8) -> Option<u8> {
    Some(match kind {
        b'"' | b'\\' | b'/' => kind,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

pub(super) fn is_high(unit: u16) -> bool {
    (0xD800..0xDC00).contains(&unit)
}

pub(super) fn is_low(unit: u16) -> bool {
    (0xDC00..0xE000).contains(&unit)
}

/// The character of a surrogate pair.
pub(super) fn pair(high: u16, low: u16) -> u32 {
    0x10000 + ((u32::from(high) & 0x3FF) << 10 | u32::from(low) & 0x3FF)
}

/// Adds a character or a lone surrogate.
pub(super) fn push_code(code: u32, out: &mut Vec<u8>) {
    if let Some(character) = char::from_u32(code) {
        out.extend(character.encode_utf8(&mut [0; 4]).bytes());
    } else {
        let [_, _, high, low] = code.to_be_bytes();
        out.extend([0xE0 | high >> 4, 0x80 | (high & 0x0F) << 2 | low >> 6, 0x80 | low & 0x3F]);
    }
}

/// Four hexadecimal digits and what comes after.
pub(super) fn hex4(bytes: &[u8]) -> (u16, &[u8]) {
    let (digits, after) = bytes.split_at(bytes.len().min(4));
    let value = std::str::from_utf8(digits).ok().and_then(|d| u16::from_str_radix(d, 16).ok());
    (value.unwrap_or(0xFFFD), after)
}

/// Length of the character at the beginning, or of a lone surrogate, or 1.
fn sequence(text: &[u8]) -> usize {
    let wanted = match text.first() {
        Some(0xF0..=0xF4) => 4,
        Some(0xE0..=0xEF) => 3,
        Some(0xC2..=0xDF) => 2,
        _ => return 1,
    };
    match text.get(..wanted) {
        Some([0xED, 0xA0..=0xBF, 0x80..=0xBF]) => 3,
        Some(now) if std::str::from_utf8(now).is_ok() => wanted,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lone_surrogates_survive() {
        let content = br"a\ud83d";
        let mut again = Vec::new();
        encode(&decode(content), &mut again);
        assert_eq!(again, content);
        assert_eq!(&*decode(br"\ud83d\ude00"), "😀".as_bytes());
    }

    #[test]
    fn whole_stops_before_a_broken_character() {
        let text = "aé😀".as_bytes();
        let whole: Vec<usize> = (0..=text.len()).map(|n| whole(&text[..n])).collect();
        assert_eq!(whole, [0, 1, 1, 3, 3, 3, 3, 7]);
    }

    proptest! {
        #[test]
        fn content_says_the_text(text in any::<String>()) {
            let mut content = Vec::new();
            encode(text.as_bytes(), &mut content);
            let quoted = [b"\"".as_slice(), &content, b"\""].concat();
            prop_assert_eq!(&serde_json::from_slice::<String>(&quoted).unwrap(), &text);
            prop_assert_eq!(&*decode(&content), text.as_bytes());
        }

        #[test]
        fn any_bytes_become_valid_content(text in proptest::collection::vec(any::<u8>(), 0..32)) {
            let mut content = Vec::new();
            encode(&text, &mut content);
            let quoted = [b"\"".as_slice(), &content, b"\""].concat();
            prop_assert!(crate::stream::json::Json::parse(&quoted).is_ok());
        }
    }
}
