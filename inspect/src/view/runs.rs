//! Stretches of base64 and hexadecimal digits in a text, on one line or wrapped.
//!
//! - input: a text
//! - output: [`Region`]s that decode to something readable, and how to write them again
//! - bound: linear in the text
//! - on failure: what decodes to nothing readable is left out

use std::ops::Range;

use super::joined::{like, prefix};
use super::style::hex;
use super::unescape::hex_digit;

/// A stretch of a text that is encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// From the first digit to the last one, or the padding.
    pub(crate) span: Range<usize>,
    /// What it means.
    pub(crate) bytes: Vec<u8>,
    pub(crate) code: Code,
    /// The digits of each line, in `span`.
    lines: Vec<Range<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Base64 { url: bool, padded: bool },
    Hex { upper: bool },
}

impl Code {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base64 { .. } => "base64",
            Self::Hex { .. } => "hex",
        }
    }
}

/// All regions of a text, in order.
pub(crate) fn regions(text: &[u8]) -> Vec<Region> {
    let mut all = Vec::new();
    let mut from = 0;
    while let Some(run) = next_run(text, from) {
        let lines = wrapped(text, run.clone());
        let whole = region(text, lines.clone());
        from = match (&whole, lines.as_slice()) {
            (Some(region), _) => region.span.end.max(run.end),
            // The first line may be something else; the others are alike.
            (None, [_, second, third, ..]) if run.len() != second.len() || third.len() < 4 => {
                run.end
            }
            (None, lines) => lines.last().map_or(run.end, |line| line.end),
        };
        if lines.len() == 1 && whole.is_none() {
            all.extend(hidden_hex(text, run));
        }
        all.extend(whole);
    }
    all
}

/// The next run of at least [`MIN_RUN`] digits. Looks at every [`MIN_RUN`]th byte only.
fn next_run(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from + MIN_RUN - 1;
    loop {
        if !is_digit(*text.get(at)?) {
            at += MIN_RUN;
            continue;
        }
        let back = text.get(from..at)?.iter().rev().take_while(|byte| is_digit(**byte)).count();
        let ahead = text.get(at..)?.iter().take_while(|byte| is_digit(**byte)).count();
        if back + ahead >= MIN_RUN {
            return Some(at - back..at + ahead);
        }
        at += ahead + MIN_RUN;
    }
}

/// The lines over which a run goes on: all but the first and the last are equally long.
fn wrapped(text: &[u8], run: Range<usize>) -> Vec<Range<usize>> {
    let mut first = run.clone();
    let before = prefix(text, run.start);
    // `+` and `-` of a diff are digits, too.
    if before.is_empty()
        && let Some(sign @ (b'+' | b'-')) = text.get(run.start)
        && next_line(text, run.end).is_some_and(|next| text.get(next) == Some(sign))
    {
        first.start += 1;
    }
    let mut model = prefix(text, first.start);
    let mut lines = vec![first];
    while let Some(last) = lines.last().cloned()
        && let Some(at) = next_line(text, last.end)
    {
        let digit = |start: &usize| text.get(*start).is_some_and(|byte| is_digit(*byte));
        let start = like(text, model.clone(), at).filter(digit);
        let start = start.unwrap_or_else(|| at + blanks(text, at));
        let length = text.get(start..).unwrap_or_default();
        let length = length.iter().take_while(|byte| is_digit(**byte)).count();
        let shorter = length < last.len();
        let grows = length > last.len();
        if length == 0 || (grows && lines.len() > 1) || (grows && length < MIN_RUN) {
            break;
        }
        // A line that is not digits to its end is the last one at most if it is padded or quoted.
        let end = text.get(start + length);
        if !matches!(end, None | Some(b'\n' | b'\r' | b'=' | b'"' | b'\'' | b'`' | b'<')) {
            break;
        }
        model = at..start;
        lines.push(start..start + length);
        if shorter {
            break;
        }
    }
    lines
}

/// Where the next line begins, if a line ends at `at`.
fn next_line(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at..)? {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    }
}

fn blanks(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'>' | b'#')).count()
}

