//! One rule, ready to be matched.
//!
//! - input: a [`Rule`]
//! - output: [`Compiled`]: automata that say whether it is decided at a place, and what the secret is
//! - bound: the size of a compiled pattern; memory of automata is made when they are first used
//! - on failure: [`RuleError`]

use std::ops::Range;
use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::nfa::thompson::backtrack::{self, BoundedBacktracker};
use regex_automata::nfa::thompson::pikevm::{self, PikeVM};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::Hir;

use super::RuleError;
use super::automaton::{self, Swallow, Walk};
use super::literal::Anchor;
use super::near::{self, Near};
use super::pattern::{self, Lead, Parts};
use crate::limits;
use crate::rule::Rule;

/// See the module.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) rule: Rule,
    pub(super) anchor: Option<Anchor>,
    /// Bytes before the secret.
    pub(super) context_max: usize,
    /// Bytes before the match that belong to it.
    pub(super) lead_max: usize,
    /// Whether it has a value that is too long to be held.
    is_long: bool,
    /// Bytes after which a match must be decided.
    reach: usize,
    lead: Vec<Lead>,
    pub(super) whole_pattern: Hir,
    whole: DFA,
    split: Option<Split>,
    alone: Option<DFA>,
    captures: Option<(BoundedBacktracker, PikeVM)>,
    pub(super) near: Option<Near>,
}

#[derive(Debug)]
struct Split {
    context: DFA,
    value: DFA,
}

/// Memory of the automata of one rule.
#[derive(Debug, Default)]
pub(super) struct Memory {
    whole: Option<Cache>,
    context: Option<Cache>,
    value: Option<Cache>,
    backtrack: Option<backtrack::Cache>,
    pike: Option<pikevm::Cache>,
    ends: Vec<usize>,
    slots: Vec<Option<NonMaxUsize>>,
}

/// What a rule says at one place.
#[derive(Debug)]
pub(super) enum Outcome {
    /// No match begins there.
    Dead,
    /// More text is needed.
    Alive,
    /// A match.
    Match(Secret),
}

/// A match of a rule.
#[derive(Clone, Debug)]
pub(super) struct Secret {
    pub(super) matched: Range<usize>,
    pub(super) span: Range<usize>,
    /// `span` is only the beginning of it.
    pub(super) is_long: bool,
}

impl Compiled {
    pub(super) fn new(rule: Rule) -> Result<Self, RuleError> {
        let id = Arc::clone(&rule.id);
        Self::build(rule).map_err(|reason| RuleError::Pattern { id, reason })
    }

    fn build(rule: Rule) -> Result<Self, String> {
        let Parts { whole, context, value, alone, is_plain, context_max, lead, anchor } =
            pattern::take_apart(&rule.pattern)?;
        let plain = |hir, kind| automaton::dfa(automaton::nfa(hir, WhichCaptures::None)?, kind);
        let longest = value.properties().maximum_len();
        let is_long = longest.is_none_or(|longest| longest > limits::MAX_HELD_BYTES);
        let held = longest.map_or(limits::MAX_HELD_BYTES, |l| l.min(limits::MAX_HELD_BYTES));
        let split = match &context {
            None => None,
            Some(context) => Some(Split {
                context: plain(context, MatchKind::All)?,
                value: plain(&value, MatchKind::LeftmostFirst)?,
            }),
        };
        let alone = match alone.filter(|_| is_long) {
            None => None,
            Some(alone) => Some(plain(&alone, MatchKind::LeftmostFirst)?),
        };
        let nfa = automaton::nfa(&whole, WhichCaptures::All)?;
        let captures = if is_plain {
            None
        } else {
            let backtracker = BoundedBacktracker::new_from_nfa(nfa.clone());
            let pike = PikeVM::new_from_nfa(nfa.clone());
            Some((backtracker.map_err(reason)?, pike.map_err(reason)?))
        };
        let near = Near::new(&rule, &whole, anchor.as_ref())?;
        let anchor =
            anchor.filter(|anchor| near.is_none() || !near::has_better_keywords(&rule, anchor));
        Ok(Self {
            lead_max: lead.iter().fold(0, |sum, lead| sum.saturating_add(lead.max)),
            whole: automaton::dfa(nfa, MatchKind::LeftmostFirst)?,
            whole_pattern: whole,
            rule,
            anchor,
            context_max,
            is_long,
            // Automata see a match, and a death after it, one byte late each.
            reach: context_max.saturating_add(held).saturating_add(2),
            lead,
            split,
            alone,
            captures,
            near,
        })
    }

    /// What is said of a match that begins at `at`. `is_end`: the text is complete.
    pub(super) fn judge(
        &self,
        memory: &mut Memory,
        text: &[u8],
        at: usize,
        is_end: bool,
    ) -> Outcome {
        let to = text.len().min(at.saturating_add(self.reach));
        let walk = self.walk(memory, text, at..to, is_end && to == text.len());
        if self.is_long
            && let Some(from) = self.long_value(memory, text, at, walk.died.unwrap_or(to))
        {
            let end = from.saturating_add(limits::MAX_HELD_BYTES);
            let matched = at..end;
            // What follows the secret may be long instead.
            let alone = self
                .alone
                .as_ref()
                .and_then(|dfa| Swallow::new(dfa, text, from).feed(dfa, text.get(..end)?, from));
            let (span, is_long) = (from..alone.unwrap_or(end), alone.is_none());
            let is_match = self.near.as_ref().is_none_or(|near| near.is_met(text, &matched, &span));
            return if is_match {
                Outcome::Match(Secret { matched, span, is_long })
            } else {
                Outcome::Dead
            };
        }
        match walk {
            Walk { died: Some(_), matched: Some(end) } => {
                let secret = self.secret(memory, text, at..end);
                secret.map_or(Outcome::Dead, Outcome::Match)
            }
            Walk { died: None, .. } if to == text.len() => Outcome::Alive,
            _ => Outcome::Dead,
        }
    }

