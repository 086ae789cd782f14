//! Exact values: registered by the operator, injected by weir, seen in a job's environment,
//! vaulted; and placeholders, on their way back.
//!
//! - input: values, each with its number
//! - output: where one of them stands in a text, in any of its encodings
//! - bound: the number of values, by the caller; one has [`MIN_VALUE_BYTES`] to `limits::MAX_VALUE_BYTES`
//! - on failure: cannot fail; values out of bounds are left out
//!
//! A set of patterns, sorted. A place in a text is looked at only if a filter knows its first [`BLOCK`]
//! bytes; the longest pattern that stands there is then found by bisection. Nothing of a value is anywhere
//! but in the patterns, which are overwritten when the last clone goes.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroize as _;

use self::loose::Loose;
use crate::encodings::{self, Encoding};
use crate::limits::MAX_VALUE_BYTES;

mod loose;

/// Shorter values stand everywhere by chance.
pub const MIN_VALUE_BYTES: usize = 8;
/// Bytes that the filter knows of each pattern.
const BLOCK: usize = 8;
/// Bits of the filter for each pattern: one place in 32 is looked at for nothing.
const BITS_PER_PATTERN: usize = 32;

/// A set of known values. Cheap to clone and to search.
#[derive(Clone, Default)]
pub struct Known {
    /// 0 of the empty set.
    number: u64,
    /// Joined sets, each searched by itself.
    sets: Vec<Arc<Set>>,
    loose: Vec<Arc<Loose>>,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its bytes in the text.
    pub span: Range<usize>,
    /// Its number.
    pub number: u32,
    /// How it is written there.
    pub encoding: Encoding,
}

struct Set {
    /// In order of their bytes.
    patterns: Vec<Pattern>,
    filter: Vec<u64>,
    shift: u32,
    longest: usize,
}

struct Pattern {
    bytes: Vec<u8>,
    number: u32,
    encoding: Encoding,
    /// The longest other pattern that this one begins with.
    parent: Option<usize>,
}

impl Known {
    /// A set of `(number, value)`.
    pub fn new(values: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Self {
        let mut patterns = Vec::new();
        for (number, mut value) in values {
            if (MIN_VALUE_BYTES..=MAX_VALUE_BYTES).contains(&value.len()) {
                encodings::of(&value, |encoding, bytes| {
                    patterns.push(Pattern { bytes, number, encoding, parent: None });
                });
            }
            value.zeroize();
        }
        let set = Set::of(patterns);
        Self::made_of(set.map(Arc::new).into_iter().collect(), Vec::new())
    }

    /// A set of placeholders, which are found also in another case, with backslashes, and wrapped over
    /// lines.
    pub fn placeholders(values: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Self {
        Self::made_of(Vec::new(), Loose::new(values).map(Arc::new).into_iter().collect())
    }

    fn made_of(sets: Vec<Arc<Set>>, loose: Vec<Arc<Loose>>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let is_empty = sets.is_empty() && loose.is_empty();
        let number = if is_empty { 0 } else { NUMBERS.fetch_add(1, Ordering::Relaxed) };
        Self { number, sets, loose }
    }

    /// The values of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let number = match (self.number, other.number) {
            (number, 0) | (0, number) => number,
            both => {
                let mut hasher = DefaultHasher::new();
                both.hash(&mut hasher);
                hasher.finish()
            }
        };
        Self {
            number,
            sets: self.sets.iter().chain(&other.sets).map(Arc::clone).collect(),
            loose: self.loose.iter().chain(&other.loose).map(Arc::clone).collect(),
        }
    }