/// What the lines mean, if that is readable.
fn region(text: &[u8], mut lines: Vec<Range<usize>>) -> Option<Region> {
    let mut digits: Vec<u8> = Vec::new();
    for line in &lines {
        digits.extend_from_slice(text.get(line.clone())?);
    }
    if let Some(region) = hex_region(text, &lines, &digits) {
        return Some(region);
    }
    if digits.len() < MIN_DIGITS || digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let packed = is_packed(sextets(&digits, 0)).then_some(0);
    let offset = packed.or_else(|| (0..4).find(|offset| readable(sextets(&digits, *offset))))?;
    // A word on the next line is not the end of it.
    if let [.., _, last] = lines.as_slice()
        && text.get(last.end).is_none_or(|byte| *byte != b'=')
    {
        let kept = digits.len() - last.len();
        let tail = sextets(digits.get(kept..)?, 0).all(printable);
        if (kept - offset).is_multiple_of(4)
            && !tail
            && sextets(digits.get(..kept)?, offset).all(printable)
        {
            digits.truncate(kept);
            lines.pop();
        }
    }
    let mut bytes: Vec<u8> = sextets(&digits, offset).collect();
    let count = digits.len() - offset;
    // What is left of an incomplete quantum of two or three digits; one digit means nothing.
    let stray = usize::from(count % 4 == 1);
    if let Some(first) = lines.first_mut() {
        first.start += offset;
    }
    if let Some(last) = lines.last_mut() {
        last.end -= stray;
    }
    bytes.truncate((count - stray) * 3 / 4);
    let (start, end) = (lines.first()?.start, lines.last()?.end);
    let rest = text.get(end..)?;
    let padding = rest.iter().take(2).take_while(|byte| **byte == b'=').count();
    // Without padding it is the URL-safe alphabet, if nothing says otherwise.
    let standard = digits.iter().any(|byte| matches!(byte, b'+' | b'/'));
    let url = !standard && padding == 0 && !count.is_multiple_of(4)
        || digits.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let dotted = rest.first() == Some(&b'.') || text.get(..start)?.last() == Some(&b'.');
    let padded = if count.is_multiple_of(4) { !url && !dotted } else { padding > 0 };
    let span = start..end + if stray == 0 { padding } else { 0 };
    Some(Region { span, bytes, code: Code::Base64 { url, padded }, lines })
}

fn hex_region(text: &[u8], lines: &[Range<usize>], digits: &[u8]) -> Option<Region> {
    let marked = digits.starts_with(b"0x") || digits.starts_with(b"0X");
    let digits = digits.get(if marked { 2 } else { 0 }..)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) || digits.len() % 2 != 0 {
        return None;
    }
    let bytes: Vec<u8> = pairs(digits).collect();
    if !readable(bytes.iter().copied()) && !is_packed(bytes.iter().copied()) {
        return None;
    }
    let mut lines = lines.to_vec();
    let first = lines.first_mut()?;
    first.start += if marked { 2 } else { 0 };
    let span = first.start..lines.last()?.end;
    debug_assert!(span.end <= text.len());
    Some(Region { span, bytes, code: Code::Hex { upper: is_upper(digits) }, lines })
}

/// Hexadecimal digits between other ones.
fn hidden_hex(text: &[u8], run: Range<usize>) -> Vec<Region> {
    let digits = text.get(run.clone()).unwrap_or_default();
    let mut all = Vec::new();
    let mut at = 0;
    for part in digits.split(|byte| !byte.is_ascii_hexdigit()) {
        let starts = [at, at + 1];
        at += part.len() + 1;
        if part.len() < MIN_RUN {
            continue;
        }
        let found = starts.into_iter().zip([part, part.get(1..).unwrap_or_default()]);
        all.extend(found.into_iter().find_map(|(start, part)| {
            let part = part.get(..part.len() & !1)?;
            let span = run.start + start..run.start + start + part.len();
            hex_region(text, &[span], part)
        }));
    }
    all
}

/// The credentials of a `Basic` header value, of any length.
pub(crate) fn basic(value: &[u8]) -> Option<Region> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let start = 6 + rest.iter().take_while(|byte| **byte == b' ').count();
    let digits = value.get(start..)?.iter().take_while(|byte| is_digit(**byte)).count();
    let digits = digits - usize::from(digits % 4 == 1);
    let (end, padded) = (start + digits, value.ends_with(b"="));
    let bytes: Vec<u8> = sextets(value.get(start..end)?, 0).collect();
    if !scheme.eq_ignore_ascii_case(b"basic ") || bytes.is_empty() {
        return None;
    }
    let padding = value.get(end..)?.iter().take_while(|byte| **byte == b'=').count();
    let code = Code::Base64 { url: false, padded: padded || digits % 4 == 0 };
    let lines = std::iter::once(start..end).collect();
    Some(Region { span: start..end + padding, bytes, code, lines })
}

