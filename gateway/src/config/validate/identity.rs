//! Checks `[identity]`.
//!
//! - input: [`raw::Identity`]
//! - output: [`Identity`]
//! - bound: 64 issuers, 32 required claims each with 64 values
//! - on failure: every problem, each with the path of its key

use std::collections::{BTreeMap, BTreeSet};

use super::Problems;
use crate::config::identity::{Algorithm, Identity, Issuer, KeyLocation, Kind, Require};
use crate::config::url::HttpUrl;
use crate::config::{HostPattern, identity, raw, spiffe};

const MAX_ISSUERS: usize = 64;
const MAX_CLAIMS: usize = 32;
const MAX_VALUES: usize = 64;
const MAX_SCOPES: usize = 32;
const STATE_DIR: &str = "/var/lib/weir/identity";
const SCOPES: [&str; 5] = ["openid", "email", "profile", "groups", "offline_access"];
const MAX_TEXT_BYTES: usize = 512;

/// The only audience that Azure Pipelines puts into its tokens.
const AZURE_AUDIENCE: &str = "api://AzureADTokenExchange";

pub(super) fn checked(raw: &raw::Identity, p: &mut Problems) -> Identity {
    p.count("identity.issuer", raw.issuer.len(), 0, MAX_ISSUERS);
    let (mut names, mut issuers) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::new();
    for (i, one) in raw.issuer.iter().enumerate() {
        let key = format!("identity.issuer[{i}]");
        if !names.insert(&one.name) {
            p.add(&format!("{key}.name"), "is used twice");
        }
        if !issuers.insert(&one.issuer) {
            p.add(&format!("{key}.issuer"), "is used twice");
        }
        all.extend(issuer(&key, one, p));
    }
    let state_dir = raw.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
    if !state_dir.is_absolute() {
        p.add("identity.state_dir", "must be an absolute path");
    }
    p.count("identity.runners", raw.runners.len(), 0, MAX_ISSUERS);
    if raw.runners.iter().any(|user| user.is_empty() || user.len() > MAX_TEXT_BYTES) {
        p.add("identity.runners", "names must be 1 to 512 bytes");
    }
    Identity {
        issuers: all,
        state_dir,
        require: match raw.require {
            raw::Require::Off => Require::Off,
            raw::Require::Record => Require::Record,
            raw::Require::Deny => Require::Deny,
        },
        exempt: p.patterns("identity.exempt", &raw.exempt),
        runners: raw.runners.clone(),
    }
}

fn issuer(key: &str, raw: &raw::IdentityIssuer, p: &mut Problems) -> Option<Issuer> {
    let at = |name: &str| format!("{key}.{name}");
    let kind = kind(raw.kind);
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.chars().all(word) {
        p.add(&at("name"), "must be 1 to 64 letters, digits, - and _");
    }
    let url = match kind {
        Kind::Spiffe => trust_domain(&at("issuer"), &raw.issuer, p),
        _ => url(&at("issuer"), &raw.issuer, raw.danger_allow_http, p),
    };
    if raw.issuer.contains('?') {
        p.add(&at("issuer"), "must have no query");
    }
    let named = match (&raw.audience, &raw.client_id) {
        (Some(_), Some(_)) => {
            p.add(&at("client_id"), "excludes audience");
            &raw.audience
        }
        (None, Some(_)) => &raw.client_id,
        (audience, None) => audience,
    };
    let login = login(key, kind, raw, p);
    let groups_claim = raw.groups_claim.clone().unwrap_or_else(|| "groups".to_owned());
    if groups_claim.is_empty() || groups_claim.len() > MAX_TEXT_BYTES {
        p.add(&at("groups_claim"), "must be 1 to 512 bytes");
    }
    let audience = match (named, kind) {
        (None, Kind::AzureDevops) => AZURE_AUDIENCE.to_owned(),
        (Some(audience), _) if !audience.is_empty() && audience.len() <= MAX_TEXT_BYTES => {
            audience.clone()
        }
        (given, _) => {
            let what = if given.is_none() { "is required" } else { "must be 1 to 512 bytes" };
            p.add(&at("audience"), what);
            String::new()
        }
    };
    let keys = match (&raw.jwks_url, &raw.jwks_file) {
        (None, None) => {
            if kind == Kind::Spiffe {
                p.add(&at("jwks_url"), "or jwks_file is required");
            }
            KeyLocation::Discovery
        }
        (None, Some(path)) => KeyLocation::File(path.clone()),
        (Some(text), None) => {
            // A problem is reported already when there is no URL.
            let url = self::url(&at("jwks_url"), text, raw.danger_allow_http, p);
            url.map_or(KeyLocation::Discovery, KeyLocation::Url)
        }
        (Some(_), Some(_)) => {
            p.add(&at("jwks_file"), "excludes jwks_url");
            KeyLocation::Discovery
        }
    };
    let claims = claims(&at("claims"), raw, p);
    scope(key, kind, raw, p);
    if raw.danger_allow_ssh_rerun && kind != Kind::Circleci {
        p.add(&at("danger_allow_ssh_rerun"), "is for kind = \"circleci\" only");
    }
    let mut time = |name: &str, given: &Option<String>, default: &str, least, most| {
        p.duration(&at(name), given.as_deref().unwrap_or(default), least, most)
    };
    let lifetime = if kind == Kind::Gitlab { "24h" } else { "1h" };
    let max_lifetime = time("max_lifetime", &raw.max_lifetime, lifetime, "1m", "7d");
    let clock_skew = time("clock_skew", &raw.clock_skew, "60s", "0s", "150s");
    let age = if in_environment(kind) { "10m" } else { "0s" };
    let max_age_at_start = time("max_age_at_start", &raw.max_age_at_start, age, "0s", "24h");
    let algorithms = algorithms(&at("algorithms"), kind, raw.algorithms.as_deref(), p);
    let github_app = github_app::checked(key, kind, raw, p);
    let url = url?;
    let request_hosts = match &raw.request_hosts {
        Some(texts) => p.patterns(&at("request_hosts"), texts),
        None => request_hosts(kind, &url),
    };
    Some(Issuer {
        name: raw.name.clone(),
        issuer: raw.issuer.clone(),
        url,
        kind,
        audience,
        algorithms,
        keys,
        claims,
        max_lifetime,
        clock_skew,
        max_age_at_start,
        groups_claim,
        login,
        request_hosts,
        github_app,
        danger_allow_http: raw.danger_allow_http,
        danger_allow_ssh_rerun: raw.danger_allow_ssh_rerun,
    })
}

