//! Checks `[inspect]`.
//!
//! - input: [`raw::Inspect`]
//! - output: [`Inspect`]
//! - bound: [`MAX_ROUTES`] routes of [`MAX_HOSTS`] hosts, [`MAX_KNOWN`] values, [`MAX_RULES`] and
//!   [`MAX_IMPORTS`] files
//! - on failure: every problem, each with the path of its key

use std::collections::BTreeSet;
use std::path::Path;

use super::Problems;
use crate::config::inspect::{Egress, Import, Inspect, KnownValue, Mode, Route};
use crate::config::{HostPattern, raw};

const MAX_ROUTES: usize = 256;
const MAX_HOSTS: usize = 256;
const MAX_KNOWN: usize = 1024;
const MAX_RULES: usize = 64;
const MAX_IMPORTS: usize = 16;
const STATE_DIR: &str = "/var/lib/weir/inspect";
const KEY_FILE: &str = "fingerprint.key";

/// Hosts of models. What is sent there is read by somebody else's machine, and often kept.
const MODEL_HOSTS: [&str; 31] = [
    "api.openai.com",
    "*.api.openai.com",
    "chatgpt.com",
    "*.openai.azure.com",
    "*.services.ai.azure.com",
    "*.cognitiveservices.azure.com",
    "models.inference.ai.azure.com",
    "models.github.ai",
    "*.githubcopilot.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "aiplatform.googleapis.com",
    "*-aiplatform.googleapis.com",
    "cloudcode-pa.googleapis.com",
    "bedrock-runtime.*.amazonaws.com",
    "bedrock-runtime-fips.*.amazonaws.com",
    "bedrock-agent-runtime.*.amazonaws.com",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.cohere.com",
    "api.cohere.ai",
    "api.groq.com",
    "api.deepseek.com",
    "api.x.ai",
    "openrouter.ai",
    "api.together.xyz",
    "api.perplexity.ai",
    "api.fireworks.ai",
    "router.huggingface.co",
    "api-inference.huggingface.co",
    "api.moonshot.ai",
];

pub(super) fn checked(raw: &raw::Inspect, p: &mut Problems) -> Inspect {
    let max_body_bytes = size("inspect.max_body", &raw.max_body, p);
    let default = Route {
        hosts: Vec::new(),
        requests: mode(raw.requests),
        responses: mode(raw.responses),
        restore: false,
        max_body_bytes,
    };
    if default.responses == Mode::Tokenise {
        p.add("inspect.responses", "tokenise is for requests: use redact");
    }
    p.count("inspect.route", raw.route.len(), 0, MAX_ROUTES);
    let mut routes: Vec<Route> = raw
        .route
        .iter()
        .enumerate()
        .map(|(i, one)| route(&format!("inspect.route[{i}]"), one, max_body_bytes, p))
        .collect();
    routes.push(models(max_body_bytes));
    let state_dir = raw.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
    absolute("inspect.state_dir", &state_dir, p);
    let key = raw.fingerprint_key_file.clone();
    let makes_key = key.is_none();
    let fingerprint_key_file = key.unwrap_or_else(|| state_dir.join(KEY_FILE));
    if !makes_key {
        absolute("inspect.fingerprint_key_file", &fingerprint_key_file, p);
    }
    p.count("inspect.rules", raw.rules.len(), 0, MAX_RULES);
    for (i, path) in raw.rules.iter().enumerate() {
        absolute(&format!("inspect.rules[{i}]"), path, p);
    }
    Inspect {
        default,
        routes,
        egress: match raw.egress {
            raw::Egress::Refuse => Egress::Refuse,
            raw::Egress::Record => Egress::Record,
        },
        environment: raw.environment,
        known: known(&raw.known, p),
        rules: raw.rules.clone(),
        import: imports(&raw.import, p),
        state_dir,
        fingerprint_key_file,
        makes_key,
    }
}

/// Requests are tokenised, so that models work on with what they get; a secret in an answer is
/// invented, or not the client's.
fn models(max_body_bytes: usize) -> Route {
    Route {
        hosts: MODEL_HOSTS.iter().filter_map(|host| HostPattern::parse(host).ok()).collect(),
        requests: Mode::Tokenise,
        responses: Mode::Redact,
        restore: true,
        max_body_bytes,
    }
}

fn route(key: &str, raw: &raw::InspectRoute, max_body_bytes: usize, p: &mut Problems) -> Route {
    let at = |name: &str| format!("{key}.{name}");
    p.count(&at("hosts"), raw.hosts.len(), 1, MAX_HOSTS);
    let responses = raw.responses.map_or(Mode::Redact, mode);
    if responses == Mode::Tokenise {
        p.add(&at("responses"), "tokenise is for requests: use redact");
    }
    Route {
        hosts: p.patterns(&at("hosts"), &raw.hosts),
        requests: raw.requests.map_or(Mode::Tokenise, mode),
        responses,
        restore: raw.restore.unwrap_or(true),
        max_body_bytes: match &raw.max_body {
            Some(text) => size(&at("max_body"), text, p),
            None => max_body_bytes,
        },
    }
}

fn known(raw: &[raw::InspectKnown], p: &mut Problems) -> Vec<KnownValue> {
    p.count("inspect.known", raw.len(), 0, MAX_KNOWN);
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for (i, one) in raw.iter().enumerate() {
        let at = |name: &str| format!("inspect.known[{i}].{name}");
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if one.name.is_empty() || one.name.len() > 64 || !one.name.chars().all(word) {
            p.add(&at("name"), "must be 1 to 64 letters, digits, - and _");
        }
        if !names.insert(&one.name) {
            p.add(&at("name"), "is used twice");
        }
        absolute(&at("file"), &one.file, p);
        p.count(&at("hosts"), one.hosts.len(), 0, MAX_HOSTS);
        let hosts = p.patterns(&at("hosts"), &one.hosts);
        all.push(KnownValue { name: one.name.clone(), file: one.file.clone(), hosts });
    }
    all
}

fn imports(raw: &[raw::InspectImport], p: &mut Problems) -> Vec<Import> {
    p.count("inspect.import", raw.len(), 0, MAX_IMPORTS);
    let mut all = Vec::new();
    for (i, one) in raw.iter().enumerate() {
        absolute(&format!("inspect.import[{i}].file"), &one.file, p);
        let mut sha256 = [0; 32];
        match hex::decode_to_slice(&one.sha256, &mut sha256) {
            Ok(()) => all.push(Import { file: one.file.clone(), sha256 }),
            Err(_not_hex) => {
                p.add(&format!("inspect.import[{i}].sha256"), "must be 64 hexadecimal digits");
            }
        }
    }
    all
}

fn mode(raw: raw::Mode) -> Mode {
    match raw {
        raw::Mode::Detect => Mode::Detect,
        raw::Mode::Tokenise => Mode::Tokenise,
        raw::Mode::Redact => Mode::Redact,
        raw::Mode::Block => Mode::Block,
    }
}

fn size(key: &str, text: &str, p: &mut Problems) -> usize {
    usize::try_from(p.size(key, text, "64KiB", "64MiB")).unwrap_or(usize::MAX)
}

fn absolute(key: &str, path: &Path, p: &mut Problems) {
    if !path.is_absolute() {
        p.add(key, "must be an absolute path");
    }
}

#[cfg(test)]
mod tests;
