//! Finds secrets in one text, whole or growing.
//!
//! - input: compiled rules, known values, text
//! - output: [`Match`]es: leftmost first, never overlapping
//! - bound: time linear in the text; a channel holds `limits::MAX_HELD_BYTES`
//! - on failure: a rule that does not compile is refused when the engine is made

use std::ops::Range;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_automata::util::captures::Captures;

use crate::filter::Candidate;
use crate::known::Known;
use crate::rule::{Confidence, Rule, Tier};

/// A compiled rule set.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    regex: Regex,
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
        let compile = |rule: Rule| {
            let syntax = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
            let built = Regex::builder().syntax(syntax).build(&rule.pattern);
            let regex = built.map_err(|error| RuleError::Pattern {
                id: Arc::clone(&rule.id),
                reason: error.to_string(),
            })?;
            Ok(Compiled { rule, regex })
        };
        Ok(Self { rules: rules.into_iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The rule of an index from [`By::Rule`].
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index).map(|compiled| &compiled.rule)
    }

    /// All secrets of a whole text, in order.
    pub fn find(&self, text: &[u8], known: &Known) -> Vec<Match> {
        let mut all = Vec::new();
        let mut from = 0;
        while let Some((span, number)) = known.find(text, from) {
            from = span.end;
            all.push(Match { span, by: By::Known(number), confidence: Confidence::High });
        }
        for (index, compiled) in self.rules.iter().enumerate() {
            for captures in compiled.regex.captures_iter(text) {
                let Some(matched) = captures.get_match().map(|whole| whole.range()) else {
                    continue;
                };
                let secret = secret(&captures).unwrap_or_else(|| matched.clone());
                let candidate = Candidate { text, matched, secret: secret.clone() };
                if !compiled.rule.filter.drops(&candidate) {
                    let confidence = compiled.rule.confidence;
                    all.push(Match { span: secret, by: By::Rule(index), confidence });
                }
            }
        }
        all.sort_by_key(|m| (m.span.start, self.tier(m.by), std::cmp::Reverse(m.span.end)));
        let mut end = 0;
        all.retain(|m| {
            let free = m.span.start >= end;
            end = if free { m.span.end } else { end };
            free
        });
        all
    }

    fn tier(&self, by: By) -> Tier {
        match by {
            By::Known(_) => Tier::Known,
            By::Rule(index) => self.rule(index).map_or(Tier::Contextual, |rule| rule.tier),
        }
    }
}

/// The first group that took part and is not empty.
fn secret(captures: &Captures) -> Option<Range<usize>> {
    let mut groups = captures.iter().skip(1).flatten();
    groups.find(|group| !group.is_empty()).map(|group| group.range())
}

/// A text that grows piece by piece. For any cutting of a text into pieces, what leaves is, put
/// together, the same.
#[derive(Debug, Default)]
pub struct Channel {
    held: Vec<u8>,
}

impl Channel {
    /// Adds `text`; what may leave now is added to `out`, in order.
    pub fn push(&mut self, _engine: &Engine, _known: &Known, text: &[u8], _out: &mut Vec<Piece>) {
        self.held.extend_from_slice(text);
    }

    /// Ends the text: everything leaves.
    pub fn finish(self, engine: &Engine, known: &Known, _end: End, out: &mut Vec<Piece>) {
        let mut from = 0;
        for found in engine.find(&self.held, known) {
            out.push(Piece::Text(
                self.held.get(from..found.span.start).unwrap_or_default().to_vec(),
            ));
            let value = self.held.get(found.span.clone()).unwrap_or_default().to_vec();
            out.push(Piece::Secret { by: found.by, confidence: found.confidence, value });
            from = found.span.end;
        }
        out.push(Piece::Text(self.held.get(from..).unwrap_or_default().to_vec()));
    }

    /// Bytes that are held back now.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