/// How people log in; the keys are refused for other kinds.
fn login(
    key: &str,
    kind: Kind,
    raw: &raw::IdentityIssuer,
    p: &mut Problems,
) -> Option<identity::Login> {
    let given = [
        ("client_id", raw.client_id.is_some()),
        ("client_secret_file", raw.client_secret_file.is_some()),
        ("scopes", raw.scopes.is_some()),
    ];
    if kind != Kind::People {
        for (name, _) in given.iter().filter(|(_, given)| *given) {
            p.add(&format!("{key}.{name}"), "is for kind = \"people\" only");
        }
        return None;
    }
    let scopes = raw.scopes.clone();
    let scopes = scopes.unwrap_or_else(|| SCOPES.iter().map(|&scope| scope.to_owned()).collect());
    let at = format!("{key}.scopes");
    p.count(&at, scopes.len(), 1, MAX_SCOPES);
    // RFC 6749 section 3.3
    let is_scope = |text: &String| {
        let token = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        !text.is_empty() && text.len() <= MAX_TEXT_BYTES && text.bytes().all(token)
    };
    if !scopes.iter().all(is_scope) {
        p.add(&at, "must be words of 1 to 512 printable characters");
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        p.add(&at, "must have openid");
    }
    Some(identity::Login { client_secret_file: raw.client_secret_file.clone(), scopes })
}

/// The trust domain as a host, which nobody asks.
fn trust_domain(key: &str, text: &str, p: &mut Problems) -> Option<HttpUrl> {
    let domain = text.strip_prefix("spiffe://").filter(|domain| spiffe::is_trust_domain(domain));
    let url = domain.and_then(|domain| HttpUrl::parse(&format!("https://{domain}")).ok());
    if url.is_none() {
        p.add(key, "must be a trust domain: spiffe://NAME");
    }
    url
}

fn url(key: &str, text: &str, allow_http: bool, p: &mut Problems) -> Option<HttpUrl> {
    let url = match HttpUrl::parse(text) {
        Ok(url) => url,
        Err(what) => {
            p.add(key, what);
            return None;
        }
    };
    let allowed = url.is_https() || (allow_http && url.is_loopback());
    if !allowed {
        let what = if allow_http {
            "must be https, or http to a loopback address"
        } else {
            "must be https"
        };
        p.add(key, what);
    }
    Some(url)
}

