//! The secrets that `[inspect]` names by file: the fingerprint key, and registered values.
//!
//! - input: paths
//! - output: the bytes
//! - bound: [`MAX_FILE_BYTES`]
//! - on failure: [`InspectError`] with the path, never with a byte of the content

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use weir_inspect::fingerprint::{Key, MIN_KEY_BYTES};
use weir_inspect::limits::MAX_VALUE_BYTES;
use zeroize::Zeroizing;

use super::inspection::InspectError;
use crate::config::inspect::Inspect;

const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Shorter values stand everywhere by chance.
const MIN_VALUE_BYTES: usize = 8;

/// The key of fingerprints and placeholders; made where the configuration names none and none is there.
///
/// # Errors
/// [`InspectError`]
pub fn load_or_create(config: &Inspect) -> Result<Key, InspectError> {
    let path = &config.fingerprint_key_file;
    let bytes = match read(path) {
        Err(InspectError::Read { source, .. })
            if config.makes_key && source.kind() == ErrorKind::NotFound =>
        {
            create(&config.state_dir, path).map_err(|source| failed(path, source))?;
            // Another gateway may have been first: what is there counts.
            read(path)?
        }
        read => read?,
    };
    key(path, &bytes)
}

/// The key, if it is there.
///
/// # Errors
/// [`InspectError`]
pub fn load(config: &Inspect) -> Result<Key, InspectError> {
    key(&config.fingerprint_key_file, &read(&config.fingerprint_key_file)?)
}

fn key(path: &Path, bytes: &[u8]) -> Result<Key, InspectError> {
    Key::new(bytes.trim_ascii().to_vec())
        .map_err(|error| InspectError::Content { path: path.to_owned(), what: error.to_string() })
}

/// A registered value.
///
/// # Errors
/// [`InspectError`]
pub(super) fn value(path: &Path) -> Result<Zeroizing<Vec<u8>>, InspectError> {
    let bytes = read(path)?;
    let value = Zeroizing::new(bytes.trim_ascii_end().to_vec());
    if (MIN_VALUE_BYTES..=MAX_VALUE_BYTES).contains(&value.len()) {
        return Ok(value);
    }
    let what = format!("a value has {MIN_VALUE_BYTES} to {MAX_VALUE_BYTES} bytes");
    Err(InspectError::Content { path: path.to_owned(), what })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, InspectError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).map_err(|source| failed(path, source))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|source| failed(path, source))?;
    Ok(bytes)
}

fn failed(path: &Path, source: std::io::Error) -> InspectError {
    InspectError::Read { path: path.to_owned(), source }
}

/// A new key, as text, whole or not at all.
fn create(dir: &Path, path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut bytes = Zeroizing::new([0; MIN_KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *bytes)
        .map_err(|aws_lc_rs::error::Unspecified| std::io::Error::other("no random numbers"))?;
    let text = Zeroizing::new(hex::encode(*bytes) + "\n");
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link does not replace a key that came meanwhile: two gateways must not have two keys.
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(dir: &Path, more: &str) -> Inspect {
        let text = format!("[inspect]\nstate_dir = {:?}\n{more}", dir.join("state"));
        Config::parse(&text).unwrap().inspect
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "");
        assert!(load(&config).is_err(), "asking makes none");
        let first = load_or_create(&config).unwrap().fingerprint(b"secret");
        assert_eq!(load_or_create(&config).unwrap().fingerprint(b"secret"), first);
        assert_eq!(load(&config).unwrap().fingerprint(b"secret"), first);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&config.fingerprint_key_file), 0o600);
        assert_eq!(mode(&config.state_dir), 0o700);
        assert_eq!(std::fs::read_dir(&config.state_dir).unwrap().count(), 1);
    }

    #[test]
    fn a_named_key_must_be_there_and_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let config = config(dir.path(), &format!("fingerprint_key_file = {path:?}\n"));
        assert!(load_or_create(&config).is_err());
        std::fs::write(&path, "short").unwrap();
        let error = load_or_create(&config).unwrap_err().to_string();
        assert!(error.contains("32 bytes") && !error.contains("short"), "{error}");
        std::fs::write(&path, "x".repeat(32)).unwrap();
        assert!(load_or_create(&config).is_ok());
    }

    #[test]
    fn a_registered_value_loses_only_the_space_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, " pass word 1 \n").unwrap();
        assert_eq!(value(&path).unwrap().as_slice(), b" pass word 1");
        std::fs::write(&path, "1234567\n").unwrap();
        assert!(value(&path).is_err());
    }
}
