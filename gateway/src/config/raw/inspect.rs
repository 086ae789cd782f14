//! `[inspect]` as written.
//!
//! - input: TOML
//! - output: [`Inspect`]
//! - bound: see `config::Config::load`
//! - on failure: unknown keys and wrong types are errors that name the key

use std::path::PathBuf;

use serde::Deserialize;

/// `[inspect]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inspect {
    /// Secrets in what is sent to hosts without a route: `"detect"` (recorded as findings, the bytes
    /// pass), `"tokenise"` (a placeholder of the same shape stands in their place), `"redact"` (a
    /// mark does) or `"block"` (the request is refused). Default: `"detect"`.
    pub requests: Mode,
    /// The same for what comes back from them. Default: `"detect"`.
    pub responses: Mode,
    /// Known values (registered, of the environment, or replaced before) on their way to hosts
    /// that are not theirs: `"refuse"`, or `"record"` to let them pass as findings. Default: `"refuse"`.
    pub egress: Egress,
    /// Treat values of a captured process's environment as known values, if their name contains
    /// `TOKEN`, `SECRET`, `KEY`, `PASS` or `CREDENTIAL` and they look like secrets. They are bound to
    /// the hosts that the process sends them to as credentials. Default: `true`.
    pub environment: bool,
    /// Bytes of a body that are looked at. Where secrets are replaced or refused, larger bodies are
    /// refused; elsewhere the rest of them passes unseen and unrecorded. Default: `"32MiB"`. Range: 64 KiB to
    /// 64 MiB.
    pub max_body: String,
    /// Key of fingerprints and placeholders: at least 32 bytes, the same on all hosts of an
    /// organisation, so that fingerprints can be compared. Default: `fingerprint.key` in `state_dir`,
    /// made at the first start.
    pub fingerprint_key_file: Option<PathBuf>,
    /// Directory of what the gateway makes itself, mode 0700. Default: `/var/lib/weir/inspect`.
    pub state_dir: Option<PathBuf>,
    /// Files with rules of your own, see `docs/rules.md`. At most 64. Default: none.
    pub rules: Vec<PathBuf>,
    /// Rule files of gitleaks or betterleaks. At most 16.
    pub import: Vec<InspectImport>,
    /// Hosts that are treated differently; the first that fits counts. Behind them stand routes for
    /// the known providers of models, see `docs/masking.md`. At most 256.
    pub route: Vec<InspectRoute>,
    /// Values that you register. At most 1024.
    pub known: Vec<InspectKnown>,
}

impl Default for Inspect {
    fn default() -> Self {
        Self {
            requests: Mode::Detect,
            responses: Mode::Detect,
            egress: Egress::Refuse,
            environment: true,
            max_body: "32MiB".into(),
            fingerprint_key_file: None,
            state_dir: None,
            rules: Vec::new(),
            import: Vec::new(),
            route: Vec::new(),
            known: Vec::new(),
        }
    }
}

/// See [`Inspect::requests`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `"detect"`
    Detect,
    /// `"tokenise"`
    #[serde(alias = "tokenize")]
    Tokenise,
    /// `"redact"`
    Redact,
    /// `"block"`
    Block,
}

/// See [`Inspect::egress`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// `"refuse"`
    Refuse,
    /// `"record"`
    Record,
}

/// `[[inspect.route]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRoute {
    /// Host names, `name` or `*.name`; a `*` elsewhere stands for a part of one label.

    /// At most 256. Required.
    pub hosts: Vec<String>,
    /// As `inspect.requests`. Default: `"tokenise"`.
    pub requests: Option<Mode>,
    /// As `inspect.responses`. Default: `"redact"`.
    pub responses: Option<Mode>,
    /// Put secrets back where the answer has their placeholders, so that code keeps working. Only for
    /// the job or login whose secrets they are. Default: `true`.
    pub restore: Option<bool>,
    /// As `inspect.max_body`. Default: that of `[inspect]`.
    pub max_body: Option<String>,
}

/// `[[inspect.known]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectKnown {
    /// What findings call it: letters, digits, `-` and `_`, at most 64. Required.
    pub name: String,
    /// File with the value, 8 bytes to 16 KiB; white space at its end does not count. Read at start.
    /// Required.
    pub file: PathBuf,
    /// Hosts that it may go to, `name` or `*.name`. Default: none but those that a job sends it to as
    /// its credential.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// `[[inspect.import]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectImport {
    /// The file, read at start. Required.
    pub file: PathBuf,
    /// SHA-256 of the file, in hexadecimal digits. Required.
    pub sha256: String,
}
