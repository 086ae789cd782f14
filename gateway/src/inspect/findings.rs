//! What was found in one exchange, until it is recorded.
//!
//! - input: findings, in any order
//! - output: rows of the record
//! - bound: `limits::MAX_FINDINGS`; more are only counted
//! - on failure: cannot fail

use std::sync::{Arc, Mutex, PoisonError};

use weir_inspect::fingerprint::Fingerprint;
use weir_inspect::rule::{Confidence, Tier};

use super::judge::Direction;
use crate::limits::MAX_FINDINGS;

/// What was done about a secret, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passed.
    Kept,
    /// A placeholder took its place.
    Tokenised,
    /// A mark took its place.
    Redacted,
    /// The message was refused.
    Refused,
}

impl Action {
    /// As the record calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Tokenised => "tokenised",
            Self::Redacted => "redacted",
            Self::Refused => "refused",
        }
    }
}

/// One secret in one place.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which way it went.
    pub direction: Direction,
    /// What found it.
    pub rule: Arc<str>,
    /// See [`Tier`].
    pub tier: Tier,
    /// See [`Confidence`].
    pub confidence: Confidence,
    /// Where it stands.
    pub location: String,
    /// Of the secret, bytes.
    pub length: usize,
    /// The same for the same secret, on every host with the same key.
    pub fingerprint: Fingerprint,
    /// What was done.
    pub action: Action,
    /// What took its place; empty where nothing can bring it back.
    pub placeholder: String,
}

/// Findings of one exchange. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Findings(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    all: Vec<Finding>,
    count: u32,
    action: Option<Action>,
}

/// What [`Findings::take`] gives.
#[derive(Debug, Default)]
pub struct Taken {
    /// At most `limits::MAX_FINDINGS`.
    pub all: Vec<Finding>,
    /// How many there were.
    pub count: u32,
    /// The strongest thing that was done.
    pub action: Option<Action>,
}

impl Findings {
    /// Adds one.
    pub fn add(&self, finding: Finding) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count = inner.count.saturating_add(1);
        inner.action = inner.action.max(Some(finding.action));
        if inner.all.len() < MAX_FINDINGS {
            inner.all.push(finding);
        }
    }

    /// All of them; none are left.
    pub fn take(&self) -> Taken {
        let Inner { all, count, action } = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *inner)
        };
        Taken { all, count, action }
    }
}
