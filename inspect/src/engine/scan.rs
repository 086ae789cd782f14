//! Follows every place of a growing text where a rule may match, until it is decided there.
//!
//! - input: a text that only grows; what was before is kept as far as rules look back
//! - output: [`Ready`] matches; where the text must be held
//! - bound: undecided places live at most `MAX_CONTEXT_BYTES` + `MAX_HELD_BYTES`
//! - on failure: cannot fail

use std::cmp::Reverse;
use std::ops::Range;

use aho_corasick::automaton::StateID;
use regex_automata::hybrid;

use super::compiled::{Memory, Outcome, Secret};
use super::literal::MAX_BOUNDARY_BYTES;
use super::prefilter::{Hit, Joined};
use super::{Engine, automaton, check};
use crate::filter::Candidate;
use crate::rule::{Confidence, Tier};
use crate::{limits, placeholder};

/// Memory of all automata, reused between texts.
#[derive(Debug, Default)]
pub(super) struct Memories {
    rules: Vec<Option<Box<Memory>>>,
    joined: Option<Box<hybrid::dfa::Cache>>,
}

impl Memories {
    fn of(&mut self, rule: usize) -> Option<&mut Memory> {
        if self.rules.len() <= rule {
            self.rules.resize_with(rule.saturating_add(1), || None);
        }
        self.rules.get_mut(rule).map(|slot| &mut **slot.get_or_insert_default())
    }
}

impl Joined {
    /// The first place at or after `from` where one of the rules may have begun.
    fn begun(&self, memories: &mut Memories, text: &[u8], from: usize) -> Option<usize> {
        let cache = memories.joined.get_or_insert_with(|| Box::new(self.automaton.create_cache()));
        let edge = from.saturating_sub(MAX_BOUNDARY_BYTES);
        let first = edge.max(text.len().saturating_sub(self.reach));
        let mut places = first..text.len();
        let at = places.find(|at| {
            let range = *at..text.len();
            automaton::walk(&self.automaton, cache, text, range, false).died.is_none()
        });
        at.map(|at| at.max(from))
    }
}

/// A decided match of a rule.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) rule: usize,
    /// Of a long value only the beginning.
    pub(super) span: Range<usize>,
    pub(super) is_long: bool,
    pub(super) confidence: Confidence,
    pub(super) tier: Tier,
}

impl Ready {
    /// The order in which matches are accepted: leftmost, most certain, longest.
    pub(super) fn order(&self) -> (usize, Tier, Reverse<usize>, usize) {
        let length = self.span.len().min(limits::MAX_HELD_BYTES);
        (self.span.start, self.tier, Reverse(length), self.rule)
    }
}

/// Places that may match.
#[derive(Clone, Copy, Debug)]
struct Region {
    rule: usize,
    next: usize,
    last: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scan {
    /// Of the engine that `state` belongs to.
    engine: u64,
    state: StateID,
    scanned: usize,
    regions: Vec<Region>,
    /// Undecided: rule, and where the match begins.
    open: Vec<(usize, usize)>,
    pub(super) ready: Vec<Ready>,
}

impl Scan {
    pub(super) fn new(engine: &Engine) -> Self {
        let state = engine.prefilter.start();
        let (regions, open, ready) = (Vec::new(), Vec::new(), Vec::new());
        Self { engine: engine.number, state, scanned: 0, regions, open, ready }
    }

    pub(super) fn is_of(&self, engine: &Engine) -> bool {
        self.engine == engine.number
    }

    /// Takes in what was added to `text`. `is_end`: nothing will follow.
    pub(super) fn advance(
        &mut self,
        engine: &Engine,
        memories: &mut Memories,
        text: &[u8],
        is_end: bool,
    ) {
        let from = self.scanned;
        let regions = &mut self.regions;
        self.state = engine.prefilter.scan(self.state, text, from, |hit| add(regions, hit));
        self.scanned = text.len();
        let mut open = std::mem::take(&mut self.open);
        open.retain(|(rule, at)| self.judge(engine, memories, text, (*rule, *at), is_end));
        let mut regions = std::mem::take(&mut self.regions);
        let everywhere = engine.prefilter.everywhere.iter();
        regions.extend(everywhere.map(|&rule| Region { rule, next: from, last: usize::MAX }));
        for region in &mut regions {
            let to = region.last.saturating_add(1).min(text.len());
            for at in region.next..to {
                if self.judge(engine, memories, text, (region.rule, at), is_end) {
                    open.push((region.rule, at));
                }
            }
            region.next = region.next.max(to);
        }
        regions.retain(|region| region.last != usize::MAX && region.next <= region.last);
        self.regions = regions;
        self.open = open;
    }

