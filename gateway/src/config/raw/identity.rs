//! `[identity]` as written: whose tokens are believed.
//!
//! - input: TOML
//! - output: [`Identity`]
//! - bound: see `super::super::Config::load`
//! - on failure: unknown keys and wrong types are errors that name the key

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// `[identity]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// Directory where jobs (without tokens) and logins of people (with their refresh tokens) outlive
    /// a restart: for the gateway's user alone. Default: `/var/lib/weir/identity`.
    pub state_dir: Option<PathBuf>,
    /// Providers whose tokens are believed; no others are. At most 64. Default: none.
    pub issuer: Vec<IdentityIssuer>,
    /// Traffic of processes for which no provider vouches: `off` (nobody is asked), `record`, `deny`.
    /// What was revoked is refused with `record`, too. Default: `"record"`.
    pub require: Require,
    /// Host names (`name` or `*.name`) that everybody may ask with `require = "deny"`, if the
    /// connection is decrypted: those that a runner needs between jobs. Default: none.
    pub exempt: Vec<String>,
    /// Users (name or number) whose processes may register CI jobs, beside root. At most 64.
    /// Default: none.
    pub runners: Vec<String>,
}

/// Value of `identity.require`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Nobody is asked.
    Off,
    /// Recorded.
    #[default]
    Record,
    /// Refused.
    Deny,
}

/// Value of `identity.issuer.kind`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssuerKind {
    /// GitHub Actions.
    Github,
    /// GitLab CI.
    Gitlab,
    /// Buildkite.
    Buildkite,
    /// CircleCI.
    Circleci,
    /// Bitbucket Pipelines.
    Bitbucket,
    /// Azure Pipelines.
    AzureDevops,
    /// Jenkins with the plugin oidc-provider.
    Jenkins,
    /// Service accounts of a cluster.
    Kubernetes,
    /// People who log in.
    People,
    /// JWT-SVIDs of a SPIFFE trust domain.
    Spiffe,
    /// Anything else that issues signed JWTs.
    Generic,
}

/// Value of an entry of `identity.issuer.claims`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ClaimValues {
    /// This value.
    One(String),
    /// One of these.
    Any(Vec<String>),
}

/// `[[identity.issuer]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityIssuer {
    /// Short name of the provider in records: letters, digits, `-` and `_`; unique.
    pub name: String,
    /// The claim `iss` of its tokens, byte for byte (a slash at the end counts); an `https` URL.
    /// Unique.
    /// For `spiffe` the trust domain, `spiffe://NAME`: it vouches for the `sub` of its tokens.
    pub issuer: String,
    /// What issues the tokens: `github`, `gitlab`, `buildkite`, `circleci`, `bitbucket`,
    /// `azure-devops`, `jenkins`, `kubernetes`, `people`, `spiffe` or `generic`.
    pub kind: IssuerKind,
    /// The claim `aud` that tokens for weir have. Required; for `azure-devops`, which has no other,
    /// the default is `api://AzureADTokenExchange`. For `people` it is the client id.
    pub audience: Option<String>,
    /// For `people`: weir's client id at the provider, another name of `audience`.
    pub client_id: Option<String>,
    /// For `people`: file with weir's client secret, at most 4 KiB; white space around it does not
    /// count. Default: none, weir is a public client and PKCE protects its codes.
    pub client_secret_file: Option<PathBuf>,
    /// For `people`: what is asked for. `openid` must be among it; without `offline_access` most
    /// providers let no login live longer than its first id token. At most 32.
    /// Default: `["openid", "email", "profile", "groups", "offline_access"]`.
    pub scopes: Option<Vec<String>>,
    /// The claim with the groups of a person or a service, a list; `a.b` means claim `b` inside
    /// `a`. Default: `"groups"`.
    pub groups_claim: Option<String>,
    /// Signature algorithms that are accepted: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`,
    /// `ES256`, `ES384`, `EdDSA`. Default: `["RS256"]`; `["RS256", "ES256"]` for `kubernetes`,
    /// `people`, `spiffe` and `generic`.
    pub algorithms: Option<Vec<String>>,
    /// Where its keys (JWKS) are, if not where its metadata (`/.well-known/openid-configuration`)
    /// says. `spiffe` has no metadata: this or `jwks_file` is required. Default: the metadata is
    /// asked.
    pub jwks_url: Option<String>,
    /// File with its keys (JWKS), read at start; nothing is fetched then. For `spiffe` it is read
    /// again every 10 minutes, as the trust domain's bundle changes. Default: none.
    pub jwks_file: Option<PathBuf>,
    /// Claims that a token must have, each with the value or the list of values that are accepted;
    /// `a.b` means claim `b` inside `a`, and of a list one entry must fit. At most 32. Required
    /// where strangers get tokens of the same issuer: `organization_slug` or `organization_id` for
    /// `buildkite`, `sub` for `azure-devops`, an owner, repository or enterprise for `github` on
    /// github.com, a runner, namespace or project for `gitlab`. Default: none.
    #[serde(default)]
    pub claims: BTreeMap<String, ClaimValues>,
    /// Longest time between `iat` and `exp`. Default: `"24h"` for `gitlab`, `"1h"` otherwise.
    /// Range: 1 min to 7 d.
    pub max_lifetime: Option<String>,
    /// How far the provider's clock and this host's may differ. Default: `"60s"`.
    /// Range: 0 to 150 s.
    pub clock_skew: Option<String>,
    /// How long before the job's first process its token may have been issued, beside
    /// `clock_skew`. Default: `"10m"` where the CI system puts the token into the environment
    /// (`gitlab`, `circleci`, `bitbucket`, `jenkins`, `spiffe`), `"0s"` otherwise. Range: 0 to 24 h.
    pub max_age_at_start: Option<String>,
    /// Host names (`name` or `*.name`) that weir asks for a job's token when the job's environment
    /// says so. Default: those of the vendor for `github`, `buildkite` and `azure-devops`, else the
    /// host of `issuer`.
    pub request_hosts: Option<Vec<String>>,
    /// For `github`: id (or client id) of a GitHub App that weir looks jobs up with which have no
    /// `id-token: write`. It needs `actions: read`. Default: none, such jobs are unidentified.
    pub app_id: Option<String>,
    /// For `github`: file with the App's private key (PEM, at most 16 KiB), which not everybody may
    /// read. Required with `app_id`.
    pub app_key_file: Option<PathBuf>,
    /// For `github`: number of the App's installation, whose repositories are looked in.
    /// Required with `app_id`.
    pub app_installation: Option<u64>,
    /// For `github`: names of the runners on this host; `name*` is every name that begins so. At most
    /// 64. Required with `app_id`: jobs on other runners are not believed.
    pub app_runners: Option<Vec<String>>,
    /// For `github`: URL of the API. Default: `"https://api.github.com"`.
    pub app_api: Option<String>,
    /// Allow `http` for all URLs of this provider, to loopback addresses only. Default: `false`.
    #[serde(default)]
    pub danger_allow_http: bool,
    /// Accept CircleCI jobs that were started again with SSH access. Default: `false`.
    #[serde(default)]
    pub danger_allow_ssh_rerun: bool,
}
