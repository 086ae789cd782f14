//! One rule of a rule file.
//!
//! - input: its table
//! - output: a [`Rule`], or a note why not
//! - bound: one compiled pattern
//! - on failure: the rule is refused, the others are not

use std::sync::Arc;

use regex_syntax::hir::Hir;
use serde::Deserialize;

use super::{ImportError, Importer, Outcome};
use crate::engine::Engine;
use crate::filter::Filter;
use crate::limits;
use crate::pattern::{self, Groups, PatternError};
use crate::rule::{Confidence, Rule, Tier};

/// What a rule says; everything else is said to be ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawRule {
    description: String,
    regex: Option<String>,
    secret_group: usize,
    value_group: usize,
    entropy: f64,
    token_efficiency: bool,
    keywords: Vec<String>,
    path: Option<String>,
    confidence: Option<String>,
    filter: String,
    skip_report: bool,
    components: Vec<toml::Value>,
    required: Vec<toml::Value>,
    allowlist: Option<toml::Table>,
    allowlists: Vec<toml::Table>,
}

/// Keys whose absence changes nothing about what is found.
const SILENT: [&str; 6] = ["id", "tags", "specificity", "analyze", "revoke", "report"];
/// Keys of [`RawRule`].
const KNOWN: [&str; 15] = [
    "description",
    "regex",
    "secretGroup",
    "valueGroup",
    "entropy",
    "tokenEfficiency",
    "keywords",
    "path",
    "confidence",
    "filter",
    "skipReport",
    "components",
    "required",
    "allowlist",
    "allowlists",
];
const MAX_ID_BYTES: usize = 128;
const MAX_DESCRIPTION_CHARS: usize = 300;

impl Importer {
    pub(super) fn rule(&mut self, table: toml::Table) -> Result<(), ImportError> {
        let id = table.get("id").and_then(toml::Value::as_str).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(plain) {
            let reason = format!("a rule's id is letters, digits, `-`, `_` and `.`: {id:?}");
            self.note(None, Outcome::Refused, &reason);
            return Ok(());
        }
        let id: Arc<str> = id.into();
        if self.done.rules.iter().any(|rule| rule.id == id) {
            self.note(Some(&id), Outcome::Refused, "its id is taken by an earlier rule");
            return Ok(());
        }
        for key in table.keys() {
            if key == "validate" {
                self.note(Some(&id), Outcome::Ignored, "validate: weir asks no provider");
            } else if !KNOWN.contains(&key.as_str()) && !SILENT.contains(&key.as_str()) {
                self.note(Some(&id), Outcome::Ignored, &format!("unknown key {key}"));
            }
        }
        match RawRule::deserialize(toml::Value::Table(table)) {
            Ok(raw) => self.convert(&id, raw),
            Err(error) => {
                self.note(Some(&id), Outcome::Refused, error.message());
                Ok(())
            }
        }
    }

    fn convert(&mut self, id: &Arc<str>, raw: RawRule) -> Result<(), ImportError> {
        if raw.skip_report {
            let reason = "skipReport: no secret by itself, only a part of other rules";
            self.note(Some(id), Outcome::Refused, reason);
            return Ok(());
        }
        let Some(regex) = &raw.regex else {
            self.note(Some(id), Outcome::Refused, "no regex: it finds files by their names");
            return Ok(());
        };
        let (pattern, bytes) = match self.pattern(regex, raw.secret_group.max(raw.value_group)) {
            Ok(found) => found,
            Err(error) => {
                // A pattern that is too large has cost as much as the largest that is not.
                let large = matches!(error, PatternError::Large);
                self.note(Some(id), Outcome::Refused, &error.to_string());
                return self.spend(if large { limits::MAX_COMPILED_BYTES } else { 0 });
            }
        };
        self.spend(bytes)?;
        if raw.path.is_some() {
            self.note(Some(id), Outcome::Widened, "path: it applies to all text");
        }
        if !raw.components.is_empty() || !raw.required.is_empty() {
            let reason = "components: it applies without them, too";
            self.note(Some(id), Outcome::Widened, reason);
        }
        let keywords = self.keywords(id, &pattern, &raw.keywords);
        let tier = tier(id, &pattern);
        let confidence = self.confidence(id, raw.confidence.as_deref(), tier);
        let description: String = raw.description.chars().take(MAX_DESCRIPTION_CHARS).collect();
        let filter = self.rule_filter(id, raw)?;
        let rule = Rule {
            id: Arc::clone(id),
            description,
            tier,
            confidence,
            pattern,
            keywords,
            filter,
            hosts: Vec::new(),
            source: format!("rule file: {}", self.done.title),
        };
        // The engine takes patterns apart, and not every one of them can be.
        match Engine::new(vec![rule.clone()]) {
            Ok(_) => self.done.rules.push(rule),
            Err(error) => self.note(Some(id), Outcome::Refused, &error.to_string()),
        }
        Ok(())
    }

