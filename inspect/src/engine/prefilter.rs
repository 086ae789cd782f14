//! One automaton over the literals and keywords of all rules: it notices where a match may begin.
//!
//! - input: compiled rules, a growing text
//! - output: places to look at, as [`Hit`]s; at the end of the text, rules that may have begun
//! - bound: two table look-ups a byte, however many rules there are
//! - on failure: the builder's reason

use std::collections::BTreeMap;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, MatchKind, StartKind, dfa};
use regex_automata::hybrid;
use regex_syntax::hir::Hir;

use super::automaton;
use super::compiled::Compiled;
use super::literal::{MAX_BOUNDARY_BYTES, MAX_LITERAL_BYTES, Word};
use super::near;
use crate::limits;

/// Where a rule may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) rule: usize,
    /// The first and the last place where a match may begin.
    pub(super) first: usize,
    pub(super) last: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Prefilter {
    automaton: dfa::DFA,
    start: StateID,
    /// By pattern of the automaton.
    entries: Vec<Vec<Entry>>,
    /// Literals that the value may begin with, sorted, and their rules.
    open: Vec<(Vec<u8>, Vec<usize>)>,
    /// Rules that may begin well before they are noticed, and how far before the end of the text.
    pub(super) early: Vec<(usize, usize)>,
    /// Those of them whose matches begin with the secret, or with the edge of a word: one automaton
    /// says whether any of them may have begun.
    pub(super) joined: Option<Joined>,
    /// Rules that nothing notices.
    pub(super) everywhere: Vec<usize>,
    pub(super) longest: usize,
}

#[derive(Debug)]
pub(super) struct Joined {
    pub(super) rules: Vec<usize>,
    pub(super) automaton: hybrid::dfa::DFA,
    pub(super) reach: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    rule: usize,
    /// From the end of the literal back to the first place, and to the last one, or beyond.
    first: usize,
    last: Result<usize, usize>,
}

impl Joined {
    /// Takes the rules that it stands for out of `early`.
    fn new(rules: &[Compiled], early: &mut Vec<(usize, usize)>) -> Result<Option<Self>, String> {
        let is_in = |(rule, _): &(usize, usize)| {
            rules.get(*rule).is_some_and(|rule| rule.context_max <= MAX_BOUNDARY_BYTES)
        };
        let (joined, others): (Vec<_>, Vec<_>) = early.iter().copied().partition(is_in);
        *early = others;
        if joined.is_empty() {
            return Ok(None);
        }
        let reach = joined.iter().map(|(_, reach)| *reach).max().unwrap_or(0);
        let patterns = joined.iter().filter_map(|(rule, _)| rules.get(*rule));
        let any = Hir::alternation(patterns.map(|rule| rule.whole_pattern.clone()).collect());
        let nfa = automaton::any(&any)?;
        let automaton = automaton::dfa(nfa, regex_automata::MatchKind::All)?;
        let rules = joined.iter().map(|(rule, _)| *rule).collect();
        Ok(Some(Self { rules, automaton, reach }))
    }
}

impl Word {
    /// What is searched for.
    fn short(&self) -> Vec<u8> {
        self.bytes.iter().take(MAX_LITERAL_BYTES).copied().collect()
    }
}

