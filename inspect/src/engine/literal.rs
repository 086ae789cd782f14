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
const MAX_WORDS: usize = 512;
/// Bytes that a match may have before its literal.
const MAX_LEAD_BYTES: usize = 80;
/// Prefixes of so many bytes are not made longer at the cost of many.
const GOOD_BYTES: usize = 3;
/// Up to this cost words of the context are taken even if the secret has better ones.
const CHEAP_CONTEXT: usize = 400_000;
/// Up to this cost words that the secret begins with are taken even if there are better ones.
const CHEAP_VALUE: usize = 40_000;
/// Bytes that a context has at most that is only the edge of a word.
pub(super) const MAX_BOUNDARY_BYTES: usize = 8;
const MIN_BYTES: usize = 2;

/// Words, one of which is in every match.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) words: Vec<Word>,
    /// Whether the secret may begin before the end of the word.
    pub(super) is_late: bool,
    /// Whether the words are what the secret begins with.
    pub(super) begins_value: bool,
}

/// A literal in lower case, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word {
    pub(super) bytes: Vec<u8>,
    /// Bytes between the beginning of the match and the word, at least and at most.
    pub(super) lead: (usize, usize),
}

/// The anchor of a sequence whose first `context` items come before the secret. One in the
/// context is better: nothing has to be held back before it is seen.
pub(super) fn anchor(items: &[Hir], context: usize) -> Option<Anchor> {
    let (before, value) = items.split_at_checked(context).unwrap_or((items, &[]));
    let length = |items: &[Hir]| {
        let least = items.iter().map(|item| item.properties().minimum_len().unwrap_or(0)).sum();
        let most = items.iter().map(|item| item.properties().maximum_len().unwrap_or(usize::MAX));
        (least, most.fold(0, usize::saturating_add))
    };
    if let Some(words) = best(before).filter(|words| cost(words) <= CHEAP_CONTEXT) {
        return Some(Anchor { words, is_late: false, begins_value: false });
    }
    let lead = length(before);
    let words: Vec<Word> = literals(value).into_iter().map(|bytes| Word { bytes, lead }).collect();
    if lead.1 <= MAX_BOUNDARY_BYTES && is_long_enough(&words) && cost(&words) <= CHEAP_VALUE {
        return Some(Anchor { words, is_late: true, begins_value: true });
    }
    best(items).map(|words| Anchor { words, is_late: true, begins_value: false })
}

fn is_long_enough(words: &[Word]) -> bool {
    words.iter().all(|word| word.bytes.len() >= MIN_BYTES)
}

/// How many places the words make one look at: in a million bytes of ordinary text, roughly.
pub(super) fn cost(words: &[Word]) -> usize {
    let one = |word: &Word| {
        let often = match word.bytes.len() {
            0 | 1 => 50_000,
            2 => 2_000,
            3 => 300,
            4 => 60,
            _ => 20,
        };
        often * word.lead.1.saturating_sub(word.lead.0).saturating_add(1)
    };
    words.iter().map(one).fold(0, usize::saturating_add)
}

/// The cheapest words of all items.
fn best(items: &[Hir]) -> Option<Vec<Word>> {
    let mut lead = (0_usize, 0_usize);
    let mut best: Option<Vec<Word>> = None;
    for (index, item) in items.iter().enumerate() {
        let literals = literals(items.get(index..).unwrap_or_default());
        let words = literals.into_iter().map(|bytes| Word { bytes, lead }).collect();
        for words in std::iter::once(words).chain(of_branches(item, lead)) {
            let words: Vec<Word> = words;
            if is_long_enough(&words) && best.as_ref().is_none_or(|best| cost(&words) < cost(best))
            {
                best = Some(words);
            }
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

/// The words of an alternation each branch of which has some.
fn of_branches(item: &Hir, lead: (usize, usize)) -> Option<Vec<Word>> {
    let branches = match item.kind() {
        HirKind::Capture(capture) => return of_branches(&capture.sub, lead),
        HirKind::Alternation(branches) => branches,
        _ => return None,
    };
    let mut all = Vec::new();
    for branch in branches {
        let items = match branch.kind() {
            HirKind::Concat(items) => items.as_slice(),
            _ => std::slice::from_ref(branch),
        };
        all.extend(best(items)?.into_iter().map(|word| Word {
            lead: (word.lead.0.saturating_add(lead.0), word.lead.1.saturating_add(lead.1)),
            ..word
        }));
    }
    all.sort();
    all.dedup();
    (all.len() <= MAX_WORDS).then_some(all)
}

/// Whether a match cannot do without the word, as far as its literals tell.
pub(super) fn mentions(items: &[Hir], word: &[u8]) -> bool {
    let says = |literal: Vec<u8>| {
        literal.windows(word.len()).any(|window| window == word)
            || literal.len() >= GOOD_BYTES && word.starts_with(&literal)
    };
    (0..items.len()).any(|at| {
        let rest = items.get(at..).unwrap_or_default();
        literals(rest).into_iter().any(says)
            || match rest.first().map(Hir::kind) {
                Some(HirKind::Concat(subs) | HirKind::Alternation(subs)) => mentions(subs, word),
                Some(HirKind::Capture(capture)) => {
                    mentions(std::slice::from_ref(&*capture.sub), word)
                }
                Some(HirKind::Repetition(repetition)) => {
                    mentions(std::slice::from_ref(&*repetition.sub), word)
                }
                _ => false,
            }
    })
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

    type Shown = (Vec<(String, (usize, usize))>, bool);

    fn anchor(pattern: &str) -> Option<Shown> {
        let anchor = take_apart(pattern).unwrap().anchor?;
        let word =
            |word: &super::Word| (String::from_utf8_lossy(&word.bytes).into_owned(), word.lead);
        Some((anchor.words.iter().map(word).collect(), anchor.is_late))
    }

    #[test]
    fn literals_and_their_distance_are_found() {
        let found = |literals: &[&str], lead, is_late| {
            Some((literals.iter().map(|l| ((*l).to_owned(), lead)).collect(), is_late))
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
        let word = |text: &str, lead| (text.to_owned(), lead);
        assert_eq!(
            anchor(r"(?:(?:^|[^A-Za-z])(?i:vault)|[a-z]Vault)[ =]{1,9}([a-z0-9]{9})"),
            Some((vec![word("vault", (0, 1)), word("vault", (1, 1))], false))
        );
    }
}
