//! What happens to a match: decided by the caller, asked by everything that descends into bytes.
//!
//! - input: [`Found`]
//! - output: [`Verdict`]
//! - bound: one question for each match
//! - on failure: cannot fail

use std::fmt;
use std::sync::Arc;

use crate::rule::{Confidence, Tier};

/// One secret where it was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Rule, or name of the known value.
    pub rule: &'a Arc<str>,
    /// See [`Tier`].
    pub tier: Tier,
    /// See [`Confidence`].
    pub confidence: Confidence,
    /// Which known value it is, as given to [`crate::known::Known`].
    pub known: Option<u32>,
    /// Hosts that the rule says it may go to.
    pub hosts: &'a [String],
    /// Value, decoded; at most [`crate::limits::MAX_HELD_BYTES`] of a swallowed one.
    pub value: &'a [u8],
    /// Where it stands.
    pub at: &'a Location,
}

/// What happens to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// This stands in its place, encoded like its surroundings.
    Replace(Vec<u8>),
    /// The whole message is refused.
    Refuse,
}

/// Decides on matches.
pub trait Judge {
    /// Called once for each match; in order of the bytes, what is encoded inside of a text after the text.
    fn judge(&mut self, found: &Found<'_>) -> Verdict;
}

/// Where in a message: `body > gzip > $.messages[0].content > base64`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location(Vec<String>);

impl Location {
    /// A step deeper.
    pub fn enter(&mut self, step: impl Into<String>) {
        self.0.push(step.into());
    }

    /// The last step.
    pub fn last(&self) -> &str {
        self.0.last().map(String::as_str).unwrap_or_default()
    }

    /// Back out of the last step.
    pub fn leave(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" > "))
    }
}
