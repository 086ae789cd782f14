//! The rules that `[inspect]` puts in force: weir's own, the operator's, and imported files.
//!
//! - input: paths, and SHA-256 pins of imported files
//! - output: [`Rule`]s with unique ids
//! - bound: `weir_inspect::limits::MAX_RULE_FILE_BYTES` for each file
//! - on failure: [`RulesError`] with the path; no rule is left out silently

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};
use weir_inspect::engine::Engine;
use weir_inspect::import::{self, ImportError, Imported};
use weir_inspect::limits::MAX_RULE_FILE_BYTES;
use weir_inspect::own::{self, OwnError};
use weir_inspect::rule::Rule;

use super::inspection::InspectError;
use crate::config::inspect::Inspect;

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file cannot be read.
    #[error("reading rules of {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not the one that was pinned.
    #[error("rule file {path} has SHA-256 {found}, not the one in the configuration")]
    Pin {
        /// Which.
        path: PathBuf,
        /// Of its content, in hexadecimal digits.
        found: String,
    },
    /// A file is no rule file of another scanner.
    #[error("{path}: {source}")]
    Import {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ImportError,
    },
    /// A file has no rules of weir's shape.
    #[error("{path}: {source}")]
    Own {
        /// Which.
        path: PathBuf,
        /// Why.
        source: OwnError,
    },
}

/// A rule file of another scanner, as it lies on disk.
#[derive(Debug)]
pub struct RuleFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Of its content.
    pub sha256: [u8; 32],
    /// What became of it.
    pub imported: Imported,
}

/// Everything that is in force.
///
/// # Errors
/// See [`RulesError`].
pub fn load(config: &Inspect) -> Result<Vec<Rule>, RulesError> {
    let built_in = |source| RulesError::Own { path: PathBuf::from("built-in rules"), source };
    let mut all = own::rules().map_err(built_in)?;
    for path in &config.rules {
        all.extend(operators(path)?);
    }
    for wanted in &config.import {
        let file = open(&wanted.file)?;
        if file.sha256 != wanted.sha256 {
            let found = hex::encode(file.sha256);
            return Err(RulesError::Pin { path: wanted.file.clone(), found });
        }
        all.extend(file.imported.rules);
    }
    Ok(with_unique_ids(all))
}

/// The engine of everything that is in force.
///
/// # Errors
/// See [`InspectError`].
pub(super) fn engine(config: &Inspect) -> Result<Arc<Engine>, InspectError> {
    // Weir's own rules are the same for every gateway of a process: tests start many.
    static OWN: OnceLock<Arc<Engine>> = OnceLock::new();
    let is_own = config.rules.is_empty() && config.import.is_empty();
    if let Some(engine) = OWN.get().filter(|_| is_own) {
        return Ok(Arc::clone(engine));
    }
    let engine = Arc::new(Engine::new(load(config)?)?);
    Ok(if is_own { Arc::clone(OWN.get_or_init(|| engine)) } else { engine })
}

/// Rules of weir's shape.
///
/// # Errors
/// See [`RulesError`].
pub fn operators(path: &Path) -> Result<Vec<Rule>, RulesError> {
    let bytes = read(path)?;
    let failed = |source| RulesError::Own { path: path.to_owned(), source };
    let definitions = own::parse(&String::from_utf8_lossy(&bytes)).map_err(failed)?;
    definitions.iter().map(|one| one.rule().map_err(failed)).collect()
}

/// A rule file of another scanner.
///
/// # Errors
/// See [`RulesError`].
pub fn open(path: &Path) -> Result<RuleFile, RulesError> {
    let bytes = read(path)?;
    let failed = |source| RulesError::Import { path: path.to_owned(), source };
    let imported = import::import(&bytes).map_err(failed)?;
    Ok(RuleFile { sha256: Sha256::digest(&bytes).into(), bytes, imported })
}

fn read(path: &Path) -> Result<Vec<u8>, RulesError> {
    let failed = |source| RulesError::Read { path: path.to_owned(), source };
    // One byte more than may be there tells that there is more.
    let limit = u64::try_from(MAX_RULE_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_RULE_FILE_BYTES {
        return Err(RulesError::Import {
            path: path.to_owned(),
            source: ImportError::Long(bytes.len()),
        });
    }
    Ok(bytes)
}

/// Scanners name the same formats alike: of two rules with one id, the later one gets another.
fn with_unique_ids(mut rules: Vec<Rule>) -> Vec<Rule> {
    let mut taken = HashSet::new();
    for rule in &mut rules {
        let mut number = 1_u32;
        let first = rule.id.clone();
        while !taken.insert(rule.id.clone()) {
            number = number.saturating_add(1);
            rule.id = format!("{first}-{number}").into();
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const FOREIGN: &str = "[[rules]]\nid = 'acme'\nregex = 'acme_[0-9]{8}'\nkeywords = ['acme_']\n";

    fn config(keys: &str) -> Inspect {
        Config::parse(&format!("[inspect]\n{keys}")).unwrap().inspect
    }

    #[test]
    fn own_rules_are_always_in_force() {
        let rules = load(&config("")).unwrap();
        assert_eq!(rules.len(), own::rules().unwrap().len());
    }

    #[test]
    fn an_imported_file_is_taken_only_as_it_was_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.toml");
        std::fs::write(&path, FOREIGN).unwrap();
        let pin = |sha256: &str| {
            config(&format!("import = [{{ file = {path:?}, sha256 = \"{sha256}\" }}]"))
        };
        let right = hex::encode(open(&path).unwrap().sha256);
        let own = own::rules().unwrap().len();
        assert_eq!(load(&pin(&right)).unwrap().len(), own + 1);
        let error = load(&pin(&"0".repeat(64))).unwrap_err();
        assert!(error.to_string().contains(&right), "{error}");
        std::fs::write(&path, format!("{FOREIGN}# changed")).unwrap();
        assert!(matches!(load(&pin(&right)), Err(RulesError::Pin { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(load(&pin(&right)), Err(RulesError::Read { .. })));
    }

    #[test]
    fn files_that_are_too_long_or_of_the_other_shape_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.toml");
        std::fs::write(&path, vec![b'#'; MAX_RULE_FILE_BYTES + 9]).unwrap();
        assert!(matches!(
            open(&path),
            Err(RulesError::Import { source: ImportError::Long(_), .. })
        ));
        std::fs::write(&path, FOREIGN).unwrap();
        assert!(matches!(operators(&path), Err(RulesError::Own { .. })));
    }

    #[test]
    fn no_two_rules_share_an_id() {
        let rule = import::import(FOREIGN.as_bytes()).unwrap().rules;
        let three = [rule.clone(), rule.clone(), rule].concat();
        let ids: Vec<_> = with_unique_ids(three).iter().map(|rule| rule.id.to_string()).collect();
        assert_eq!(ids, ["acme", "acme-2", "acme-3"]);
    }
}