    /// The pattern in weir's syntax, and bytes of its automaton.
    fn pattern(&self, regex: &str, group: usize) -> Result<(String, usize), PatternError> {
        let groups = if group == 0 { Groups::All } else { Groups::Only(group) };
        let pattern = pattern::from_re2(regex, groups)?;
        let compiled = pattern::compile(std::slice::from_ref(&pattern))?;
        if compiled.is_match("") {
            return Err(PatternError::Syntax("matches where nothing is".to_owned()));
        }
        Ok((pattern, compiled.memory_usage()))
    }

    fn keywords(&mut self, id: &Arc<str>, pattern: &str, raw: &[String]) -> Vec<String> {
        let lower = raw.iter().map(|word| word.trim().to_lowercase());
        let keywords: Vec<String> = lower.filter(|word| !word.is_empty()).collect();
        if keywords.is_empty() {
            self.note(Some(id), Outcome::Widened, "no keywords: it is tried everywhere");
        } else if !is_in_every_match(pattern, &keywords) {
            let reason = "keywords: they are looked for near the match, not in the whole text";
            self.note(Some(id), Outcome::Ignored, reason);
        }
        keywords
    }

    fn confidence(&mut self, id: &Arc<str>, raw: Option<&str>, tier: Tier) -> Confidence {
        let usual = if tier == Tier::Prefixed { Confidence::High } else { Confidence::Medium };
        match raw {
            Some("high") => Confidence::High,
            Some("medium") => Confidence::Medium,
            Some("low") => Confidence::Low,
            Some(_) => {
                self.note(Some(id), Outcome::Ignored, "confidence: low, medium or high");
                usual
            }
            None => usual,
        }
    }

    /// Everything that drops matches of a rule.
    fn rule_filter(&mut self, id: &Arc<str>, raw: RawRule) -> Result<Filter, ImportError> {
        let mut all = self.filter(Some(id), &raw.filter)?;
        if raw.entropy > 0.0 {
            let text = format!("entropy(secret) <= {:?}", raw.entropy);
            all = all.or(&self.filter(Some(id), &text)?);
        }
        if raw.token_efficiency {
            all = all.or(&self.filter(Some(id), "failsTokenEfficiency(secret)")?);
        }
        for table in raw.allowlist.into_iter().chain(raw.allowlists) {
            if let Some((text, _)) = self.allowlist(Some(id), table) {
                all = all.or(&self.filter(Some(id), &text)?);
            }
        }
        for (targets, filter) in &self.targeted {
            if targets.iter().any(|target| **target == **id) {
                all = all.or(filter);
            }
        }
        Ok(all.or(&self.global))
    }
}

/// Words before the value say what it is, or the value itself does.
fn tier(id: &str, pattern: &str) -> Tier {
    let generic = id.starts_with("generic") || pattern::has_context(pattern);
    if generic { Tier::Contextual } else { Tier::Prefixed }
}

/// Whether the pattern spells one of the keywords: then no match is without it.
fn is_in_every_match(pattern: &str, keywords: &[String]) -> bool {
    let hir = regex_automata::util::syntax::parse_with(pattern, &pattern::syntax());
    hir.is_ok_and(|hir| spells(&hir, keywords))
}

fn spells(hir: &Hir, keywords: &[String]) -> bool {
    use regex_syntax::hir::HirKind;
    let in_run = |run: &str| keywords.iter().any(|word| run.contains(word.as_str()));
    match hir.kind() {
        HirKind::Capture(capture) => spells(&capture.sub, keywords),
        HirKind::Repetition(repetition) => repetition.min > 0 && spells(&repetition.sub, keywords),
        HirKind::Alternation(branches) => branches.iter().all(|branch| spells(branch, keywords)),
        HirKind::Concat(parts) => {
            let mut run = String::new();
            for part in parts {
                match letter(part) {
                    Some(letters) => run.push_str(&letters),
                    None if spells(part, keywords) => return true,
                    None => {
                        if in_run(&run) {
                            return true;
                        }
                        run.clear();
                    }
                }
            }
            in_run(&run)
        }
        _ => letter(hir).is_some_and(|run| in_run(&run)),
    }
}

/// A fixed text in lower case: literal, or one letter in both cases.
fn letter(hir: &Hir) -> Option<String> {
    use regex_syntax::hir::HirKind;
    let bytes = match hir.kind() {
        HirKind::Literal(literal) => literal.0.to_vec(),
        HirKind::Capture(capture) => return letter(&capture.sub),
        HirKind::Concat(parts) => return parts.iter().map(letter).collect(),
        HirKind::Class(class) => class.literal().or_else(|| {
            let folded: Vec<u8> = match class {
                regex_syntax::hir::Class::Bytes(bytes) => {
                    if bytes.ranges().len() != 2 {
                        return None;
                    }
                    bytes.iter().filter(|r| r.start() == r.end()).map(|r| r.start()).collect()
                }
                regex_syntax::hir::Class::Unicode(_) => return None,
            };
            match folded.as_slice() {
                [a, b] if a.eq_ignore_ascii_case(b) => Some(vec![*a]),
                _ => None,
            }
        })?,
        _ => return None,
    };
    Some(String::from_utf8_lossy(&bytes).to_lowercase())
}