impl Region {
    /// Writes `inner` as this region of `text` is written.
    pub(crate) fn encode(&self, text: &[u8], inner: &[u8]) -> Vec<u8> {
        let digits = match self.code {
            Code::Hex { upper } => hex(inner, upper),
            Code::Base64 { url, padded } => base64(inner, url, padded),
        };
        let mut out = Vec::with_capacity(digits.len() * 5 / 4);
        let last = self.lines.len() - 1;
        let end = self.lines.last().map_or(0, |line| line.start);
        let widest = self.lines.iter().map(Range::len).max().unwrap_or(0);
        let widest = if last == 0 { usize::MAX } else { widest.max(self.span.end - end) };
        let mut rest = digits.as_slice();
        let mut nth = 0;
        while !rest.is_empty() {
            if let Some([before, line]) =
                self.lines.get(nth.min(last).wrapping_sub(1)..=nth.min(last))
            {
                out.extend_from_slice(text.get(before.end..line.start).unwrap_or_default());
            }
            let width =
                if nth < last { self.lines.get(nth).map_or(widest, Range::len) } else { widest };
            let (now, then) = rest.split_at_checked(width.max(1)).unwrap_or((rest, b""));
            out.extend_from_slice(now);
            rest = then;
            nth += 1;
        }
        out
    }
}

/// Standard or URL-safe base64.
pub(crate) fn base64(bytes: &[u8], url: bool, padded: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut quantum = [0; 3];
        for (to, from) in quantum.iter_mut().zip(chunk) {
            *to = *from;
        }
        let [first, second, third] = quantum.map(u32::from);
        let word = first << 16 | second << 8 | third;
        for place in 0..=chunk.len() {
            out.push(digit(word >> (18 - 6 * place) & 63, url));
        }
        if padded {
            out.resize(out.len().next_multiple_of(4), b'=');
        }
    }
    out
}

fn digit(value: u32, url: bool) -> u8 {
    let value = u8::try_from(value).unwrap_or(0);
    match value {
        0..26 => b'A' + value,
        26..52 => b'a' + value - 26,
        52..62 => b'0' + value - 52,
        62 => {
            if url {
                b'-'
            } else {
                b'+'
            }
        }
        _ => {
            if url {
                b'_'
            } else {
                b'/'
            }
        }
    }
}

/// The bytes of base64 digits from `offset` on; two or three digits at the end are one or two bytes.
fn sextets(digits: &[u8], offset: usize) -> impl Iterator<Item = u8> {
    digits.get(offset..).unwrap_or_default().chunks(4).flat_map(|quantum| {
        let mut word = 0_u32;
        for place in 0..4 {
            let value = quantum.get(place).map_or(0, |byte| sextet(*byte));
            word = word << 6 | u32::from(value);
        }
        let [_, first, second, third] = word.to_be_bytes();
        [first, second, third].into_iter().take(quantum.len() * 3 / 4)
    })
}

fn pairs(digits: &[u8]) -> impl Iterator<Item = u8> {
    let nibble = |byte: &u8| hex_digit(*byte).unwrap_or(0);
    digits.chunks_exact(2).map(move |pair| pair.iter().fold(0, |sum, byte| sum << 4 | nibble(byte)))
}

/// Does it contain a stretch that someone could read, of 8 or of 16 bits for each character? Random bytes
/// have one of twelve characters at one of a hundred thousand places.
fn readable(bytes: impl Iterator<Item = u8>) -> bool {
    let (mut stretch, mut total, mut zero) = (0, 0, false);
    for byte in bytes {
        total += 1;
        if printable(byte) {
            stretch += 1;
            zero = false;
        } else if byte == 0 && !zero {
            zero = true;
        } else {
            (stretch, zero) = (0, false);
        }
        if stretch >= READABLE {
            return true;
        }
    }
    total >= 8 && stretch == total
}

/// Does it begin like gzip or zstd?
fn is_packed(bytes: impl Iterator<Item = u8>) -> bool {
    let mut head = [0; 4];
    head.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    matches!(head, [0x1f, 0x8b, 8, _] | [0x28, 0xb5, 0x2f, 0xfd])
}

fn printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')
}

fn is_upper(digits: &[u8]) -> bool {
    digits.iter().any(u8::is_ascii_uppercase)
}

fn is_digit(byte: u8) -> bool {
    sextet(byte) < 64
}

/// Digits that a run has at least; and that it has at least on its first line if it is wrapped.
const MIN_RUN: usize = 16;
/// Digits that base64 has at least.
const MIN_DIGITS: usize = 20;
const READABLE: usize = 12;

fn sextet(byte: u8) -> u8 {
    VALUES.get(usize::from(byte)).copied().unwrap_or(64)
}

/// The value of each base64 digit of both alphabets; 64 for all else.
const VALUES: [u8; 256] = values();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn values() -> [u8; 256] {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [64; 256];
    let mut value = 0_u8;
    while value < 64 {
        values[alphabet[value as usize] as usize] = value;
        value += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values
}

#[cfg(test)]
mod tests;