    /// Whether it stays undecided.
    fn judge(
        &mut self,
        engine: &Engine,
        memories: &mut Memories,
        text: &[u8],
        (rule, at): (usize, usize),
        is_end: bool,
    ) -> bool {
        let Some((compiled, memory)) = engine.rules.get(rule).zip(memories.of(rule)) else {
            return false;
        };
        match compiled.judge(memory, text, at, is_end) {
            Outcome::Alive => true,
            Outcome::Dead => false,
            Outcome::Match(secret) => {
                self.ready.extend(engine.accept(rule, text, secret));
                false
            }
        }
    }

    /// Where the text must be held, at or after `from`, and for which rule.
    pub(super) fn hold(
        &self,
        engine: &Engine,
        memories: &mut Memories,
        text: &[u8],
        from: usize,
    ) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        let mut consider = |rule: usize, at: usize, memories: &mut Memories, is_alive: bool| {
            let Some((compiled, memory)) = engine.rules.get(rule).zip(memories.of(rule)) else {
                return;
            };
            if is_alive || compiled.is_alive(memory, text, at) {
                let value =
                    compiled.first_value(memory, text, at, from).filter(|v| *v < text.len());
                best = best.into_iter().chain(value.map(|value| (value, rule))).min();
            }
        };
        for (rule, at) in &self.open {
            consider(*rule, *at, memories, true);
        }
        let prefilter = &engine.prefilter;
        for at in text.len().saturating_sub(prefilter.longest).max(from)..text.len() {
            let start = text.get(at..).unwrap_or_default().to_ascii_lowercase();
            for rule in prefilter.begun(&start) {
                let edge = engine.rules.get(rule).map_or(0, |compiled| compiled.context_max);
                let first = at.saturating_sub(edge.min(MAX_BOUNDARY_BYTES));
                (first..=at).for_each(|at| consider(rule, at, memories, false));
            }
        }
        let joined = prefilter.joined.as_ref();
        let joined = joined.and_then(|joined| {
            let at = joined.begun(memories, text, from)?;
            // Which of them it is, nobody asks before the text is cut off.
            Some((at, joined.rules.first().copied()?))
        });
        for (rule, reach) in &prefilter.early {
            let context = engine.rules.get(*rule).map_or(0, |compiled| compiled.context_max);
            let first = from.saturating_sub(context).max(text.len().saturating_sub(*reach));
            (first..text.len()).for_each(|at| consider(*rule, at, memories, false));
        }
        best.into_iter().chain(joined).min()
    }

    /// Forgets what lies before `from`: no value can begin there any more.
    pub(super) fn forget(&mut self, engine: &Engine, from: usize) {
        self.ready.retain(|ready| ready.span.start >= from);
        self.open.retain(|(rule, at)| {
            let context = engine.rules.get(*rule).map_or(0, |compiled| compiled.context_max);
            at.saturating_add(context) >= from
        });
    }

    /// The first `bytes` of the text are gone.
    pub(super) fn cut(&mut self, bytes: usize) {
        self.scanned = self.scanned.saturating_sub(bytes);
        for region in &mut self.regions {
            region.next = region.next.saturating_sub(bytes);
            region.last = region.last.saturating_sub(bytes);
        }
        self.open.iter_mut().for_each(|(_, at)| *at = at.saturating_sub(bytes));
        for ready in &mut self.ready {
            let span = ready.span.start.saturating_sub(bytes)..ready.span.end.saturating_sub(bytes);
            ready.span = span;
        }
    }
}

/// Adds a hit; overlapping ones of one rule are looked at once.
fn add(regions: &mut Vec<Region>, hit: Hit) {
    let Hit { rule, first, last } = hit;
    let recent = regions.iter_mut().rev().take(8);
    let mut same = recent.filter(|region| region.rule == rule);
    if first != last
        && let Some(region) = same.next()
        && (region.next..=region.last.saturating_add(1)).contains(&first)
    {
        region.last = region.last.max(last);
        return;
    }
    regions.push(Region { rule, next: first, last });
}

impl Engine {
    /// A match, unless its filter drops it or it is one of weir's own placeholders.
    fn accept(&self, rule: usize, text: &[u8], secret: Secret) -> Option<Ready> {
        let compiled = self.rules.get(rule)?;
        let Secret { matched, span, is_long } = secret;
        let value = text.get(span.clone())?;
        if placeholder::is_one(value) {
            return None;
        }
        let matched = compiled.with_lead(text, matched);
        let candidate = Candidate { text, matched, secret: span.clone() };
        if compiled.rule.filter.drops(&candidate) {
            return None;
        }
        let confidence =
            if check::is_certain(value) { Confidence::High } else { compiled.rule.confidence };
        Some(Ready { rule, span, is_long, confidence, tier: compiled.rule.tier })
    }
}