impl Prefilter {
    pub(super) fn new(rules: &[Compiled]) -> Result<Self, String> {
        let mut words: BTreeMap<Vec<u8>, Vec<Entry>> = BTreeMap::new();
        let mut open: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        let (mut early, mut everywhere) = (Vec::new(), Vec::new());
        for (rule, compiled) in rules.iter().enumerate() {
            let keywords = near::keywords(&compiled.rule);
            let longest = keywords.iter().map(Vec::len).max().unwrap_or(0);
            let Some(anchor) = &compiled.anchor else {
                if keywords.is_empty() {
                    everywhere.push(rule);
                    continue;
                }
                let around = limits::LOOK_BEHIND_BYTES;
                for word in keywords {
                    let last = around.checked_sub(word.len()).map_or(Ok(0), Err);
                    let entry = Entry { rule, first: around.saturating_add(longest), last };
                    words.entry(word).or_default().push(entry);
                }
                if compiled.near.as_ref().is_some_and(|near| near.is_inside) {
                    early.push((rule, around.saturating_add(longest)));
                }
                continue;
            };
            let mut reach = 0_usize;
            let mut short: Vec<_> =
                anchor.words.iter().map(|word| (word.short(), word.lead)).collect();
            short.sort();
            short.dedup();
            for (literal, (least, most)) in short {
                let length = literal.len();
                if anchor.begins_value {
                    open.entry(literal.clone()).or_default().push(rule);
                } else if anchor.is_late {
                    reach = reach.max(most.saturating_add(MAX_LITERAL_BYTES));
                }
                let entries = words.entry(literal).or_default();
                let (first, last) = (length.saturating_add(most), length.saturating_add(least));
                let mut same = entries.iter_mut().filter(|entry| entry.rule == rule);
                match same.find_map(|entry| Some((&mut entry.first, entry.last.as_mut().ok()?))) {
                    Some(entry) => {
                        *entry.0 = first.max(*entry.0);
                        *entry.1 = last.min(*entry.1);
                    }
                    None => entries.push(Entry { rule, first, last: Ok(last) }),
                }
            }
            if reach > 0 {
                early.push((rule, reach));
            }
        }
        let joined = Joined::new(rules, &mut early)?;
        let automaton = dfa::DFA::builder()
            .match_kind(MatchKind::Standard)
            .start_kind(StartKind::Unanchored)
            .ascii_case_insensitive(true)
            .build(words.keys())
            .map_err(|error| error.to_string())?;
        let start = automaton.start_state(Anchored::No).map_err(|error| error.to_string())?;
        Ok(Self {
            automaton,
            start,
            longest: words.keys().map(Vec::len).max().unwrap_or(0),
            entries: words.into_values().collect(),
            open: open.into_iter().collect(),
            early,
            joined,
            everywhere,
        })
    }

    pub(super) fn start(&self) -> StateID {
        self.start
    }

    /// Goes over `text` from `from` on; gives the state to go on with.
    pub(super) fn scan(
        &self,
        mut state: StateID,
        text: &[u8],
        from: usize,
        mut hit: impl FnMut(Hit),
    ) -> StateID {
        for (at, &byte) in (from..).zip(text.get(from..).unwrap_or_default()) {
            state = self.automaton.next_state(Anchored::No, state, byte);
            if self.automaton.is_special(state) && self.automaton.is_match(state) {
                self.report(state, at.saturating_add(1), &mut hit);
            }
        }
        state
    }

    #[cold]
    fn report(&self, state: StateID, end: usize, hit: &mut impl FnMut(Hit)) {
        for index in 0..self.automaton.match_len(state) {
            let pattern = self.automaton.match_pattern(state, index).as_usize();
            for entry in self.entries.get(pattern).into_iter().flatten() {
                let last = match entry.last {
                    Ok(back) => end.checked_sub(back),
                    Err(beyond) => Some(end.saturating_add(beyond)),
                };
                // What begins before the text is none.
                if let Some(last) = last {
                    let first = end.saturating_sub(entry.first);
                    hit(Hit { rule: entry.rule, first, last });
                }
            }
        }
    }

    /// Rules with a literal that begins with `start` and goes on after it.
    pub(super) fn begun(&self, start: &[u8]) -> impl Iterator<Item = usize> {
        let from = self.open.partition_point(|(literal, _)| literal.as_slice() < start);
        let literals = self.open.get(from..).unwrap_or_default().iter();
        let length = start.len();
        let start = start.to_owned();
        let literals = literals.take_while(move |(literal, _)| literal.starts_with(&start));
        literals
            .filter(move |(literal, _)| literal.len() > length)
            .flat_map(|(_, rules)| rules.iter().copied())
    }
}
