//! Labelled texts: `{"rule": …, "tp": [text], "fp": [text] | null}`, one rule a line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Texts that belong to one rule.
#[derive(Debug, Deserialize)]
pub(super) struct Group {
    pub(super) rule: String,
    #[serde(rename = "tp")]
    secrets: Texts,
    #[serde(rename = "fp")]
    harmless: Option<Texts>,
}

/// Some corpora give a file name with each text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    Named(BTreeMap<String, String>),
    Plain(Vec<String>),
}

impl Group {
    pub(super) fn new(rule: &str, secrets: Vec<String>, harmless: Vec<String>) -> Self {
        let harmless = Some(Texts::Plain(harmless));
        Self { rule: rule.to_owned(), secrets: Texts::Plain(secrets), harmless }
    }

    /// Texts with a secret in them.
    pub(super) fn secrets(&self) -> Vec<&str> {
        self.secrets.all()
    }

    /// Texts without one.
    pub(super) fn harmless(&self) -> Vec<&str> {
        self.harmless.as_ref().map(Texts::all).unwrap_or_default()
    }
}

impl Texts {
    fn all(&self) -> Vec<&str> {
        match self {
            Self::Named(texts) => texts.values().map(String::as_str).collect(),
            Self::Plain(texts) => texts.iter().map(String::as_str).collect(),
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<Group>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).context("a line of the corpus")).collect()
}