    /// Tells this set from every other one; sets put together of the same sets have the same.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.loose.is_empty()
    }

    /// The leftmost, longest value at or after `from`: its place and number.
    pub fn find(&self, text: &[u8], from: usize) -> Option<(Range<usize>, u32)> {
        self.hit(text, from).map(|hit| (hit.span, hit.number))
    }

    /// The same, with how it is written there.
    pub fn hit(&self, text: &[u8], from: usize) -> Option<Hit> {
        let hits = self.sets.iter().filter_map(|set| set.hit(text, from));
        let loose = self.loose.iter().filter_map(|set| set.hit(text, from));
        let loose = loose.map(|(span, number)| Hit { span, number, encoding: Encoding::Raw });
        hits.chain(loose).min_by_key(|hit| (hit.span.start, std::cmp::Reverse(hit.span.end)))
    }

    /// Where at the end of a growing text a value may have begun: the earliest position at or after
    /// `from` from which the rest of `text` is a proper prefix of a value.
    pub fn alive(&self, text: &[u8], from: usize) -> Option<usize> {
        let alive = self.sets.iter().filter_map(|set| set.alive(text, from));
        alive.chain(self.loose.iter().filter_map(|set| set.alive(text, from))).min()
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: usize = self.sets.iter().map(|set| set.patterns.len()).sum();
        let patterns = patterns + self.loose.iter().map(|set| set.len()).sum::<usize>();
        f.debug_struct("Known").field("patterns", &patterns).finish_non_exhaustive()
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Set {
    fn of(mut patterns: Vec<Pattern>) -> Option<Self> {
        // Of equal patterns the first value's counts, and its plainest encoding.
        patterns.sort_by(|a, b| {
            a.bytes.cmp(&b.bytes).then(a.encoding.cmp(&b.encoding)).then(a.number.cmp(&b.number))
        });
        patterns.dedup_by(|next, first| next.bytes == first.bytes);
        let longest = patterns.iter().map(|pattern| pattern.bytes.len()).max()?;
        let bits = (patterns.len() * BITS_PER_PATTERN).next_power_of_two().max(64);
        let shift = 64 - bits.trailing_zeros();
        let mut set = Self { patterns, filter: vec![0; bits / 64], shift, longest };
        for at in 0..set.patterns.len() {
            let parent = at.checked_sub(1).and_then(|before| {
                let bytes = &set.patterns.get(at)?.bytes;
                set.ancestor(before, bytes)
            });
            let Some(pattern) = set.patterns.get_mut(at) else { continue };
            pattern.parent = parent;
            let Some(block) = pattern.bytes.first_chunk() else { continue };
            let (word, bit) = place(*block, shift);
            if let Some(word) = set.filter.get_mut(word) {
                *word |= bit;
            }
        }
        Some(set)
    }

    /// From a pattern upwards, the first that `text` begins with.
    fn ancestor(&self, from: usize, text: &[u8]) -> Option<usize> {
        let mut at = Some(from);
        while let Some(pattern) = at.and_then(|at| self.patterns.get(at)) {
            if text.starts_with(&pattern.bytes) {
                return at;
            }
            at = pattern.parent;
        }
        None
    }

    fn hit(&self, text: &[u8], from: usize) -> Option<Hit> {
        let rest = text.get(from..)?;
        for (at, block) in rest.windows(BLOCK).enumerate() {
            let Some(block) = block.first_chunk() else { continue };
            let (word, bit) = place(*block, self.shift);
            if self.filter.get(word).is_none_or(|word| word & bit == 0) {
                continue;
            }
            let here = rest.get(at..).unwrap_or_default();
            // What `here` begins with is not behind it; what is between that and `here` begins with it.
            let behind = self.patterns.partition_point(|pattern| *pattern.bytes <= *here);
            let found = behind.checked_sub(1).and_then(|before| self.ancestor(before, here));
            if let Some(pattern) = found.and_then(|found| self.patterns.get(found)) {
                let start = from + at;
                let span = start..start + pattern.bytes.len();
                return Some(Hit { span, number: pattern.number, encoding: pattern.encoding });
            }
        }
        None
    }

    fn alive(&self, text: &[u8], from: usize) -> Option<usize> {
        let earliest = text.len().saturating_sub(self.longest.saturating_sub(1)).max(from);
        (earliest..text.len()).find(|at| {
            let rest = text.get(*at..).unwrap_or_default();
            if let Some(block) = rest.first_chunk() {
                let (word, bit) = place(*block, self.shift);
                if self.filter.get(word).is_none_or(|word| word & bit == 0) {
                    return false;
                }
            }
            // The first pattern behind the rest begins with it, if any does.
            let behind = self.patterns.partition_point(|pattern| *pattern.bytes <= *rest);
            self.patterns.get(behind).is_some_and(|pattern| pattern.bytes.starts_with(rest))
        })
    }
}

/// Word and bit of the filter.
fn place(block: [u8; BLOCK], shift: u32) -> (usize, u64) {
    // Fibonacci hashing: the upper bits of the product depend on all of the block.
    let hash = u64::from_le_bytes(block).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift;
    (usize::try_from(hash / 64).unwrap_or(usize::MAX), 1 << (hash % 64))
}

#[cfg(test)]
mod tests;
