//! Configuration: one TOML file, parsed ([`raw`]), checked as a whole ([`validate`]) and typed here.
//!
//! - input: the text of `weir.toml`
//! - output: [`Config`]
//! - bound: the file is at most 1 MiB
//! - on failure: [`ConfigError`] lists every problem with its path; nothing starts

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod identity;
pub mod inspect;
pub mod raw;
pub mod spiffe;
pub mod units;
pub mod url;
pub mod validate;

/// A checked configuration. Nothing validates again after this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names that go into every record.
    pub host: Host,
    /// The kernel side.
    pub capture: Capture,
    /// The data path.
    pub gateway: Gateway,
    /// Certificates, both sides.
    pub tls: Tls,
    /// The resolver of captured processes.
    pub dns: Dns,
    /// Whose tokens are believed.
    pub identity: identity::Identity,
    /// What is done about secrets.
    pub inspect: inspect::Inspect,
    /// What to do with flows that cannot be inspected.
    pub policy: Policy,
    /// What is recorded.
    pub record: Record,
    /// Records on disk until ClickHouse has them.
    pub spool: Spool,
    /// ClickHouse, embedded or remote.
    pub store: Store,
    /// Health and metrics.
    pub admin: Admin,
    /// The OCI runtime.
    pub containers: Containers,
    /// The proxy before Docker's socket.
    pub docker: Docker,
}

/// See [`raw::Host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Stable host name, `None` to use the machine id.
    pub id: Option<String>,
    /// Owning organisation.
    pub org: String,
    /// Owning project.
    pub project: String,
}

/// See [`raw::Capture`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Captured cgroup, relative to the cgroup2 mount.
    pub cgroup: PathBuf,
    /// The gateway's own cgroup, relative to the cgroup2 mount; never inside `cgroup`.
    pub gateway_cgroup: PathBuf,
    /// Directory in bpffs for pinned links and maps.
    pub pin_dir: PathBuf,
    /// Destinations that are not redirected.
    pub exclude: Vec<Net>,
    /// Whether DNS over UDP may leave.
    pub allow_dns: bool,
    /// Network devices with a packet filter; `*` is all but loopback.
    pub devices: Vec<String>,
    /// Whether nftables guards the network namespace.
    pub nftables: bool,
    /// Whether traffic passes unseen while no gateway is alive.
    pub danger_fail_open: bool,
    /// Bridges whose containers can be captured.
    pub bridges: Vec<String>,
}

/// An address range, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Any address of the range.
    pub addr: IpAddr,
    /// Leading bits that count.
    pub prefix_len: u8,
}

/// See [`raw::Gateway`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Port on 127.0.0.1 and ::1 that captured connections arrive at; 0 picks one (tests).
    pub port: u16,
    /// Addresses from 127.0.0.1 on that have it.
    pub addresses: u16,
    /// User that it runs under; see [`raw::Gateway::user`].
    pub user: Option<String>,
    /// Worker threads, each with its own runtime and listener.
    pub workers: usize,
    /// Concurrent flows.
    pub max_connections: usize,
    /// From accept to the end of the downstream handshake.
    pub handshake_timeout: Duration,
    /// From the first byte wanted to the last byte of a request head; also the keep-alive time.
    pub head_timeout: Duration,
    /// A flow without a byte in either direction is closed after this.
    pub idle_timeout: Duration,
    /// TCP connect and TLS handshake with upstream.
    pub connect_timeout: Duration,
    /// Open flows get this long at shutdown.
    pub drain_timeout: Duration,
    /// And this long after a newer gateway took over.
    pub handover_timeout: Duration,
}

/// See [`raw::Tls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Directory of the issuing CA: `ca.pem` and `ca.key`.
    pub ca_dir: PathBuf,
    /// PEM files with further trusted roots for upstream.
    pub extra_roots: Vec<PathBuf>,
    /// Host names that are not decrypted.
    pub passthrough: Vec<HostPattern>,
    /// Validity of minted leaves.
    pub leaf_lifetime: Duration,
}

/// `example.com`, or `*.example.com` for every name below it. A `*` elsewhere stands for a part of one
/// label: `api.*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

impl HostPattern {
    /// Parses and lower-cases a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '*');
        let bare = name.chars().all(|c| matches!(c, '*' | '.'));
        if bare || !name.chars().all(plain) {
            return Err(format!("{text:?} is not a host name or *.host name"));
        }
        Ok(Self { name, below })
    }

    /// Whether a lower-case host name falls under this pattern.
    pub fn matches(&self, host: &str) -> bool {
        if self.name.contains('*') {
            return self.matches_labels(host);
        }
        if self.below {
            host.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.name
        }
    }

    /// From the right, label by label.
    fn matches_labels(&self, host: &str) -> bool {
        let mut labels = host.rsplit('.');
        let all =
            self.name.rsplit('.').all(|wanted| labels.next().is_some_and(|l| part(wanted, l)));
        all && labels.next().is_some() == self.below
    }
}

