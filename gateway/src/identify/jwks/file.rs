//! Keys in a file that somebody replaces, such as the bundle of a trust domain.
//!
//! - input: the path
//! - output: [`KeySet`]
//! - bound: `limits::MAX_PROVIDER_ANSWER_BYTES`; read as seldom as a provider is asked
//! - on failure: [`KeyError`]; the keys of before serve as those of a provider that is away

use std::path::{Path, PathBuf};

use super::{KeyError, KeySet, KeySource, SetFuture};

/// The file.
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// Makes sure that it has keys now.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        KeySet::load(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl KeySource for KeyFile {
    fn fetch(&self) -> SetFuture<'_> {
        Box::pin(async { KeySet::load(&self.0) })
    }
}
