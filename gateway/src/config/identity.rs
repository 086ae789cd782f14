//! `[identity]`, checked and typed.
//!
//! - input: made by `validate`
//! - output: [`Identity`], [`Issuer`]
//! - bound: 64 issuers, 32 required claims each
//! - on failure: cannot fail

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::HostPattern;
use super::url::HttpUrl;

/// See `super::raw::Identity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Providers whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// Where jobs and logins of people are kept over a restart.
    pub state_dir: PathBuf,
    /// What becomes of traffic for which nobody vouches.
    pub require: Require,
    /// Hosts that everybody may ask.
    pub exempt: Vec<HostPattern>,
    /// Users whose processes may register CI jobs, beside root.
    pub runners: Vec<String>,
}

/// What becomes of traffic for which nobody vouches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    /// Nobody is asked who they are.
    Off,
    /// It is recorded as such.
    #[default]
    Record,
    /// It is refused.
    Deny,
}

/// See `super::raw::IdentityIssuer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Short name in records.
    pub name: String,
    /// `iss`, byte for byte.
    pub issuer: String,
    /// The same, parsed.
    pub url: HttpUrl,
    /// What issues the tokens.
    pub kind: Kind,
    /// `aud`.
    pub audience: String,
    /// Accepted signature algorithms; never none.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub keys: KeyLocation,
    /// Claims that must be there, with their accepted values.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Longest time between `iat` and `exp`.
    pub max_lifetime: Duration,
    /// Tolerance in every comparison of times.
    pub clock_skew: Duration,
    /// How much older than its process a token may be, beside the tolerance.
    pub max_age_at_start: Duration,
    /// The claim with the groups; `a.b` is claim `b` inside `a`.
    pub groups_claim: String,
    /// How people log in, for kind `people`.
    pub login: Option<Login>,
    /// Hosts that may be asked for a job's token.
    pub request_hosts: Vec<HostPattern>,
    /// How jobs without token are looked up, for kind `github`.
    pub github_app: Option<GithubApp>,
    /// Plain HTTP, to loopback only.
    pub danger_allow_http: bool,
    /// CircleCI jobs with SSH access.
    pub danger_allow_ssh_rerun: bool,
}

impl Issuer {
    /// Whether a URL may be asked at all: `https`, or plain HTTP to loopback where that is allowed.
    pub fn allows(&self, url: &HttpUrl) -> bool {
        url.is_https() || (self.danger_allow_http && url.is_loopback())
    }
}

/// How people log in with weir as a client of the provider; its id is [`Issuer::audience`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Without one, weir is a public client.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for.
    pub scopes: Vec<String>,
}

/// A GitHub App that may read the jobs of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GithubApp {
    /// Its id or client id.
    pub id: String,
    /// Its private key.
    pub key_file: PathBuf,
    /// Whose repositories.
    pub installation: u64,
    /// Runners of this host; a `*` at the end stands for any rest.
    pub runners: Vec<String>,
    /// The API.
    pub api: HttpUrl,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// Where its metadata says.
    Discovery,
    /// There.
    Url(HttpUrl),
    /// In this file.
    File(PathBuf),
}

/// What issues tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
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
    /// Workloads of a SPIFFE trust domain.
    Spiffe,
    /// Anything else.
    Generic,
}

impl Kind {
    /// The value in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Buildkite => "buildkite",
            Self::Circleci => "circleci",
            Self::Bitbucket => "bitbucket",
            Self::AzureDevops => "azure-devops",
            Self::Jenkins => "jenkins",
            Self::Kubernetes => "kubernetes",
            Self::People => "people",
            Self::Spiffe => "spiffe",
            Self::Generic => "generic",
        }
    }
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037). Those without a public key do not exist
/// here, so that no configuration can allow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5, SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5, SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5, SHA-512.
    Rs512,
    /// RSASSA-PSS, SHA-256.
    Ps256,
    /// RSASSA-PSS, SHA-384.
    Ps384,
    /// RSASSA-PSS, SHA-512.
    Ps512,
    /// ECDSA, P-256, SHA-256.
    Es256,
    /// ECDSA, P-384, SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// By its name in a header or in the configuration; the case counts.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}
