//! Finds the literals by which a match of a pattern is noticed.
//!
//! - input: a sequence of pattern items
//! - output: an [`Anchor`]: lower-case literals one of which is in every match, at a known distance
//! - bound: `MAX_LITERALS` of `MAX_LITERAL_BYTES`
//! - on failure: `None`: the rule is found by its keywords

use regex_syntax::hir::{Class, Hir, HirKind};

/// Bytes of a literal that are searched for; the automaton of a rule checks the rest.
pub(super) const MAX_LITERAL_BYTES: usize = 8;
const MAX_LITERALS: usize = 64;
/// Bytes that a match may have before its literal.
const MAX_LEAD_BYTES: usize = 64;
/// A literal of so many bytes is taken at once; a shorter one only when there is none.
const GOOD_BYTES: usize = 3;
const MIN_BYTES: usize = 2;

/// Literals, lower-case, one of which is in every match.
#[derive(Debug)]
pub(super) struct Anchor {
    /// In full, as far as they are known.
    pub(super) literals: Vec<Vec<u8>>,
    /// Bytes between the beginning of the match and the literal, at least and at most.
    pub(super) lead: (usize, usize),
    /// Whether the secret may begin before the end of the literal.
    pub(super) is_late: bool,
}

/// The anchor of a sequence whose first `context` items come before the secret. One in the
/// context is better: nothing has to be held back before it is seen.
pub(super) fn anchor(items: &[Hir], context: usize) -> Option<Anchor> {
    let before = items.get(..context).unwrap_or_default();
    let early = best(before, false).filter(|anchor| shortest(anchor) >= GOOD_BYTES);
    early.or_else(|| best(items, true))
}

fn shortest(anchor: &Anchor) -> usize {
    anchor.literals.iter().map(Vec::len).min().unwrap_or(0)
}

fn best(items: &[Hir], is_late: bool) -> Option<Anchor> {
    let mut lead = (0_usize, 0_usize);
    let mut best: Option<Anchor> = None;
    for (index, item) in items.iter().enumerate() {
        let literals = literals(items.get(index..).unwrap_or_default());
        let anchor = Anchor { literals, lead, is_late };
        let length = shortest(&anchor);
        if length >= GOOD_BYTES {
            return Some(anchor);
        }
        if length >= MIN_BYTES && best.is_none() {
            best = Some(anchor);
        }
        let properties = item.properties();
        lead.0 = lead.0.saturating_add(properties.minimum_len()?);
        lead.1 = lead.1.saturating_add(properties.maximum_len().unwrap_or(usize::MAX));
        if lead.1 > MAX_LEAD_BYTES {
            break;
        }
    }
    best
}

/// A growing set of prefixes.
struct Set {
    open: Vec<Vec<u8>>,
    closed: Vec<Vec<u8>>,
}

impl Set {
    fn one() -> Self {
        Self { open: vec![Vec::new()], closed: Vec::new() }
    }

    fn len(&self) -> usize {
        self.open.len().saturating_add(self.closed.len())
    }

    fn close(&mut self) {
        self.closed.append(&mut self.open);
    }

    /// Every open prefix, continued by every one of `next`.
    fn multiply(&mut self, next: &Self) {
        let join = |with: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let pairs = self.open.iter().flat_map(|a| with.iter().map(move |b| (a, b)));
            pairs.map(|(a, b)| a.iter().chain(b).copied().collect()).collect()
        };
        let open = join(&next.open);
        let closed = join(&next.closed);
        self.open = open;
        self.closed.extend(closed);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.open.sort();
        self.open.dedup();
        self.closed.sort();
        self.closed.dedup();
    }
}

/// Prefixes, one of which every match of the sequence has.
fn literals(items: &[Hir]) -> Vec<Vec<u8>> {
    let mut set = Set::one();
    extend(&mut set, items);
    set.close();
    set.tidy();
    let all = set.closed;
    // A longer one says nothing more than its prefix.
    let is_needed = |one: &Vec<u8>| !all.iter().any(|o| o.len() < one.len() && one.starts_with(o));
    all.iter().filter(|one| is_needed(one)).cloned().collect()
}

