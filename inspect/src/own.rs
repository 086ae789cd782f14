//! Weir's own rules, and operators' rules: one TOML shape.
//!
//! - input: `rules/*.toml`, or the same text from a configuration
//! - output: [`Definition`]s, checked, and the [`Rule`]s they make
//! - bound: the number of rules, by the caller; the size of a pattern, by the engine
//! - on failure: [`OwnError`] names the rule

mod check;
mod glue;
mod value;

use std::sync::Arc;

use regex_syntax::hir::literal::Extractor;
use serde::Deserialize;

pub(crate) use check::Checker;
pub use check::Checks;

use crate::filter::Filter;
use crate::rule::{Confidence, Rule, Tier};

/// Shorter keywords would be found everywhere.
pub const MIN_KEYWORD_BYTES: usize = 3;

/// Weir's own rule files: kind, text.
pub const FILES: [(&str, &str); 12] = [
    ("ai", include_str!("../rules/ai.toml")),
    ("chat", include_str!("../rules/chat.toml")),
    ("ci", include_str!("../rules/ci.toml")),
    ("cloud", include_str!("../rules/cloud.toml")),
    ("code", include_str!("../rules/code.toml")),
    ("data", include_str!("../rules/data.toml")),
    ("finance", include_str!("../rules/finance.toml")),
    ("generic", include_str!("../rules/generic.toml")),
    ("keys", include_str!("../rules/keys.toml")),
    ("mail", include_str!("../rules/mail.toml")),
    ("observe", include_str!("../rules/observe.toml")),
    ("saas", include_str!("../rules/saas.toml")),
];

/// One rule as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Unique, lower-case, words joined by `-`.
    pub id: String,
    /// One line for people.
    pub description: String,
    /// Default: `contextual` with `context`, else `prefixed`.
    tier: Option<Level>,
    /// Default: `high` when prefixed, `medium` when contextual.
    confidence: Option<Sure>,
    /// The secret alone: its prefix says what it is, or `context` does.
    pub value: Option<String>,
    /// Words in the name that the value is assigned to, lower-case; a space is any one or no joint.
    #[serde(default)]
    pub context: Vec<String>,
    /// Whether that name must also say that this is a secret: `token`, `key`, `password`. Default: true.
    pub named: Option<bool>,
    /// Instead of `context`: an expression of that name.
    pub name: Option<String>,
    /// A whole expression instead of `value`; its first group is the secret.
    pub pattern: Option<String>,
    /// Default: what the value begins with, or the words of the context.
    #[serde(default)]
    keywords: Vec<String>,
    /// Which matches are dropped.
    #[serde(default)]
    pub filter: Checks,
    /// Hosts that such a value may go to.
    #[serde(default)]
    hosts: Vec<String>,
    /// Where the provider publishes the format.
    pub source: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Prefixed,
    Contextual,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sure {
    Low,
    Medium,
    High,
}

/// Why a rule file is refused.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// Not TOML, or a field that rules do not have.
    #[error("rule file: {0}")]
    File(#[from] toml::de::Error),
    /// A rule is not what it should be.
    #[error("rule {id}: {reason}")]
    Rule {
        /// Of the rule.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

/// Weir's own rules.
///
/// # Errors
/// [`OwnError`] if a file of this package is broken; its tests read all of them.
pub fn rules() -> Result<Vec<Rule>, OwnError> {
    definitions()?.iter().map(Definition::rule).collect()
}

/// Weir's own rules as they are written.
///
/// # Errors
/// See [`rules`].
pub fn definitions() -> Result<Vec<Definition>, OwnError> {
    let mut all = Vec::new();
    for (_, text) in FILES {
        all.extend(parse(text)?);
    }
    Ok(all)
}

/// The rules of one file.
///
/// # Errors
/// [`OwnError::File`] when the text is not a rule file.
pub fn parse(text: &str) -> Result<Vec<Definition>, OwnError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        rule: Vec<Definition>,
    }
    Ok(toml::from_str::<File>(text)?.rule)
}

impl Definition {
    /// What the engine works with.
    ///
    /// # Errors
    /// [`OwnError::Rule`] when a field contradicts another one, or a keyword cannot be derived.
    pub fn rule(&self) -> Result<Rule, OwnError> {
        let refuse =
            |reason: &str| OwnError::Rule { id: self.id.clone(), reason: reason.to_owned() };
        let pattern = match (&self.pattern, &self.name, &self.value, self.context.is_empty()) {
            (Some(pattern), None, None, true) => pattern.clone(),
            (None, None, Some(value), true) => glue::prefixed(value),
            (None, Some(name), Some(value), true) => glue::assigned(name, value),
            (None, None, Some(value), false) => {
                let name = glue::name(&self.context, self.named.unwrap_or(true));
                glue::assigned(&name, value)
            }
            _ => return Err(refuse("needs pattern, or value with name or context or neither")),
        };
        let keywords = self.keywords().ok_or_else(|| refuse("needs keywords"))?;
        if keywords.iter().any(|word| word.len() < MIN_KEYWORD_BYTES) {
            return Err(refuse("has a keyword of less than three bytes"));
        }
        if keywords.iter().any(|word| *word != word.to_ascii_lowercase()) {
            return Err(refuse("has a keyword that is not lower-case"));
        }
        let checker = Checker::new(&self.filter).map_err(|error| refuse(&error))?;
        let (tier, confidence) = (self.tier(), self.confidence());
        Ok(Rule {
            id: Arc::from(self.id.as_str()),
            description: self.description.clone(),
            tier,
            confidence,
            pattern,
            keywords,
            filter: Filter::own(checker),
            hosts: self.hosts.clone(),
            source: self.source.clone(),
        })
    }

    /// Whether the value says by itself what it is.
    pub fn is_prefixed(&self) -> bool {
        self.tier() == Tier::Prefixed
    }

    fn tier(&self) -> Tier {
        match self.tier {
            Some(Level::Prefixed) => Tier::Prefixed,
            Some(Level::Contextual) => Tier::Contextual,
            None if self.context.is_empty() && self.name.is_none() => Tier::Prefixed,
            None => Tier::Contextual,
        }
    }

    fn confidence(&self) -> Confidence {
        match self.confidence {
            Some(Sure::Low) => Confidence::Low,
            Some(Sure::Medium) => Confidence::Medium,
            Some(Sure::High) => Confidence::High,
            None if self.tier() == Tier::Prefixed => Confidence::High,
            None => Confidence::Medium,
        }
    }

    /// Given ones, or the words of the context, or what the value begins with.
    fn keywords(&self) -> Option<Vec<String>> {
        if !self.keywords.is_empty() {
            return Some(self.keywords.clone());
        }
        if !self.context.is_empty() {
            // Of `message bird`, either half is always there.
            let longest =
                |words: &String| words.split(' ').max_by_key(|word| word.len()).map(str::to_owned);
            return self.context.iter().map(longest).collect();
        }
        let pattern = self.value.as_ref()?;
        let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let hir = { hir }.parse(pattern).ok()?;
        let mut found = Vec::new();
        for literal in Extractor::new().extract(&hir).literals()? {
            let text = std::str::from_utf8(literal.as_bytes()).ok()?;
            found.push(text.to_ascii_lowercase());
        }
        found.sort();
        found.dedup();
        let is_enough = |words: &[String]| {
            !words.is_empty() && words.iter().all(|word| word.len() >= MIN_KEYWORD_BYTES)
        };
        is_enough(&found).then_some(found)
    }
}

#[cfg(test)]
mod tests;
