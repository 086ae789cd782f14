//! Finds secrets in one text, whole or growing.
//!
//! - input: compiled rules, known values, text
//! - output: [`Match`]es: leftmost first, never overlapping
//! - bound: time linear in the text; a channel holds `limits::MAX_HELD_BYTES`
//! - on failure: a rule that does not compile is refused when the engine is made
//!
//! ```text
//! pattern, literal    takes a pattern apart: context, value, tail; literals that notice it
//! automaton           whether a pattern is decided at a place
//! compiled, near      one rule: its automata, its secret, words that must stand near it
//! prefilter           one automaton over the literals of all rules
//! scan                places where a rule may match, until they are decided
//! channel             what may leave of a growing text
//! check               checksums and structures, which make a match certain
//! ```

mod automaton;
mod channel;
mod check;
mod compiled;
mod literal;
mod near;
mod pattern;
mod prefilter;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use regex_automata::util::pool::Pool;

use self::automaton::Swallow;
use self::compiled::Compiled;
use self::prefilter::Prefilter;
use self::scan::{Memories, Ready, Scan};
use crate::known::Known;
use crate::limits;
use crate::rule::{Confidence, Rule};

pub use self::channel::{CUT_OFF, Channel};

/// A compiled rule set.
#[derive(Debug)]
pub struct Engine {
    number: u64,
    rules: Vec<Compiled>,
    prefilter: Prefilter,
    /// Bytes before a place that decide about it.
    look_behind: usize,
    memories: Pool<Memories, fn() -> Memories>,
}

/// What rules say of a text, before known values and overlaps.
#[derive(Clone, Debug)]
pub(crate) struct RuleMatches(Arc<[Ready]>);

impl RuleMatches {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Why a rule set is refused.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The pattern is not a regular expression, or too large.
    #[error("rule {id}: {reason}")]
    Pattern {
        /// Of the rule.
        id: Arc<str>,
        /// What the compiler says.
        reason: String,
    },
    /// All rules together are too many.
    #[error("rules: {0}")]
    Prefilter(String),
}

/// One secret in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The secret itself, without its context.
    pub span: Range<usize>,
    /// What found it.
    pub by: By,
    /// After checksums.
    pub confidence: Confidence,
}

/// What found a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A rule, by its index: see [`Engine::rule`].
    Rule(usize),
    /// A known value, by its number.
    Known(u32),
}

/// What a channel lets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text in which no secret can begin any more.
    Text(Vec<u8>),
    /// A secret, to be judged.
    Secret {
        /// What found it.
        by: By,
        /// See [`Match::confidence`].
        confidence: Confidence,
        /// The value; its first `limits::MAX_HELD_BYTES` when it was swallowed.
        value: Vec<u8>,
    },
}

/// How a growing text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is whole.
    Complete,
    /// It broke off: what may be the beginning of a secret is treated as one.
    Cut,
}

impl Engine {
    /// Compiles rules.
    ///
    /// # Errors
    /// [`RuleError`] of the first rule that does not compile.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let rules = rules.into_iter().map(Compiled::new).collect::<Result<Vec<_>, _>>()?;
        let prefilter = Prefilter::new(&rules).map_err(RuleError::Prefilter)?;
        let before = |rule: &Compiled| {
            let keyword = rule.rule.keywords.iter().map(String::len).max().unwrap_or(0);
            [rule.context_max, rule.lead_max, keyword].into_iter().fold(0, usize::saturating_add)
        };
        let widest = rules.iter().map(before).max().unwrap_or(0);
        Ok(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            look_behind: widest.saturating_add(2 * limits::LOOK_BEHIND_BYTES),
            rules,
            prefilter,
            memories: Pool::new(Memories::default),
        })
    }

    /// The rule of an index from [`By::Rule`].
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index).map(|compiled| &compiled.rule)
    }

    /// Tells this engine from every other one.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Rules that nothing but trying them everywhere can find: they make everything slow.
    pub fn slow_rules(&self) -> impl Iterator<Item = &Rule> {
        self.prefilter.everywhere.iter().filter_map(|index| self.rule(*index))
    }

    /// Rules whose secret may have begun long before anything says so: every word of a stream
    /// waits until it is clear that it is none of theirs.
    pub fn early_rules(&self) -> impl Iterator<Item = &Rule> {
        let joined = self.prefilter.joined.iter().flat_map(|joined| joined.rules.iter().copied());
        let early = self.prefilter.early.iter().map(|(rule, _)| *rule);
        joined.chain(early).filter_map(|index| self.rule(index))
    }

    /// How many places of a text are looked at, for measuring.
    pub fn noticed(&self, text: &[u8]) -> usize {
        let mut count: usize = 0;
        self.prefilter.scan(self.prefilter.start(), text, 0, |_| count = count.saturating_add(1));
        count
    }

    /// All secrets of a whole text, in order.
    pub fn find(&self, text: &[u8], known: &Known) -> Vec<Match> {
        self.merge(text, known, &self.find_by_rules(text))
    }

    /// What the rules say of a whole text: leftmost, most certain, longest first; they may overlap.
    pub(crate) fn find_by_rules(&self, text: &[u8]) -> RuleMatches {
        let mut memories = self.memories.get();
        let mut scan = Scan::new(self);
        scan.advance(self, &mut memories, text, true);
        let mut ready = scan.ready;
        ready.sort_by_key(Ready::order);
        RuleMatches(ready.into())
    }

    /// Known values and matches of rules, without overlaps.
    pub(crate) fn merge(&self, text: &[u8], known: &Known, rules: &RuleMatches) -> Vec<Match> {
        let mut all = Vec::new();
        let mut from = 0;
        let mut value = known.find(text, 0);
        let mut ready = rules.0.iter().peekable();
        loop {
            while ready.next_if(|ready| ready.span.start < from).is_some() {}
            if value.as_ref().is_some_and(|(span, _)| span.start < from) {
                value = known.find(text, from);
            }
            let first = ready.peek().map(|ready| ready.span.start);
            let found = match value.clone() {
                Some((span, number)) if first.is_none_or(|first| span.start <= first) => {
                    Match { span, by: By::Known(number), confidence: Confidence::High }
                }
                _ => match ready.next() {
                    None => return all,
                    Some(ready) => {
                        let span = ready.span.start..self.end(text, ready);
                        Match { span, by: By::Rule(ready.rule), confidence: ready.confidence }
                    }
                },
            };
            from = found.span.end.max(found.span.start.saturating_add(1));
            all.push(found);
        }
    }

    /// Where a match ends in a whole text.
    fn end(&self, text: &[u8], ready: &Ready) -> usize {
        let long = self.rules.get(ready.rule).filter(|_| ready.is_long);
        let Some(dfa) = long.map(Compiled::value) else { return ready.span.end };
        let mut swallow = Swallow::new(dfa, text, ready.span.start);
        let end = swallow.feed(dfa, text, ready.span.start);
        let end = end.unwrap_or_else(|| text.len().saturating_sub(swallow.finish(dfa)));
        end.max(ready.span.end)
    }
}
