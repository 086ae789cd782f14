//! Exact values: registered by the operator, injected by weir, seen in a job's environment,
//! vaulted; and placeholders, on their way back.
//!
//! - input: values, each with its number
//! - output: where one of them stands in a text, in any of its encodings
//! - bound: the number of values, by the caller
//! - on failure: cannot fail

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of known values. Cheap to search, dear to make: made anew when a value is added.
#[derive(Clone, Debug, Default)]
pub struct Known {
    number: u64,
    values: Vec<(u32, Vec<u8>)>,
}

impl Known {
    /// A set of `(number, value)`.
    pub fn new(values: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let values: Vec<_> = values.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let number = if values.is_empty() { 0 } else { NUMBERS.fetch_add(1, Ordering::Relaxed) };
        Self { number, values }
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
        Self { number, values: self.values.iter().chain(&other.values).cloned().collect() }
    }

    /// Tells this set from every other one; sets put together of the same sets have the same.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The leftmost, longest value at or after `from`: its place and number.
    pub fn find(&self, text: &[u8], from: usize) -> Option<(Range<usize>, u32)> {
        (from..text.len()).find_map(|at| {
            let rest = text.get(at..)?;
            let here = self.values.iter().filter(|(_, value)| rest.starts_with(value));
            let (number, value) = here.max_by_key(|(_, value)| value.len())?;
            Some((at..at + value.len(), *number))
        })
    }

    /// Where at the end of a growing text a value may have begun: the earliest position at or after
    /// `from` from which the rest of `text` is a proper prefix of a value.
    pub fn alive(&self, text: &[u8], from: usize) -> Option<usize> {
        (from..text.len()).find(|at| {
            let rest = text.get(*at..).unwrap_or_default();
            self.values.iter().any(|(_, value)| value.len() > rest.len() && value.starts_with(rest))
        })
    }
}
