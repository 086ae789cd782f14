//! Drops what has the shape of a secret and is none: placeholders, names, words, test values.
//!
//! - input: [`Checks`] of a rule; a candidate
//! - output: whether it is dropped
//! - bound: linear in the candidate
//! - on failure: an expression that does not compile is refused when the rule is made

use std::collections::HashSet;
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde::Deserialize;

use super::value;
use crate::filter::{self, Candidate};
use crate::limits;

/// Which matches of a rule are dropped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// Less entropy than this, in bits per byte.
    min_entropy: f64,
    /// Fewer digits than this.
    min_digits: usize,
    /// More bytes for each token than this: it reads like words. Random text has less than two.
    max_ratio: Option<f64>,
    /// The same for values without a digit.
    max_ratio_of_letters: Option<f64>,
    /// Values that say of themselves that they stand for another one. Default: dropped.
    placeholders: bool,
    /// Also counted-up and keyboard sequences, and words people put for a secret.
    dummies: bool,
    /// The value matches one of these.
    not: Vec<String>,
    /// What stands before the value, in the match and some bytes before it, matches one of these.
    not_after: Vec<String>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            min_entropy: 0.0,
            min_digits: 0,
            max_ratio: None,
            max_ratio_of_letters: None,
            placeholders: true,
            dummies: false,
            not: Vec::new(),
            not_after: Vec::new(),
        }
    }
}

impl Checks {
    /// Whether a value in which one byte is repeated is dropped.
    pub(crate) fn drops_runs(&self) -> bool {
        self.placeholders
    }
}

/// [`Checks`], compiled.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    checks: Checks,
    not: Option<Regex>,
    not_after: Option<Regex>,
}

impl Checker {
    pub(super) fn new(checks: &Checks) -> Result<Self, String> {
        let compile = |patterns: &[String]| {
            if patterns.is_empty() {
                return Ok(None);
            }
            let syntax = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
            let built = Regex::builder().syntax(syntax).build_many(patterns);
            built.map(Some).map_err(|error| format!("filter: {error}"))
        };
        Ok(Self {
            not: compile(&checks.not)?,
            not_after: compile(&checks.not_after)?,
            checks: checks.clone(),
        })
    }

    /// Whether the match is dropped.
    pub(crate) fn drops(&self, candidate: &Candidate<'_>) -> bool {
        let secret = candidate.text.get(candidate.secret.clone()).unwrap_or_default();
        let secret = secret.get(..limits::MAX_HELD_BYTES).unwrap_or(secret);
        let checks = &self.checks;
        let digits = || secret.iter().filter(|byte| byte.is_ascii_digit()).count();
        let before = || {
            let start = candidate.matched.start.saturating_sub(NAME_BYTES);
            let range = start..candidate.secret.start;
            candidate.text.get(range).unwrap_or_default()
        };
        let matches = |regex: &Option<Regex>, text: &[u8]| {
            regex.as_ref().is_some_and(|regex| regex.is_match(text))
        };
        (checks.min_digits > 0 && digits() < checks.min_digits)
            || (checks.min_entropy > 0.0 && filter::entropy(secret) < checks.min_entropy)
            || (checks.placeholders && is_placeholder(secret))
            || (checks.dummies && is_dummy(secret))
            || checks.max_ratio.is_some_and(|most| filter::token_ratio(secret) > most)
            || (digits() == 0
                && checks
                    .max_ratio_of_letters
                    .is_some_and(|most| filter::token_ratio(secret) > most))
            || matches(&self.not, secret)
            || matches(&self.not_after, before())
    }
}

/// Whether a value says that it stands for another one, or was published as an example.
fn is_placeholder(secret: &[u8]) -> bool {
    static PUBLISHED: LazyLock<HashSet<&'static [u8]>> = LazyLock::new(|| {
        let lines = include_str!("../../rules/published.txt").lines();
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::as_bytes).collect()
    });
    let lower = secret.to_ascii_lowercase();
    MARKS.iter().any(|mark| contains(&lower, mark))
        || lower.ends_with(b"...")
        || value::longest_run(&lower) >= MAX_RUN
        || PUBLISHED.contains(secret)
}

/// Whether people typed this instead of a secret.
fn is_dummy(secret: &[u8]) -> bool {
    let lower = secret.to_ascii_lowercase();
    DUMMIES.iter().any(|word| contains(&lower, word))
        || value::longest_sequence(&lower) >= MAX_SEQUENCE
        || value::longest_run(&lower) >= MAX_RUN_OF_DUMMY
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Bytes before a match that belong to the name it begins in.
const NAME_BYTES: usize = 32;

const MAX_RUN: usize = 8;
const MAX_RUN_OF_DUMMY: usize = 5;
const MAX_SEQUENCE: usize = 7;

const MARKS: [&[u8]; 13] = [
    b"example",
    b"xxxxxx",
    b"your_",
    b"your-",
    b"yourtoken",
    b"yourkey",
    b"redacted",
    b"placeholder",
    b"changeme",
    b"replace",
    b"insert_",
    b"******",
    b"......",
];

const DUMMIES: [&[u8]; 34] = [
    b"sample",
    b"dummy",
    b"fake",
    b"changeit",
    b"change-me",
    b"change_me",
    b"mypass",
    b"password",
    b"passwd",
    b"secret",
    b"foobar",
    b"hello",
    b"qwerty",
    b"asdf",
    b"test",
    b"todo",
    b"${",
    b"{{",
    b"#{",
    b"%(",
    b"$(",
    b"<%",
    b"}}",
    b"undefined",
    b"default",
    b"token",
    b"xxxx",
    b"lorem",
    b"abcabc",
    b"123123",
    b"deadbeef",
    b"notreal",
    b"not-a",
    b"mock",
];
