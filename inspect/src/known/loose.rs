//! Placeholders as models write them: in another case, with escapes of Markdown, wrapped over lines.
//!
//! - input: placeholders with their numbers
//! - output: where one stands in a text
//! - bound: [`MAX_SKIPPED`] bytes that do not count, within one
//! - on failure: cannot fail
//!
//! Every character of a placeholder must be there: what does not count is only between them.

use std::ops::Range;

use crate::known::MIN_VALUE_BYTES;

/// Bytes within one placeholder that do not count.
const MAX_SKIPPED: usize = 64;

/// A set of placeholders.
pub(super) struct Loose {
    /// Folded, in order.
    patterns: Vec<(Vec<u8>, u32)>,
    /// Whether a pattern begins with a byte.
    first: [bool; 256],
    longest: usize,
}

/// How a place in a text compares with the patterns.
enum Walk {
    /// One ends here.
    Found(usize, u32),
    /// The text ended in one.
    Alive,
    /// No.
    None,
}

impl Loose {
    pub(super) fn new(values: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Option<Self> {
        let fold_all = |value: Vec<u8>| value.into_iter().filter_map(fold).collect::<Vec<_>>();
        let values = values.into_iter().map(|(number, value)| (fold_all(value), number));
        let mut patterns: Vec<_> =
            values.filter(|(value, _)| value.len() >= MIN_VALUE_BYTES).collect();
        patterns.sort();
        patterns.dedup_by(|next, first| next.0 == first.0);
        let longest = patterns.iter().map(|(pattern, _)| pattern.len()).max()?;
        let mut first = [false; 256];
        for byte in patterns.iter().filter_map(|(pattern, _)| pattern.first()) {
            for byte in [byte.to_ascii_lowercase(), byte.to_ascii_uppercase()] {
                if let Some(is_first) = first.get_mut(usize::from(byte)) {
                    *is_first = true;
                }
            }
        }
        Some(Self { patterns, first, longest })
    }

    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }

    pub(super) fn hit(&self, text: &[u8], from: usize) -> Option<(Range<usize>, u32)> {
        let mut starts = self.starts(text, from);
        starts.find_map(|start| match self.walk(text, start) {
            Walk::Found(end, number) => Some((start..end, number)),
            Walk::Alive | Walk::None => None,
        })
    }

    pub(super) fn alive(&self, text: &[u8], from: usize) -> Option<usize> {
        let most = self.longest + MAX_SKIPPED;
        let from = text.len().saturating_sub(most).max(from);
        let mut starts = self.starts(text, from);
        starts.find(|start| matches!(self.walk(text, *start), Walk::Alive))
    }

    fn starts(&self, text: &[u8], from: usize) -> impl Iterator<Item = usize> {
        let rest = text.get(from..).unwrap_or_default().iter();
        let is_first = |byte: &u8| self.first.get(usize::from(*byte)).copied().unwrap_or_default();
        rest.enumerate().filter(move |(_, byte)| is_first(byte)).map(move |(at, _)| from + at)
    }

    fn walk(&self, text: &[u8], start: usize) -> Walk {
        let mut left = self.patterns.as_slice();
        let (mut depth, mut skipped) = (0, 0);
        for (at, byte) in text.iter().enumerate().skip(start) {
            let Some(byte) = fold(*byte) else {
                skipped += 1;
                if skipped > MAX_SKIPPED {
                    return Walk::None;
                }
                continue;
            };
            let before = left.partition_point(|(pattern, _)| pattern.get(depth) < Some(&byte));
            let behind = left.partition_point(|(pattern, _)| pattern.get(depth) <= Some(&byte));
            left = left.get(before..behind).unwrap_or_default();
            depth += 1;
            match left.first() {
                None => return Walk::None,
                // No placeholder begins with another one: a check follows the sentinel's tag.
                Some((pattern, number)) if pattern.len() == depth => {
                    return Walk::Found(at + 1, *number);
                }
                Some(_) => {}
            }
        }
        Walk::Alive
    }
}

/// A byte that counts, in lower case.
fn fold(byte: u8) -> Option<u8> {
    let counts = !byte.is_ascii_whitespace() && byte != b'\\';
    counts.then_some(byte.to_ascii_lowercase())
}