/// Whether a label is this one, in which each `*` stands for any characters.
fn part(wanted: &str, label: &str) -> bool {
    let Some((before, after)) = wanted.split_once('*') else { return wanted == label };
    let Some(rest) = label.strip_prefix(before) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| rest.get(at..).is_some_and(|rest| part(after, rest)))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// What to do with a flow that cannot be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowRule {
    /// Forward and record it.
    Forward,
    /// Close and record it.
    Refuse,
}

/// See [`raw::Dns`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Port on 127.0.0.1 and ::1; 0 picks one (tests).
    pub port: u16,
    /// Servers that answer; none for those of resolv.conf(5).
    pub upstream: Vec<SocketAddr>,
    /// Names that are not looked up.
    pub refuse: Vec<HostPattern>,
    /// Queries waiting for an answer.
    pub max_inflight: usize,
    /// TCP connections.
    pub max_connections: usize,
    /// For one query.
    pub timeout: Duration,
}

/// What to do about destinations that a name was not resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsCheck {
    /// Nothing.
    Off,
    /// Record what was found.
    Record,
    /// Record, and refuse what is not known.
    Enforce,
}

/// See [`raw::Policy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// HTTP without TLS.
    pub plain_http: FlowRule,
    /// TCP that is neither TLS nor HTTP.
    pub opaque_tcp: FlowRule,
    /// Server names and destinations.
    pub dns_check: DnsCheck,
}

/// See [`raw::Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes recorded of each body; 0 records none.
    pub max_body_bytes: usize,
    /// Memory for bodies on their way to the spool, all exchanges together.
    pub max_memory_bytes: usize,
    /// How long flows and exchanges are kept.
    pub retain_metadata: Duration,
    /// How long bodies are kept.
    pub retain_bodies: Duration,
}

/// See [`raw::Spool`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Where.
    pub dir: PathBuf,
    /// Disk space for all segments.
    pub max_bytes: u64,
    /// A segment is sealed at this size.
    pub max_segment_bytes: u64,
    /// A segment with records is sealed at this age.
    pub seal_after: Duration,
    /// Written records reach the disk within this time.
    pub sync_every: Duration,
}

/// See [`raw::Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// A ClickHouse server; `None` is the embedded store on `socket`.
    pub url: Option<String>,
    /// Database, on either.
    pub database: String,
    /// User of the server.
    pub user: String,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
    /// Unix socket of the embedded store.
    pub socket: PathBuf,
    /// Data directory of the embedded store.
    pub data_dir: PathBuf,
    /// `libchdb.so`; `None` searches the usual places.
    pub engine: Option<PathBuf>,
    /// Memory cap of the embedded engine.
    pub max_memory_bytes: u64,
}

/// See [`raw::Admin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket for health and metrics.
    pub socket: PathBuf,
}

/// See [`raw::Containers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containers {
    /// The real runtime; `None` searches the usual places.
    pub runtime: Option<PathBuf>,
    /// Whether system bundles are covered.
    pub system_bundle: bool,
    /// Whether containers keep `CAP_NET_RAW`.
    pub net_raw: bool,
}

/// See [`raw::Docker`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// Whether `weir up` starts the proxy.
    pub enabled: bool,
    /// Its socket.
    pub listen: PathBuf,
    /// Group that may use it.
    pub group: Option<String>,
    /// Docker's own socket.
    pub upstream: PathBuf,
    /// Further directories that captured jobs must not mount.
    pub protect: Vec<PathBuf>,
}

/// Every problem of a configuration, each with its path.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file is larger than 1 MiB.
    #[error("{} is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    /// Not TOML, or unknown or ill-typed keys.
    #[error("{0}")]
    Parse(String),
    /// Well-formed, but these values are wrong.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl Config {
    /// Where `weir guard` answers: beside `admin.socket`.
    pub fn guard_socket(&self) -> PathBuf {
        self.admin.socket.with_file_name("guard.sock")
    }

    /// Where a newer gateway asks this one for its sockets: beside `admin.socket`.
    pub fn handover_socket(&self) -> PathBuf {
        self.admin.socket.with_file_name("handover.sock")
    }

    /// Where listeners inside other network namespaces are handed to the gateway: beside
    /// `admin.socket`.
    pub fn orders_socket(&self) -> PathBuf {
        self.admin.socket.with_file_name("netns.sock")
    }

    /// Where hooks and people talk about identities: beside `admin.socket`.
    pub fn identity_socket(&self) -> PathBuf {
        self.admin.socket.with_file_name("identity.sock")
    }

    /// Reads, parses and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?)
    }

    /// Parses and checks a text.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] or [`ConfigError::Invalid`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: raw::Raw = toml::from_str(text).map_err(|e| ConfigError::Parse(e.to_string()))?;
        validate::validate(&raw).map_err(ConfigError::Invalid)
    }
}

#[cfg(test)]
mod tests;