    fn walk(&self, memory: &mut Memory, text: &[u8], range: Range<usize>, is_end: bool) -> Walk {
        let cache = memory.whole.get_or_insert_with(|| self.whole.create_cache());
        automaton::walk(&self.whole, cache, text, range, is_end)
    }

    /// Where the value begins that is still undecided after `MAX_HELD_BYTES` of it.
    fn long_value(
        &self,
        memory: &mut Memory,
        text: &[u8],
        at: usize,
        alive: usize,
    ) -> Option<usize> {
        let held = |from: usize| from.saturating_add(limits::MAX_HELD_BYTES);
        if held(at) > alive {
            return None;
        }
        let Some(split) = &self.split else { return Some(at) };
        let context = memory.context.get_or_insert_with(|| split.context.create_cache());
        let to = alive.min(at.saturating_add(self.context_max).saturating_add(1));
        automaton::ends(&split.context, context, text, at..to, &mut memory.ends);
        let value = memory.value.get_or_insert_with(|| split.value.create_cache());
        let mut starts = memory.ends.iter().copied().take_while(|from| held(*from) <= alive);
        starts.find(|from| {
            automaton::walk(&split.value, value, text, *from..held(*from), false).died.is_none()
        })
    }

    /// While a match that begins at `at` is undecided: where its secret may begin, at the earliest,
    /// at or after `from`.
    pub(super) fn first_value(
        &self,
        memory: &mut Memory,
        text: &[u8],
        at: usize,
        from: usize,
    ) -> Option<usize> {
        let Some(split) = &self.split else {
            let may_be_later = at.saturating_add(self.context_max) >= from;
            return may_be_later.then_some(at.max(from));
        };
        let context = memory.context.get_or_insert_with(|| split.context.create_cache());
        let to = text.len().min(at.saturating_add(self.context_max).saturating_add(1));
        automaton::ends(&split.context, context, text, at..to, &mut memory.ends);
        let value = memory.value.get_or_insert_with(|| split.value.create_cache());
        memory.ends.iter().copied().filter(|start| *start >= from).find(|start| {
            let walk = automaton::walk(&split.value, value, text, *start..text.len(), false);
            !walk.is_hopeless()
        })
    }

    /// Whether a match may begin at `at`, as far as the text goes.
    pub(super) fn is_alive(&self, memory: &mut Memory, text: &[u8], at: usize) -> bool {
        self.walk(memory, text, at..text.len(), false).died.is_none()
    }

    /// The automaton that says where a long value ends.
    pub(super) fn value(&self) -> &DFA {
        let value = self.split.as_ref().map_or(&self.whole, |split| &split.value);
        self.alone.as_ref().unwrap_or(value)
    }

    fn secret(&self, memory: &mut Memory, text: &[u8], matched: Range<usize>) -> Option<Secret> {
        let span = match &self.captures {
            None => matched.clone(),
            Some((backtracker, pike)) => {
                let input = Input::new(text).range(matched.clone()).anchored(Anchored::Yes);
                let slots = &mut memory.slots;
                slots.clear();
                slots.resize(backtracker.get_nfa().group_info().slot_len(), None);
                let cache = memory.backtrack.get_or_insert_with(|| backtracker.create_cache());
                let found = backtracker.try_search_slots(cache, &input, slots);
                if found.is_err() {
                    let cache = memory.pike.get_or_insert_with(|| pike.create_cache());
                    pike.search_slots(cache, &input, slots);
                }
                let groups = slots.chunks_exact(2).skip(1).filter_map(|pair| match pair {
                    [Some(start), Some(end)] => Some(start.get()..end.get()),
                    _ => None,
                });
                groups.into_iter().find(|span| !span.is_empty()).unwrap_or_else(|| matched.clone())
            }
        };
        let is_within = span.start <= matched.start.saturating_add(self.context_max);
        let is_match = is_within
            && !span.is_empty()
            && self.near.as_ref().is_none_or(|near| near.is_met(text, &matched, &span));
        is_match.then_some(Secret { matched, span, is_long: false })
    }

    /// The match with the bytes before it that the pattern allows but does not need.
    pub(super) fn with_lead(&self, text: &[u8], matched: Range<usize>) -> Range<usize> {
        let mut start = matched.start;
        for lead in self.lead.iter().rev() {
            let before = text.get(..start).unwrap_or_default().iter().rev().take(lead.max);
            let is_in = |byte: &&u8| lead.bytes.get(usize::from(**byte)) == Some(&true);
            start = start.saturating_sub(before.take_while(is_in).count());
        }
        start..matched.end
    }
}

fn reason(error: impl ToString) -> String {
    error.to_string()
}
