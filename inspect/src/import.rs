//! Reads rule files of gitleaks and betterleaks.
//!
//! - input: a TOML file that an operator brings, with `[[rules]]`
//! - output: [`Rule`]s, and a [`Note`] for everything that could not be taken over as it stands
//! - bound: `limits::MAX_RULE_FILE_BYTES`, `limits::MAX_RULES`, `limits::MAX_RULE_SET_BYTES` compiled
//! - on failure: [`ImportError`] for the file, a note for a rule; nothing is left out silently
//!
//! What a rule file knows and weir doesn't (paths, commits, answers of providers) restricts or
//! suppresses matches there. Here it never suppresses one.

mod allow;
mod rules;

use std::sync::Arc;

use serde::Deserialize;

use crate::filter::Filter;
use crate::limits;
use crate::rule::Rule;

/// A rule file, taken over.
#[derive(Debug, Default)]
pub struct Imported {
    /// What it calls itself.
    pub title: String,
    /// For [`crate::engine::Engine::new`].
    pub rules: Vec<Rule>,
    /// In order of the file; what is said of the whole file comes first.
    pub notes: Vec<Note>,
    /// Bytes of all automata, those of filters too.
    pub compiled_bytes: usize,
}

/// Something that was not taken over as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which rule; none: the whole file.
    pub rule: Option<Arc<str>>,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, or what is different.
    pub reason: String,
}

/// What came of a rule or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is not there.
    Refused,
    /// The rule is there and finds more than in its own scanner.
    Widened,
    /// Something that says nothing about bytes has no effect.
    Ignored,
}

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Longer than rule files may be.
    #[error("rule file of {0} bytes is too long: at most {max}", max = limits::MAX_RULE_FILE_BYTES)]
    Long(usize),
    /// Not UTF-8.
    #[error("rule file is not UTF-8 at byte {0}")]
    Encoding(usize),
    /// Not TOML.
    #[error("rule file: {0}")]
    Toml(String),
    /// It is a part of another file, which is not there.
    #[error("rule file extends another one (`[extend]`): give the whole file")]
    Extends,
    /// It has no `[[rules]]`.
    #[error("rule file has no [[rules]]")]
    Empty,
    /// More rules than an engine should have.
    #[error("rule file has {0} rules: at most {max}", max = limits::MAX_RULES)]
    Many(usize),
    /// All automata together are too large.
    #[error("rules compile to more than {max} bytes", max = limits::MAX_RULE_SET_BYTES)]
    Large,
}

/// The keys of a file that mean something here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    title: String,
    extend: Option<toml::Value>,
    prefilter: String,
    filter: String,
    rules: Vec<toml::Table>,
    allowlist: Option<toml::Table>,
    allowlists: Vec<toml::Table>,
}

/// Takes over a rule file.
///
/// # Errors
/// [`ImportError`]
pub fn import(file: &[u8]) -> Result<Imported, ImportError> {
    if file.len() > limits::MAX_RULE_FILE_BYTES {
        return Err(ImportError::Long(file.len()));
    }
    let text =
        std::str::from_utf8(file).map_err(|error| ImportError::Encoding(error.valid_up_to()))?;
    let file: File = toml::from_str(text).map_err(|error| toml_error(text, &error))?;
    if file.extend.is_some() {
        return Err(ImportError::Extends);
    }
    if file.rules.is_empty() {
        return Err(ImportError::Empty);
    }
    if file.rules.len() > limits::MAX_RULES {
        return Err(ImportError::Many(file.rules.len()));
    }
    let mut importer = Importer::default();
    importer.done.title = file.title;
    importer.globals(&file.prefilter, &file.filter, file.allowlist, file.allowlists)?;
    for rule in file.rules {
        importer.rule(rule)?;
    }
    Ok(importer.done)
}

/// Of the error, only what is wrong and where: its Display quotes the file.
fn toml_error(text: &str, error: &toml::de::Error) -> ImportError {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    ImportError::Toml(format!(
        "line {line}: {}",
        error.message().lines().next().unwrap_or_default()
    ))
}

#[derive(Debug, Default)]
struct Importer {
    done: Imported,
    /// Of every rule.
    global: Filter,
    /// Of some rules, by their ids.
    targeted: Vec<(Vec<String>, Filter)>,
}

impl Importer {
    /// What the file says about all of its rules.
    fn globals(
        &mut self,
        prefilter: &str,
        filter: &str,
        old: Option<toml::Table>,
        allowlists: Vec<toml::Table>,
    ) -> Result<(), ImportError> {
        if !prefilter.trim().is_empty() {
            self.note(None, Outcome::Ignored, "prefilter: looks at files, not at bytes");
        }
        self.global = self.filter(None, filter)?;
        for table in old.into_iter().chain(allowlists) {
            let Some((text, targets)) = self.allowlist(None, table) else { continue };
            let filter = self.filter(None, &text)?;
            if targets.is_empty() {
                self.global = std::mem::take(&mut self.global).or(&filter);
            } else {
                self.targeted.push((targets, filter));
            }
        }
        Ok(())
    }

    /// A filter, or one that drops nothing and a note.
    fn filter(&mut self, rule: Option<&Arc<str>>, text: &str) -> Result<Filter, ImportError> {
        match Filter::parse_foreign(text) {
            Ok((filter, unknown)) => {
                self.spend(filter.compiled_bytes())?;
                if !unknown.is_empty() {
                    let reason = format!("filter: weir does not have {}", unknown.join(", "));
                    self.note(rule, Outcome::Widened, &reason);
                }
                Ok(filter)
            }
            Err(error) => {
                self.spend(error.compiled_bytes)?;
                self.note(rule, Outcome::Widened, &format!("{error}: it drops nothing"));
                Ok(Filter::default())
            }
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ImportError> {
        self.done.compiled_bytes = self.done.compiled_bytes.saturating_add(bytes);
        if self.done.compiled_bytes > limits::MAX_RULE_SET_BYTES {
            return Err(ImportError::Large);
        }
        Ok(())
    }

    fn note(&mut self, rule: Option<&Arc<str>>, outcome: Outcome, reason: &str) {
        let reason = reason.chars().take(MAX_REASON_CHARS).collect();
        self.done.notes.push(Note { rule: rule.cloned(), outcome, reason });
    }
}

impl Imported {
    /// How many notes have an outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.notes.iter().filter(|note| note.outcome == outcome).count()
    }
}

/// Of a note: names and patterns of the file may be in it.
const MAX_REASON_CHARS: usize = 300;

#[cfg(test)]
mod tests;
