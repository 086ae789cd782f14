//! Cuts a filter into tokens.
//!
//! - input: text of a filter
//! - output: [`Token`]s with their positions
//! - bound: one pass; the text is bounded by the caller
//! - on failure: [`FilterError`] with its place

use super::{FilterError, error};

/// One word of a filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a word operator.
    Word(String),
    /// A number.
    Number(f64),
    /// A quoted text.
    Text(Vec<u8>),
    /// Punctuation: one of [`SIGNS`].
    Sign(&'static str),
}

/// Longest first.
const SIGNS: [&str; 30] = [
    "||", "&&", "==", "!=", "<=", ">=", "??", "?.", "..", "(", ")", "[", "]", "{", "}", ",", ";",
    ":", "?", "!", "<", ">", "+", "-", "*", "/", "=", "#", ".", "%",
];

/// All tokens, each with the byte at which it begins.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(first) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").ok_or_else(|| error(text, at, "comment without an end"))? + 2
        } else {
            let (token, length) = token(rest).map_err(|reason| error(text, at, reason))?;
            all.push((at, token));
            length
        };
        at += length;
    }
    Ok(all)
}

fn token(rest: &str) -> Result<(Token, usize), &'static str> {
    let first = rest.chars().next().unwrap_or_default();
    if matches!(first, '"' | '\'' | '`') {
        return quoted(rest, first);
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let word = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        return Ok((Token::Word(word.to_owned()), word.len()));
    }
    if first.is_ascii_digit() {
        let word = number(rest);
        let digits = word.replace('_', "");
        return match digits.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok((Token::Number(value), word.len())),
            _ => Err("not a number"),
        };
    }
    let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
    sign.map(|sign| (Token::Sign(sign), sign.len())).ok_or("unexpected character")
}

/// Digits, a fraction, an exponent.
fn number(rest: &str) -> &str {
    let mut end = 0;
    let mut before = ' ';
    for (at, c) in rest.char_indices() {
        let next_is_digit =
            rest.get(at + 1..).is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
        let belongs = match c {
            '0'..='9' | '_' => true,
            '.' => next_is_digit,
            'e' | 'E' => before.is_ascii_digit(),
            '+' | '-' => matches!(before, 'e' | 'E'),
            _ => false,
        };
        if !belongs {
            break;
        }
        before = c;
        end = at + c.len_utf8();
    }
    rest.get(..end).unwrap_or_default()
}

/// A text in quotes: raw between backticks, else with escapes.
fn quoted(rest: &str, quote: char) -> Result<(Token, usize), &'static str> {
    let mut value = Vec::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(value), at + 1)),
            '\\' if quote != '`' => {
                let (_, escape) = chars.next().ok_or("text without an end")?;
                let mut digits = |count: usize| {
                    let digits: String = chars.by_ref().take(count).map(|(_, c)| c).collect();
                    u32::from_str_radix(&digits, 16).map_err(|_malformed| "not an escape")
                };
                match escape {
                    'n' => value.push(b'\n'),
                    'r' => value.push(b'\r'),
                    't' => value.push(b'\t'),
                    'v' => value.push(0x0b),
                    'f' => value.push(0x0c),
                    'a' => value.push(0x07),
                    'b' => value.push(0x08),
                    '\\' | '"' | '\'' | '`' => push(&mut value, escape),
                    'x' => value.push(u8::try_from(digits(2)?).unwrap_or_default()),
                    'u' => push(&mut value, char::from_u32(digits(4)?).ok_or("not an escape")?),
                    'U' => push(&mut value, char::from_u32(digits(8)?).ok_or("not an escape")?),
                    _ => return Err("not an escape"),
                }
            }
            c => push(&mut value, c),
        }
    }
    Err("text without an end")
}

fn push(value: &mut Vec<u8>, c: char) {
    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
