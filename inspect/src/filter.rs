//! Says which matches of a rule are dropped: test values, names, words.
//!
//! - input: a [`Candidate`]
//! - output: whether it is dropped
//! - bound: time linear in the candidate; nothing outside of it is seen
//! - on failure: what cannot be evaluated drops nothing

use std::ops::Range;

use crate::limits;

/// A match of a rule, with what stands before it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The text that was searched, or the part of it that is held. What is further before the match
    /// than [`limits::LOOK_BEHIND_BYTES`] and everything after the match is not looked at, so that
    /// the answer does not depend on how a text is cut.
    pub text: &'a [u8],
    /// The whole match of the pattern, in `text`.
    pub matched: Range<usize>,
    /// The secret, in `text`.
    pub secret: Range<usize>,
}

/// An expression over a candidate; the default one drops nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter;

impl Candidate<'_> {
    /// The secret; at most [`limits::MAX_HELD_BYTES`] of it.
    pub fn secret(&self) -> &[u8] {
        let secret = self.text.get(self.secret.clone()).unwrap_or_default();
        secret.get(..limits::MAX_HELD_BYTES).unwrap_or(secret)
    }
}

impl Filter {
    /// Whether the match is dropped.
    pub fn drops(&self, _candidate: &Candidate<'_>) -> bool {
        false
    }
}