fn extend(set: &mut Set, items: &[Hir]) {
    for item in items {
        if set.open.is_empty() {
            return;
        }
        let next = of(item);
        let has_enough = set.open.iter().all(|one| one.len() >= GOOD_BYTES);
        let limit = if has_enough { MAX_LITERALS / 4 } else { MAX_LITERALS };
        let product = set.open.len().saturating_mul(next.len()).saturating_add(set.closed.len());
        if product > limit && next.len() > 1 {
            set.close();
            return;
        }
        set.multiply(&next);
    }
}

fn of(item: &Hir) -> Set {
    let mut set = Set::one();
    match item.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => {
            set.open = vec![literal.0.to_ascii_lowercase()];
        }
        HirKind::Class(Class::Bytes(class)) => {
            let bytes = class.ranges().iter().flat_map(|range| range.start()..=range.end());
            set.open = bytes.map(|byte| vec![byte.to_ascii_lowercase()]).collect();
            set.tidy();
            if set.open.len() > MAX_LITERALS {
                set = Set { open: Vec::new(), closed: vec![Vec::new()] };
            }
        }
        HirKind::Class(Class::Unicode(_)) => set.close(),
        HirKind::Capture(capture) => return of(&capture.sub),
        HirKind::Concat(subs) => extend(&mut set, subs),
        HirKind::Alternation(subs) => {
            set.open.clear();
            for sub in subs {
                let one = of(sub);
                set.open.extend(one.open);
                set.closed.extend(one.closed);
            }
            set.tidy();
        }
        HirKind::Repetition(repetition) => match (repetition.min, repetition.max) {
            (0, Some(1)) => {
                set = of(&repetition.sub);
                set.open.push(Vec::new());
                set.tidy();
            }
            (0, _) => set.close(),
            (1, Some(1)) => return of(&repetition.sub),
            (min, max) => {
                let one = of(&repetition.sub);
                let times = if one.len() == 1 { min.min(16) } else { 1 };
                (0..times).for_each(|_| set.multiply(&one));
                if max != Some(times) {
                    set.close();
                }
            }
        },
    }
    set
}

#[cfg(test)]
mod tests {
    use super::super::pattern::take_apart;

    fn anchor(pattern: &str) -> Option<(Vec<String>, (usize, usize), bool)> {
        let anchor = take_apart(pattern).unwrap().anchor?;
        let text = |one: &Vec<u8>| String::from_utf8_lossy(one).into_owned();
        Some((anchor.literals.iter().map(text).collect(), anchor.lead, anchor.is_late))
    }

    #[test]
    fn literals_and_their_distance_are_found() {
        let found = |literals: &[&str], lead, is_late| {
            Some((literals.iter().map(|l| (*l).to_owned()).collect(), lead, is_late))
        };
        assert_eq!(anchor(r"\b(ghp_[0-9A-Za-z]{36})\b"), found(&["ghp_"], (0, 0), true));
        assert_eq!(anchor(r"(?i)\b(glpat-[\w-]{20})"), found(&["glpat-"], (0, 0), true));
        assert_eq!(
            anchor(r"(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z2-7]{16}"),
            found(&["a3t", "akia", "asia"], (0, 0), true)
        );
        assert_eq!(
            anchor(r#"(?i)[\w.-]{0,50}?(?:password|pwd)\s{0,3}=\s*([^\s"]{8,})"#),
            found(&["password", "pwd"], (0, 0), false)
        );
        assert_eq!(anchor(r"\b[0-9]{8,10}:AA[\w-]{33}"), found(&[":aa"], (8, 10), true));
        assert_eq!(
            anchor(r"[a-z]{2,9}://[^:/\s]{1,60}:([^@\s]{3,60})@"),
            found(&["://"], (2, 9), false)
        );
        assert_eq!(
            anchor(r"(?:^|[^a-z])(xox[ab]-[0-9]+)"),
            found(&["xoxa-", "xoxb-"], (0, 1), true)
        );
        assert_eq!(anchor(r"\b[a-f0-9]{32}\b"), None);
    }
}
