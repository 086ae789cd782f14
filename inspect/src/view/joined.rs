//! Lines behind prefixes that tools put before them: `cat -n`, `grep -n`, `diff`, quotation marks of mail,
//! comments, indentation.
//!
//! - input: a text
//! - output: a view of what in it goes over lines, without their prefixes
//! - bound: [`MAX_LINES`] for each block; linear in the text
//! - on failure: none if there is no such block

use std::ops::Range;

use memchr::{memchr, memchr_iter, memmem, memrchr};

use super::View;

/// Key blocks (`-----BEGIN`) whose lines have prefixes, and lines that only the next one completes.
pub(crate) fn blocks(text: &[u8]) -> Option<View> {
    let mut view = View::default();
    keys(text, &mut view);
    open_lines(text, &mut view);
    (!view.text.is_empty()).then_some(view)
}

fn keys(text: &[u8], view: &mut View) {
    let mut from = 0;
    while let Some(found) = memmem::find(text.get(from..).unwrap_or_default(), b"-----BEGIN") {
        let begin = from + found;
        from = begin + 1;
        let prefix = prefix(text, begin);
        if prefix.is_empty() {
            continue;
        }
        let mut lines: Vec<_> = std::iter::once(begin..line_end(text, begin)).collect();
        while let Some(last) = lines.last().cloned()
            && lines.len() < MAX_LINES
            && last.end < text.len()
            && memmem::find(text.get(last.clone()).unwrap_or_default(), b"-----END").is_none()
        {
            let Some(start) = like(text, prefix.clone(), last.end) else { break };
            lines.push(start..line_end(text, start));
        }
        if lines.len() > 1 {
            from = lines.last().map_or(from, |last| last.end);
            lines.into_iter().for_each(|line| view.copy(text, line));
        }
    }
}

/// `<name>`, `name =`, and on the next line the value; only where tools put something before both.
fn open_lines(text: &[u8], view: &mut View) {
    let mut start = 0;
    for newline in memchr_iter(b'\n', text) {
        let line = start..newline;
        start = newline + 1;
        let content = text.get(line.clone()).unwrap_or_default();
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if !matches!(content.last(), Some(b'>' | b'=' | b':' | b'(')) {
            continue;
        }
        let behind = line.start + sign(content);
        if behind > line.start
            && let Some(next) = like(text, line.start..behind, start)
        {
            view.copy(text, behind..start);
            view.copy(text, next..line_end(text, next));
        }
    }
}

/// The length of what `cat -n`, `grep -n`, `diff` or mail put before a line.
fn sign(line: &[u8]) -> usize {
    let after = numbered(line).and_then(<[u8]>::split_first);
    match (after, line) {
        (Some((b'\t' | b':' | b'|' | b'-', rest)), _) => line.len() - rest.len(),
        (_, [b'>', b' ', ..]) => 2,
        (_, [b'+' | b'-' | b'>', ..]) => 1,
        _ => 0,
    }
}

/// What stands before `at` on its line.
pub(super) fn prefix(text: &[u8], at: usize) -> Range<usize> {
    let head = text.get(..at).unwrap_or_default();
    memrchr(b'\n', head).map_or(0, |newline| newline + 1)..at
}

/// Where the line at `at` goes on behind a prefix like the one of another line: equal but for numbers
/// and the blanks before them.
pub(super) fn like(text: &[u8], prefix: Range<usize>, at: usize) -> Option<usize> {
    let mut model = text.get(prefix).filter(|prefix| prefix.len() <= MAX_PREFIX_BYTES)?;
    let mut rest = text.get(at..)?;
    while let Some((first, tail)) = model.split_first() {
        if let (Some(behind), Some(after)) = (numbered(model), numbered(rest)) {
            (model, rest) = (behind, after);
        } else {
            rest = rest.strip_prefix(&[*first])?;
            model = tail;
        }
    }
    Some(text.len() - rest.len())
}

/// What follows blanks and a number.
fn numbered(text: &[u8]) -> Option<&[u8]> {
    let digits = text.iter().position(|byte| *byte != b' ')?;
    let behind = text.get(digits..)?;
    let count = behind.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(behind.len());
    if count == 0 { None } else { behind.get(count..) }
}

fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    memchr(b'\n', rest).map_or(text.len(), |newline| from + newline + 1)
}

const MAX_PREFIX_BYTES: usize = 64;
/// Of a block: keys of 16384 bits have fewer than 200.
const MAX_LINES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_value_on_the_next_line_are_seen_together() {
        for wire in ["   9\t<key>\n  10\t  value\n  11\t</key>\n", "+<key>\n+  value\n+</key>\n"] {
            let view = blocks(wire.as_bytes()).unwrap();
            assert!(view.text.starts_with(b"<key>\n  value\n"), "{wire}");
        }
        assert!(blocks(b"<key>\n  value\n</key>\n").is_none());
    }

    #[test]
    fn prefixes_of_key_blocks_go() {
        let lines = ["-----BEGIN KEY-----", "MIIE", "abcd", "-----END KEY-----"];
        let prefixes: [fn(usize) -> String; 4] = [
            |n| format!("{:6}\t", n + 9),
            |_| "+".to_owned(),
            |_| "> > ".to_owned(),
            |n| format!("key.pem:{}:", n + 1),
        ];
        for prefix in prefixes {
            let wire =
                lines.iter().enumerate().map(|(n, line)| prefix(n) + line).collect::<Vec<_>>();
            let wire = wire.join("\n");
            let view = blocks(wire.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(view.text).unwrap(), lines.join("\n"), "{wire}");
        }
        assert!(blocks(lines.join("\n").as_bytes()).is_none(), "nothing to take off");
    }
}
