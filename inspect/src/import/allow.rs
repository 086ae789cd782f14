//! Allow-lists of gitleaks as filters.
//!
//! - input: the table of one allow-list
//! - output: text of a filter, and the rules it is for
//! - bound: the file's
//! - on failure: the allow-list allows nothing, and a note says so

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;

use super::{Importer, Outcome};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawAllowlist {
    #[serde(rename = "description")]
    _description: String,
    condition: Option<String>,
    paths: Vec<String>,
    commits: Vec<String>,
    regex_target: Option<String>,
    regexes: Vec<String>,
    #[serde(alias = "stopWords")]
    stopwords: Vec<String>,
    target_rules: Vec<String>,
}

impl Importer {
    /// The filter of an allow-list, and the rules it is for; none: all of them.
    pub(super) fn allowlist(
        &mut self,
        rule: Option<&Arc<str>>,
        table: toml::Table,
    ) -> Option<(String, Vec<String>)> {
        let raw = match RawAllowlist::deserialize(toml::Value::Table(table)) {
            Ok(raw) => raw,
            Err(error) => {
                let reason = format!("allow-list: {}: it allows nothing", error.message());
                self.note(rule, Outcome::Widened, &reason);
                return None;
            }
        };
        let all = match raw.condition.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("or" | "||") => false,
            Some("and" | "&&") => true,
            Some(_) => {
                let reason = "allow-list: condition is AND or OR: it allows nothing";
                self.note(rule, Outcome::Widened, reason);
                return None;
            }
        };
        let target = match raw.regex_target.as_deref() {
            None | Some("secret" | "") => "secret",
            Some("match") => "match",
            Some("line") => "line",
            Some(_) => {
                let reason = "allow-list: regexTarget is secret, match or line: it allows nothing";
                self.note(rule, Outcome::Widened, reason);
                return None;
            }
        };
        let mut parts = Vec::new();
        if !raw.regexes.is_empty() {
            parts.push(format!("matchesAny({target}, {})", list(&raw.regexes)));
        }
        if !raw.stopwords.is_empty() {
            parts.push(format!("containsAny(secret, {})", list(&raw.stopwords)));
        }
        if !raw.paths.is_empty() || !raw.commits.is_empty() {
            let reason = if all {
                "allow-list: needs a path or a commit: it allows nothing"
            } else {
                "allow-list: paths and commits are not known here"
            };
            self.note(rule, if all { Outcome::Widened } else { Outcome::Ignored }, reason);
            if all {
                return None;
            }
        }
        if parts.is_empty() {
            return None;
        }
        Some((parts.join(if all { " && " } else { " || " }), raw.target_rules))
    }
}

fn list(texts: &[String]) -> String {
    let mut out = String::from("[");
    for text in texts {
        out.push_str(&quote(text));
        out.push(',');
    }
    out.push(']');
    out
}

/// A text as the language of filters writes it.
fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() => {
                // Writing to a String cannot fail.
                write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