fn algorithms(key: &str, kind: Kind, given: Option<&[String]>, p: &mut Problems) -> Vec<Algorithm> {
    let Some(names) = given else {
        return match kind {
            Kind::Kubernetes | Kind::People | Kind::Spiffe | Kind::Generic => {
                vec![Algorithm::Rs256, Algorithm::Es256]
            }
            _ => vec![Algorithm::Rs256],
        };
    };
    if names.is_empty() {
        p.add(key, "must name at least one algorithm");
    }
    let mut all = Vec::new();
    for (i, name) in names.iter().enumerate() {
        match Algorithm::parse(name) {
            Some(algorithm) if !all.contains(&algorithm) => all.push(algorithm),
            Some(_) => p.add(&format!("{key}[{i}]"), "is named twice"),
            None => {
                let what = format!("{name:?} is not a signature algorithm with a public key");
                p.add(&format!("{key}[{i}]"), what);
            }
        }
    }
    all
}

fn claims(key: &str, raw: &raw::IdentityIssuer, p: &mut Problems) -> BTreeMap<String, Vec<String>> {
    p.count(key, raw.claims.len(), 0, MAX_CLAIMS);
    let mut all = BTreeMap::new();
    for (name, values) in &raw.claims {
        let key = format!("{key}.{name}");
        let values = match values {
            raw::ClaimValues::One(value) => vec![value.clone()],
            raw::ClaimValues::Any(values) => values.clone(),
        };
        p.count(&key, values.len(), 1, MAX_VALUES);
        if name.is_empty() || values.iter().any(|v| v.is_empty() || v.len() > MAX_TEXT_BYTES) {
            p.add(&key, "values must be 1 to 512 bytes");
        }
        if matches!(name.as_str(), "iss" | "aud" | "exp" | "iat" | "nbf" | "jti") {
            p.add(&key, "is always checked and cannot be set here");
        }
        all.insert(name.clone(), values);
    }
    all
}

/// Refuses an issuer that gives tokens to strangers, unless a claim says whose are meant.
fn scope(key: &str, kind: Kind, raw: &raw::IdentityIssuer, p: &mut Problems) {
    let wanted: &[&str] = match kind {
        Kind::Github if raw.issuer == "https://token.actions.githubusercontent.com" => &[
            "repository_owner_id",
            "repository_owner",
            "repository_id",
            "repository",
            "enterprise_id",
            "enterprise",
        ],
        Kind::Gitlab => {
            &["runner_id", "namespace_id", "namespace_path", "project_id", "project_path"]
        }
        Kind::Buildkite => &["organization_id", "organization_slug"],
        Kind::AzureDevops => &["sub"],
        Kind::Circleci if !raw.issuer.contains("/org/") => {
            p.add(&format!("{key}.issuer"), "must be that of one organisation: .../org/ID");
            return;
        }
        _ => return,
    };
    if !wanted.iter().any(|name| raw.claims.contains_key(*name)) {
        let what = format!(
            "strangers get tokens of this issuer too: require one of {}",
            wanted.join(", ")
        );
        p.add(&format!("{key}.claims"), what);
    }
}

/// Whether the CI system makes the token before the job's first process.
fn in_environment(kind: Kind) -> bool {
    use Kind::{Bitbucket, Circleci, Gitlab, Jenkins, Spiffe};
    matches!(kind, Gitlab | Circleci | Bitbucket | Jenkins | Spiffe)
}

fn request_hosts(kind: Kind, url: &HttpUrl) -> Vec<HostPattern> {
    let vendor: &[&str] = match kind {
        Kind::Github if url.host() == "token.actions.githubusercontent.com" => {
            &["*.actions.githubusercontent.com"]
        }
        Kind::Buildkite => &["agent.buildkite.com", "agent-edge.buildkite.com"],
        Kind::AzureDevops => &["dev.azure.com", "*.visualstudio.com"],
        _ => &[],
    };
    let own = [url.host()];
    let hosts = if vendor.is_empty() || url.is_loopback() { &own[..] } else { vendor };
    hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect()
}

fn kind(raw: raw::IssuerKind) -> Kind {
    match raw {
        raw::IssuerKind::Github => Kind::Github,
        raw::IssuerKind::Gitlab => Kind::Gitlab,
        raw::IssuerKind::Buildkite => Kind::Buildkite,
        raw::IssuerKind::Circleci => Kind::Circleci,
        raw::IssuerKind::Bitbucket => Kind::Bitbucket,
        raw::IssuerKind::AzureDevops => Kind::AzureDevops,
        raw::IssuerKind::Jenkins => Kind::Jenkins,
        raw::IssuerKind::Kubernetes => Kind::Kubernetes,
        raw::IssuerKind::People => Kind::People,
        raw::IssuerKind::Spiffe => Kind::Spiffe,
        raw::IssuerKind::Generic => Kind::Generic,
    }
}

mod github_app;
#[cfg(test)]
mod tests;
