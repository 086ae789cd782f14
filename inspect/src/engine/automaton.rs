//! Walks the automaton of a pattern from one place of a text, and says whether the pattern is
//! decided there.
//!
//! - input: an automaton, a text, where to begin
//! - output: [`Walk`]; ends of a context; the end of a value that is too long to be held
//! - bound: each byte once; the memory of an automaton, `CACHE_BYTES`
//! - on failure: cannot fail: automata are built to go on when their memory is full

use std::ops::Range;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::Hir;

use crate::limits;

/// Size of one compiled pattern.
const NFA_BYTES: usize = 2 << 20;
/// Size of many compiled patterns together.
const JOINED_BYTES: usize = 64 << 20;
/// Memory of the automaton of one pattern, beyond the least that it needs.
const CACHE_BYTES: usize = 256 << 10;

/// What is known of a pattern at one place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    /// The byte with which it was decided; `None`: more text may change it.
    pub(super) died: Option<usize>,
    /// Where the match ends that is preferred so far.
    pub(super) matched: Option<usize>,
}

impl Walk {
    /// More text cannot make it a match.
    pub(super) fn is_hopeless(&self) -> bool {
        self.died.is_some() && self.matched.is_none()
    }
}

pub(super) fn nfa(hir: &Hir, captures: WhichCaptures) -> Result<NFA, String> {
    build(hir, captures, NFA_BYTES)
}

fn build(hir: &Hir, captures: WhichCaptures, limit: usize) -> Result<NFA, String> {
    let config =
        thompson::Config::new().utf8(false).nfa_size_limit(Some(limit)).which_captures(captures);
    let compiled = thompson::Compiler::new().configure(config).build_from_hir(hir);
    compiled.map_err(|error| error.to_string())
}

/// Of many patterns together.
pub(super) fn any(hir: &Hir) -> Result<NFA, String> {
    build(hir, WhichCaptures::None, JOINED_BYTES)
}

pub(super) fn dfa(nfa: NFA, kind: MatchKind) -> Result<DFA, String> {
    let config =
        DFA::config().match_kind(kind).cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true);
    DFA::builder().configure(config).build_from_nfa(nfa).map_err(|error| error.to_string())
}

fn begin(dfa: &DFA, cache: &mut Cache, text: &[u8], at: usize) -> Option<LazyStateID> {
    let before = at.checked_sub(1).and_then(|before| text.get(before)).copied();
    let config = start::Config::new().anchored(Anchored::Yes).look_behind(before);
    dfa.start_state(cache, &config).ok()
}

/// Walks `range` from its beginning. `is_end`: the text is complete at the end of `range`.
pub(super) fn walk(
    dfa: &DFA,
    cache: &mut Cache,
    text: &[u8],
    range: Range<usize>,
    is_end: bool,
) -> Walk {
    let mut walk = Walk::default();
    let Some(mut state) = begin(dfa, cache, text, range.start) else {
        return Walk { died: Some(range.start), matched: None };
    };
    let rest = text.get(range.clone()).unwrap_or_default();
    for (at, &byte) in (range.start..).zip(rest) {
        match dfa.next_state(cache, state, byte) {
            Ok(next) => state = next,
            Err(_) => return Walk { died: Some(at), ..walk },
        }
        if state.is_tagged() {
            if state.is_match() {
                walk.matched = Some(at);
            } else if state.is_dead() || state.is_quit() {
                walk.died = Some(at);
                return walk;
            }
        }
    }
    if is_end {
        if dfa.next_eoi_state(cache, state).is_ok_and(|state| state.is_match()) {
            walk.matched = Some(range.end);
        }
        walk.died = Some(range.end);
    }
    walk
}

/// Every place where a match that begins at the beginning of `range` may end.
pub(super) fn ends(
    dfa: &DFA,
    cache: &mut Cache,
    text: &[u8],
    range: Range<usize>,
    out: &mut Vec<usize>,
) {
    out.clear();
    let Some(mut state) = begin(dfa, cache, text, range.start) else { return };
    let rest = text.get(range.clone()).unwrap_or_default();
    for (at, &byte) in (range.start..).zip(rest) {
        let Ok(next) = dfa.next_state(cache, state, byte) else { return };
        state = next;
        if state.is_match() {
            out.push(at);
        } else if state.is_dead() || state.is_quit() {
            return;
        }
    }
}

/// Drops a value that is too long to be held, until its pattern is decided.
#[derive(Debug)]
pub(super) struct Swallow {
    cache: Box<Cache>,
    state: Option<LazyStateID>,
    taken: usize,
    matched: Option<usize>,
}

impl Swallow {
    /// A value that begins at `at`.
    pub(super) fn new(dfa: &DFA, text: &[u8], at: usize) -> Self {
        let mut cache = Box::new(dfa.create_cache());
        let state = begin(dfa, &mut cache, text, at);
        Self { cache, state, taken: 0, matched: None }
    }

    /// Goes on at `from`: where the value ends, if that is in `text`.
    pub(super) fn feed(&mut self, dfa: &DFA, text: &[u8], from: usize) -> Option<usize> {
        for (at, &byte) in (from..).zip(text.get(from..).unwrap_or_default()) {
            let next = self.state.and_then(|s| dfa.next_state(&mut self.cache, s, byte).ok());
            self.state = next.filter(|state| !state.is_dead() && !state.is_quit());
            let Some(state) = self.state else {
                // Automata see a match, and a death after a match, one byte late.
                return Some(at.saturating_sub(self.pending()));
            };
            if state.is_match() {
                self.matched = Some(self.taken);
            }
            self.taken = self.taken.saturating_add(1);
            if self.taken >= limits::MAX_VALUE_BYTES {
                return Some(at.saturating_add(1));
            }
        }
        None
    }

    /// Bytes at the end of what was fed that may not belong to the value.
    pub(super) fn pending(&self) -> usize {
        usize::from(self.taken > 0 && self.matched.map(|m| m.saturating_add(1)) == Some(self.taken))
    }

    /// The text ends: bytes at the end of what was fed that do not belong to the value.
    pub(super) fn finish(mut self, dfa: &DFA) -> usize {
        let last = self.state.and_then(|s| dfa.next_eoi_state(&mut self.cache, s).ok());
        if last.is_some_and(|state| state.is_match()) { 0 } else { self.pending() }
    }
}
