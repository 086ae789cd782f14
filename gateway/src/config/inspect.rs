//! `[inspect]`, checked: what is done about secrets.
//!
//! - input: made by `validate`
//! - output: [`Inspect`]
//! - bound: see `validate::inspect`
//! - on failure: cannot fail

use std::path::PathBuf;

use super::HostPattern;

/// See [`raw::Inspect`](super::raw::Inspect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// For hosts without a route.
    pub default: Route,
    /// The operator's routes, then those that are built in: the first that fits a host counts.
    pub routes: Vec<Route>,
    /// Whether known and vaulted values are refused on their way to hosts that are not theirs.
    pub egress: Egress,
    /// Whether secret-looking values of a process's environment are known values.
    pub environment: bool,
    /// Values that the operator registers.
    pub known: Vec<KnownValue>,
    /// Files with rules of the operator's own.
    pub rules: Vec<PathBuf>,
    /// Rule files of other scanners.
    pub import: Vec<Import>,
    /// Directory of what the gateway makes itself.
    pub state_dir: PathBuf,
    /// File of the key of fingerprints and placeholders.
    pub fingerprint_key_file: PathBuf,
    /// Whether the gateway makes that file where it is missing.
    pub makes_key: bool,
}

/// What is done about secrets of some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose; none for all others.
    pub hosts: Vec<HostPattern>,
    /// In what is sent there.
    pub requests: Mode,
    /// In what comes back.
    pub responses: Mode,
    /// Whether placeholders are replaced by their secrets in answers.
    pub restore: bool,
    /// Bytes of a body that are looked at.
    pub max_body_bytes: usize,
}

/// What is done about a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Recorded as a finding; the bytes pass as they are.
    Detect,
    /// A placeholder stands in its place, which is restored in the answer.
    Tokenise,
    /// A mark stands in its place, for good.
    Redact,
    /// The message is refused.
    Block,
}

/// What is done about a known value on its way to a host that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// The message is refused.
    Refuse,
    /// It is a finding.
    Record,
}

/// See [`raw::InspectKnown`](super::raw::InspectKnown).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownValue {
    /// As findings call it.
    pub name: String,
    /// Where the value is.
    pub file: PathBuf,
    /// Where it may go.
    pub hosts: Vec<HostPattern>,
}

/// See [`raw::InspectImport`](super::raw::InspectImport).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Where.
    pub file: PathBuf,
    /// What the file must be.
    pub sha256: [u8; 32],
}
