//! An OCI runtime around the real one: what it changes in a container, and nothing else.
//!
//! - input: the command line of an OCI runtime, and the bundle that it names
//! - output: an edited `config.json`; the real runtime does the work
//! - bound: [`spec::MAX_SPEC_BYTES`] of JSON
//! - on failure: [`OciError`]; the container is not made
//!
//! Design: `docs/decisions/0012-docker.md`.

use std::path::PathBuf;

pub mod args;
pub mod place;
pub mod spec;
pub mod trust;

/// Why a container cannot be made or started.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The command line is not one that this version knows. Guessing could start a container that
    /// nobody looked at.
    #[error("option {0:?} is not known: it may take a value, and the command may be another one")]
    UnknownOption(String),
    /// No container was named.
    #[error("the command names no container")]
    NoContainer,
    /// A file of the bundle.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The JSON is not what the runtime specification says.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The container would not be captured.
    #[error("{0}")]
    Uncaptured(String),
}
