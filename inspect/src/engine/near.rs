//! Keywords that must stand near a match because its pattern does not imply them.
//!
//! - input: the keywords of a rule, its pattern; later a match
//! - output: whether one of them is there
//! - bound: `limits::LOOK_BEHIND_BYTES` before and after the beginning of a match
//! - on failure: the builder's reason

use std::ops::Range;

use aho_corasick::AhoCorasick;
use regex_syntax::hir::Hir;

use super::literal::{self, Anchor, Word};
use crate::limits;
use crate::rule::Rule;

/// See the module.
#[derive(Debug)]
pub(super) struct Near {
    keywords: AhoCorasick,
    longest: usize,
    /// Whether a keyword may stand in the secret or after it, not only before it.
    pub(super) is_inside: bool,
}

impl Near {
    /// `None` if there are no keywords, or one is in every word of the anchor.
    pub(super) fn new(
        rule: &Rule,
        pattern: &Hir,
        anchor: Option<&Anchor>,
    ) -> Result<Option<Self>, String> {
        let keywords = keywords(rule);
        let has_keyword = |word: &Word| {
            keywords.iter().any(|k| word.bytes.windows(k.len()).any(|window| window == k))
        };
        if keywords.is_empty() || anchor.is_some_and(|a| a.words.iter().all(has_keyword)) {
            return Ok(None);
        }
        let items = std::slice::from_ref(pattern);
        let is_inside = keywords.iter().any(|word| literal::mentions(items, word));
        let longest = keywords.iter().map(Vec::len).max().unwrap_or(0);
        let built = AhoCorasick::builder().ascii_case_insensitive(true).build(&keywords);
        let keywords = built.map_err(|error| error.to_string())?;
        Ok(Some(Self { keywords, longest, is_inside }))
    }

    /// Whether one of the keywords stands in the match or shortly before it; if the pattern does
    /// not mention any, before the secret.
    pub(super) fn is_met(&self, text: &[u8], matched: &Range<usize>, span: &Range<usize>) -> bool {
        let from = matched.start.saturating_sub(limits::LOOK_BEHIND_BYTES);
        let to = matched.start.saturating_add(limits::LOOK_BEHIND_BYTES + self.longest);
        let end = if self.is_inside { matched.end } else { span.start };
        self.keywords.is_match(text.get(from..to.min(end)).unwrap_or_default())
    }
}

/// Whether looking around every keyword means fewer places than looking at every word.
pub(super) fn has_better_keywords(rule: &Rule, anchor: &Anchor) -> bool {
    let lead = (0, 2 * limits::LOOK_BEHIND_BYTES);
    let words: Vec<Word> = keywords(rule).into_iter().map(|bytes| Word { bytes, lead }).collect();
    literal::cost(&words) < literal::cost(&anchor.words)
}

/// In lower case.
pub(super) fn keywords(rule: &Rule) -> Vec<Vec<u8>> {
    let words = rule.keywords.iter().filter(|word| !word.is_empty());
    words.map(|word| word.to_ascii_lowercase().into_bytes()).collect()
}
