//! Draws texts that match a pattern.
//!
//! - input: a pattern; a generator of numbers
//! - output: a text, and where its first group is
//! - bound: `MORE` repetitions above the least, for each repetition
//! - on failure: `None` when the pattern does not parse

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

/// Repetitions above the least.
const MORE: u64 = 24;
/// Bytes in a row that are the same and make a text a placeholder.
const RUN: usize = 8;

/// Numbers that look random, the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`; zero when that is zero.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(mixed % limit).unwrap_or(0)
    }
}

/// How to choose between what a pattern allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Anything.
    Random,
    /// Anything, but nothing more often than it must be.
    Shortest,
    /// Anything for the first group, nothing more often than it must be around it.
    RandomGroup,
    /// The first byte of every class, nothing more often than it must be.
    First,
}

pub(super) struct Drawn {
    pub(super) text: String,
    /// The first group, or all of it.
    pub(super) group: Range<usize>,
}

pub(super) fn draw(pattern: &str, random: &mut Random, choice: Choice) -> Option<Drawn> {
    let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern).ok()?;
    let mut drawing = Drawing { random, choice, out: Vec::new(), group: None };
    drawing.add(&hir);
    let group = drawing.group.clone();
    let text = String::from_utf8(drawing.out).ok()?;
    let group = group.unwrap_or(0..text.len());
    Some(Drawn { text, group })
}

/// Whether all of the text is one match.
pub(super) fn is_whole(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text))
}

/// Whether only a part of a match is the secret.
pub(super) fn has_group(pattern: &str) -> bool {
    let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern);
    parsed.is_ok_and(|hir| hir.properties().explicit_captures_len() > 0)
}

pub(super) fn has_run(text: &str) -> bool {
    text.as_bytes().chunk_by(|a, b| a == b).any(|run| run.len() >= RUN)
}

struct Drawing<'a> {
    random: &'a mut Random,
    choice: Choice,
    out: Vec<u8>,
    group: Option<Range<usize>>,
}

impl Drawing<'_> {
    fn add(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) | HirKind::Class(Class::Unicode(_)) => {}
            HirKind::Literal(literal) => self.out.extend_from_slice(&literal.0),
            HirKind::Class(Class::Bytes(class)) => {
                let all: Vec<u8> =
                    class.ranges().iter().flat_map(|range| range.start()..=range.end()).collect();
                let mut some: Vec<u8> = all.iter().copied().filter(u8::is_ascii_graphic).collect();
                if some.is_empty() {
                    some = all.into_iter().filter(|byte| b" \n".contains(byte)).collect();
                }
                let at =
                    if self.choice == Choice::First { 0 } else { self.random.below(some.len()) };
                self.out.extend(some.get(at));
            }
            HirKind::Capture(capture) => {
                let start = self.out.len();
                let choice = self.choice;
                if choice == Choice::RandomGroup {
                    self.choice = Choice::Random;
                }
                self.add(&capture.sub);
                self.choice = choice;
                if capture.index == 1 {
                    self.group = Some(start..self.out.len());
                }
            }
            HirKind::Concat(subs) => subs.iter().for_each(|sub| self.add(sub)),
            HirKind::Alternation(subs) => {
                let at = match self.choice {
                    Choice::First => 0,
                    _ => self.random.below(subs.len()),
                };
                if let Some(sub) = subs.get(at) {
                    self.add(sub);
                }
            }
            HirKind::Repetition(repetition) => {
                let least = u64::from(repetition.min);
                let most =
                    repetition.max.map_or(u64::MAX, u64::from).min(least.saturating_add(MORE));
                let range = usize::try_from(most.saturating_sub(least)).unwrap_or(0);
                let more = match self.choice {
                    Choice::Random => self.random.below(range.saturating_add(1)),
                    _ => 0,
                };
                let times = usize::try_from(least).unwrap_or(0).saturating_add(more);
                (0..times).for_each(|_| self.add(&repetition.sub));
            }
        }
    }
}
