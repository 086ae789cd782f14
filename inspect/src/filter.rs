//! Says which matches of a rule are dropped: test values, names, words.
//!
//! - input: text of a filter; a [`Candidate`]
//! - output: whether it is dropped
//! - bound: `MAX_TEXT_BYTES`, `MAX_DEPTH`, and `MAX_WORK` for one evaluation; patterns take linear
//!   time; nothing outside of the candidate is seen
//! - on failure: a filter that does not parse is refused; what cannot be evaluated drops nothing
//!
//! The language is the part of betterleaks' expressions that says something about bytes
//! (`docs/rule-import.md`):
//!
//! ```text
//! entropy(secret) < 3.5 || tokenRatio(secret) >= 2.5
//! matchesAny(secret, [`^test_`]) && !containsAny(line, ["prod"])
//! let name = lower(match); name contains "public" ? len(secret) < 20 : false
//! ```

mod calls;
mod eval;
mod expr;
mod lex;
mod parse;
mod words;

use std::ops::Range;
use std::sync::Arc;

use self::eval::{Machine, Value};
use self::expr::Expr;
use crate::own::Checker;

pub(crate) use self::words::token_ratio;

/// Bytes of one filter's text.
const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Brackets, closures and operators within each other.
const MAX_DEPTH: usize = 64;
/// Names that `let` gives.
const MAX_LOCALS: usize = 64;
/// Bytes that one evaluation looks at or copies; then its answer is unknown.
const MAX_WORK: usize = 1024 * 1024;

/// A match of a rule, with what stands before it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The text that was searched, or the part of it that is held. What is further before the match
    /// than [`crate::limits::LOOK_BEHIND_BYTES`], what is further behind the beginning of the secret than
    /// [`crate::limits::MAX_HELD_BYTES`] and everything after the match is not looked at, so that the
    /// answer does not depend on how a text is cut.
    pub text: &'a [u8],
    /// The whole match of the pattern, in `text`.
    pub matched: Range<usize>,
    /// The secret, in `text`.
    pub secret: Range<usize>,
}

/// A condition on candidates; the default one drops nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A match is dropped when one of them says so.
    programs: Vec<Arc<Program>>,
    /// The checks of a rule of weir's own shape, cheaper than a program.
    checks: Option<Arc<Checker>>,
}

#[derive(Debug)]
struct Program {
    expr: Expr,
    slots: usize,
    compiled_bytes: usize,
}

/// Why a filter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, line {line}, column {column}: {reason}")]
pub struct FilterError {
    line: usize,
    column: usize,
    reason: String,
    /// Bytes that were compiled in vain.
    pub(crate) compiled_bytes: usize,
}

impl Filter {
    /// Reads a filter. An empty text drops nothing.
    ///
    /// # Errors
    /// [`FilterError`]; a function that weir does not have is one, too.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        match Self::parse_foreign(text)? {
            (filter, unknown) if unknown.is_empty() => Ok(filter),
            (_, unknown) => Err(error(text, 0, &format!("unknown {}", unknown.join(", ")))),
        }
    }

    /// Reads a filter of a rule file. What weir does not have is unknown when it is evaluated, so
    /// that it drops nothing by itself; the names of it are given back.
    ///
    /// # Errors
    /// [`FilterError`]
    pub fn parse_foreign(text: &str) -> Result<(Self, Vec<String>), FilterError> {
        if text.trim().is_empty() {
            return Ok((Self::default(), Vec::new()));
        }
        let (program, mut unknown) = parse::parse(text)?;
        unknown.sort();
        unknown.dedup();
        Ok((Self { programs: vec![Arc::new(program)], checks: None }, unknown))
    }

    /// Drops what this or `other` drops. Shares what both are made of.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.programs.extend(other.programs.iter().cloned());
        self
    }

    /// The checks of a rule of weir's own shape.
    pub(crate) fn own(checker: Checker) -> Self {
        Self { programs: Vec::new(), checks: Some(Arc::new(checker)) }
    }

    /// Bytes of the automata of its patterns and words.
    pub fn compiled_bytes(&self) -> usize {
        self.programs.iter().map(|program| program.compiled_bytes).sum()
    }

    /// Whether no match is dropped.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.checks.is_none()
    }

    /// Whether the match is dropped.
    pub fn drops(&self, candidate: &Candidate<'_>) -> bool {
        self.checks.as_ref().is_some_and(|checks| checks.drops(candidate))
            || self.programs.iter().any(|program| {
                Machine::new(candidate, program.slots).eval(&program.expr) == Value::Bool(true)
            })
    }
}

/// Shannon's entropy of bytes, in bits for each.
pub(crate) fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in text {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total: f64 = counts.iter().copied().map(f64::from).sum();
    let used = counts.iter().filter(|count| **count > 0);
    used.map(|count| f64::from(*count) / total).map(|share| -share * share.log2()).sum()
}

/// An error at a byte of a filter's text.
fn error(text: &str, at: usize, reason: &str) -> FilterError {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    FilterError { line, column, reason: reason.to_owned(), compiled_bytes: 0 }
}

#[cfg(test)]
mod tests;
