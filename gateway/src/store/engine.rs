//! Finds the engine's library and opens it.
//!
//! - input: `store.engine`, or the usual directories
//! - output: the path of `libchdb.so`; the loaded engine
//! - bound: four places are looked at
//! - on failure: [`StoreError::EngineMissing`] says how to get the engine

use std::path::PathBuf;

use super::StoreError;
use super::ffi::Api;
use crate::config;

/// File name of the engine.
pub const LIBRARY: &str = "libchdb.so";

const DIRECTORIES: [&str; 3] = ["/usr/lib/weir", "/usr/local/lib/weir", "/usr/local/lib"];

/// Finds the engine: `store.engine` when it is set, else the usual directories.
///
/// # Errors
/// [`StoreError::EngineMissing`] with the places that were looked at.
pub fn find_engine(config: &config::Store) -> Result<PathBuf, StoreError> {
    let places: Vec<PathBuf> = match &config.engine {
        Some(path) => vec![path.clone()],
        None => DIRECTORIES.iter().map(|dir| PathBuf::from(dir).join(LIBRARY)).collect(),
    };
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(StoreError::EngineMissing(places)),
    }
}

/// Loads the engine. It stays for the life of the process.
pub(super) fn load(config: &config::Store) -> Result<&'static Api, StoreError> {
    let path = find_engine(config)?;
    let api = Api::open(&path).map_err(|what| StoreError::EngineLoad { path, what })?;
    api.leave_signals_alone();
    Ok(api)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_missing_engine_says_how_to_get_it() {
        let mut config = Config::parse("").unwrap().store;
        config.engine = Some("/nonexistent/libchdb.so".into());
        let said = find_engine(&config).unwrap_err().to_string();
        for part in
            ["/nonexistent/libchdb.so", "cargo xtask setup", "/usr/local/lib/weir", "store.engine"]
        {
            assert!(said.contains(part), "{part} not in {said}");
        }
    }

    #[test]
    fn the_configured_engine_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.so");
        std::fs::write(&path, b"not an engine").unwrap();
        let mut config = Config::parse("").unwrap().store;
        config.engine = Some(path.clone());
        assert_eq!(find_engine(&config).unwrap(), path);
        let said = load(&config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("engine.so"), "{said}");
    }
}
