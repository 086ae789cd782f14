//! What a secret looks like.
//!
//! - input: weir's own rule set, imported rule files, operators' rules
//! - output: [`Rule`], checked, for [`crate::engine::Engine`]
//! - bound: the size of a compiled pattern
//! - on failure: an error that names the rule

use std::sync::Arc;

use crate::filter::Filter;

/// How a rule knows a secret, most certain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The value itself is known.
    Known,
    /// The value has its provider's prefix or structure.
    Prefixed,
    /// Words before the value say what it is.
    Contextual,
}

/// How sure a match is. Checksums raise it; nothing lowers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// Worth a look.
    Low,
    /// Likely.
    Medium,
    /// As good as certain.
    High,
}

/// One format of one kind of secret.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique, lower-case, words joined by `-`: `github-pat-classic`.
    pub id: Arc<str>,
    /// One line for people.
    pub description: String,
    /// See [`Tier`].
    pub tier: Tier,
    /// Of a match whose checksum says nothing.
    pub confidence: Confidence,
    /// In the syntax of the `regex` crate, over bytes. The secret is the first capture group that
    /// took part in the match and is not empty; without one the whole match is. Groups in different
    /// branches are therefore fine.
    pub pattern: String,
    /// Lower-case words, one of which is in every match or shortly before it. Without one, the
    /// rule is tried everywhere.
    pub keywords: Vec<String>,
    /// Which matches are dropped.
    pub filter: Filter,
    /// Hosts that such a value may go to: `github.com`, `*.github.com`.
    pub hosts: Vec<String>,
    /// Where the provider publishes the format.
    pub source: String,
}
