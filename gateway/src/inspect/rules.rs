//! The rules of this gateway: weir's own, the operator's, and those of imported files.
//!
//! - input: `inspect.rules`, `inspect.import`
//! - output: a compiled [`Engine`]
//! - bound: `weir_inspect::limits` of a file
//! - on failure: [`InspectError`]; a gateway does not start with fewer rules than it should have

use std::path::Path;
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};
use weir_inspect::engine::Engine;
use weir_inspect::import::{Outcome, import};
use weir_inspect::limits::MAX_RULE_FILE_BYTES;
use weir_inspect::own;
use weir_inspect::rule::Rule;

use super::inspection::InspectError;
use crate::config::inspect::{Import, Inspect};

/// Weir's own rules are the same for every gateway of a process: tests start many.
static OWN: OnceLock<Arc<Engine>> = OnceLock::new();

/// Compiles all rules.
///
/// # Errors
/// [`InspectError`]
pub(super) fn engine(config: &Inspect) -> Result<Arc<Engine>, InspectError> {
    let is_own = config.rules.is_empty() && config.import.is_empty();
    if let Some(engine) = OWN.get().filter(|_| is_own) {
        return Ok(Arc::clone(engine));
    }
    let mut rules = own::rules().map_err(|error| InspectError::Own(error.to_string()))?;
    for path in &config.rules {
        rules.extend(operators(path)?);
    }
    for one in &config.import {
        rules.extend(imported(one)?);
    }
    let engine = Arc::new(Engine::new(rules)?);
    if is_own {
        return Ok(Arc::clone(OWN.get_or_init(|| engine)));
    }
    Ok(engine)
}

fn operators(path: &Path) -> Result<Vec<Rule>, InspectError> {
    let bytes = read(path)?;
    let wrong = |what: String| InspectError::Content { path: path.to_owned(), what };
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(error.to_string()))?;
    let definitions = own::parse(text).map_err(|error| wrong(error.to_string()))?;
    let rules = definitions.iter().map(own::Definition::rule).collect::<Result<_, _>>();
    rules.map_err(|error| wrong(error.to_string()))
}

fn imported(one: &Import) -> Result<Vec<Rule>, InspectError> {
    let bytes = read(&one.file)?;
    let wrong = |what: String| InspectError::Content { path: one.file.clone(), what };
    if <[u8; 32]>::from(Sha256::digest(&bytes)) != one.sha256 {
        return Err(wrong("its sha256 is not the configured one".to_owned()));
    }
    let imported = import(&bytes).map_err(|error| wrong(error.to_string()))?;
    let refused = imported.notes.iter().filter(|note| note.outcome == Outcome::Refused).count();
    let (file, rules) = (one.file.display(), imported.rules.len());
    tracing::info!(%file, rules, refused, "rules are imported");
    Ok(imported.rules)
}

fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_RULE_FILE_BYTES as u64 {
        let what = format!("it is longer than {MAX_RULE_FILE_BYTES} bytes");
        return Err(InspectError::Content { path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use weir_inspect::known::Known;

    fn config(text: &str) -> Inspect {
        Config::parse(text).unwrap().inspect
    }

    fn finds(engine: &Engine, text: &str) -> bool {
        !engine.find(text.as_bytes(), &Known::default()).is_empty()
    }

    #[test]
    fn operators_rules_stand_beside_weirs_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.toml");
        std::fs::write(
            &path,
            "[[rule]]\nid = \"acme-token\"\ndescription = \"Acme\"\n\
             value = \"acmetok_[a-z0-9]{16}\"\nsource = \"https://acme.example\"\n",
        )
        .unwrap();
        let own = engine(&config("")).unwrap();
        assert!(Arc::ptr_eq(&own, &engine(&config("")).unwrap()), "they are compiled once");
        let both = engine(&config(&format!("[inspect]\nrules = [{path:?}]\n"))).unwrap();
        let text = "x acmetok_a1b2c3d4e5f6g7h8 y";
        assert!(finds(&both, text) && !finds(&own, text));
        std::fs::write(&path, "[[rule]]\nid = \"x\"\n").unwrap();
        let error = engine(&config(&format!("[inspect]\nrules = [{path:?}]\n"))).unwrap_err();
        assert!(error.to_string().contains("rules.toml"), "{error}");
    }

    #[test]
    fn an_imported_file_is_the_one_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.toml");
        let text = "[[rules]]\nid = \"acme-token\"\nregex = '''acmetok_[a-z0-9]{16}'''\n\
                    keywords = [\"acmetok_\"]\n";
        std::fs::write(&path, text).unwrap();
        let of = |sha256: &str| {
            engine(&config(&format!("[[inspect.import]]\nfile = {path:?}\nsha256 = {sha256:?}\n")))
        };
        let good = hex::encode(Sha256::digest(text));
        assert!(finds(&of(&good).unwrap(), "x acmetok_a1b2c3d4e5f6g7h8 y"));
        let error = of(&"0".repeat(64)).unwrap_err().to_string();
        assert!(error.contains("sha256"), "{error}");
    }
}
