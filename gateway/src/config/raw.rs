//! The configuration file as written: serde structures with a default and a range for every key.
//!
//! - input: TOML
//! - output: [`Raw`]
//! - bound: see `super::Config::load`
//! - on failure: unknown keys and wrong types are errors that name the key
//!
//! The doc comment of each field is its documentation: unit, default, range.

use std::path::PathBuf;

use serde::Deserialize;

mod identity;
mod inspect;

pub use identity::{ClaimValues, Identity, IdentityIssuer, IssuerKind, Require};
pub use inspect::{Egress, Inspect, InspectImport, InspectKnown, InspectRoute, Mode};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
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
    pub identity: Identity,
    /// What is done about secrets.
    pub inspect: Inspect,
    /// Flows that cannot be inspected.
    pub policy: Policy,
    /// What is recorded.
    pub record: Record,
    /// Records on disk until ClickHouse has them.
    pub spool: Spool,
    /// ClickHouse, embedded or remote.
    pub store: Store,
    /// Health and metrics.
    pub admin: Admin,
    /// The OCI runtime (`weir oci-runtime`), see `docs/docker.md`.
    pub containers: Containers,
    /// The proxy before Docker's socket (`weir docker-proxy`), see `docs/docker.md`.
    pub docker: Docker,
}

/// `[host]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Stable name of this host in every record. Default: the machine id.
    pub id: Option<String>,
    /// Organisation that owns it. Default: empty.
    pub org: String,
    /// Project that owns it. Default: empty.
    pub project: String,
}

/// `[capture]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Captured cgroup, relative to the cgroup2 mount; its children are captured too.
    /// Default: `weir/captured`.
    pub cgroup: PathBuf,
    /// The gateway's own cgroup, relative to the cgroup2 mount, not below `cgroup`.
    /// Default: `weir/gateway`.
    pub gateway_cgroup: PathBuf,
    /// bpffs directory for pinned links and maps. Default: `/sys/fs/bpf/weir`.
    pub pin_dir: PathBuf,
    /// Destinations that are not redirected, as `address/prefix`. Loopback only by default,
    /// because every further entry is a way around the gateway. Default: `["127.0.0.0/8"]`;
    /// `::1` is always excluded.
    pub exclude: Vec<String>,
    /// Let DNS over UDP (port 53) of sockets leave that were connected before weir attached; later
    /// ones go to the resolver. Default: `false`.
    pub allow_dns: bool,
    /// Network devices that get a filter against packet sockets; `"*"` is all but loopback. Those
    /// that appear later get it by `weir attach --repair`. Default: `["*"]`.
    pub devices: Vec<String>,
    /// Guard the network namespace with an nftables table, too. Default: `true`; where nft is
    /// missing this layer is reported as not active.
    pub nftables: bool,
    /// DANGEROUS. While no gateway is alive (no beat for 2 s, or none ever), captured TCP connects
    /// and DNS pass unseen instead of being refused; only their number is recorded. Turns the
    /// nftables table off. Default: `false`: everything is refused without a gateway.
    pub danger_fail_open: bool,
    /// Bridges of this host whose containers can be captured, such as `["docker0"]`. Everything that
    /// arrives by them and is not TCP to the gateway or DNS to the resolver is refused. Needs nft and
    /// ip. Default: none. At most 64.
    pub bridges: Vec<String>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            cgroup: "weir/captured".into(),
            gateway_cgroup: "weir/gateway".into(),
            pin_dir: "/sys/fs/bpf/weir".into(),
            exclude: vec!["127.0.0.0/8".into()],
            allow_dns: false,
            devices: vec!["*".into()],
            nftables: true,
            danger_fail_open: false,
            bridges: Vec::new(),
        }
    }
}

/// `[gateway]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Port on 127.0.0.1 and ::1. Default: 15443. Range: 1 to 65535.
    pub port: u16,
    /// Addresses from 127.0.0.1 on that have this port. Each allows captured IPv4 sockets as many
    /// concurrent connections as there are ephemeral ports (28232 by default). Default: 4.
    /// Range: 1 to 64.
    pub addresses: u16,
    /// User that it runs under, with no capability. Default: `weir`, or where that user does not
    /// exist a number from 64800 on that nobody has. `root` keeps the user id 0.
    pub user: Option<String>,
    /// Worker threads. Default: 0, one per core. Range: 0 to 256.
    pub workers: usize,
    /// Concurrent flows; further ones are refused and counted. Default: 16384. Range: 1 to 200000.
    pub max_connections: usize,
    /// From accept to the end of the client's handshake. Default: `"10s"`. Range: 100 ms to 5 min.
    pub handshake_timeout: String,
    /// For a whole request head, and for the wait between two requests of a connection.
    /// Default: `"60s"`. Range: 100 ms to 1 h.
    pub head_timeout: String,
    /// A flow without a byte in either direction is closed. Default: `"15m"`. Range: 1 s to 24 h.
    pub idle_timeout: String,
    /// TCP connect and TLS handshake with the destination. Default: `"10s"`.
    /// Range: 100 ms to 5 min.
    pub connect_timeout: String,
    /// What open flows get at shutdown. Default: `"10s"`. Range: 0 to 1 h.
    pub drain_timeout: String,
    /// What open flows of a gateway get after a newer one has taken its place. Default: `"10m"`.
    /// Range: 0 to 24 h.
    pub handover_timeout: String,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            port: 15443,
            addresses: 4,
            user: None,
            workers: 0,
            max_connections: 16_384,
            handshake_timeout: "10s".into(),
            head_timeout: "60s".into(),
            idle_timeout: "15m".into(),
            connect_timeout: "10s".into(),
            drain_timeout: "10s".into(),
            handover_timeout: "10m".into(),
        }
    }
}

/// `[tls]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Directory of the issuing CA, made at first start. Default: `/var/lib/weir/ca`.
    pub ca_dir: PathBuf,
    /// PEM files with roots that are trusted beside the system's. Default: none.
    pub extra_roots: Vec<PathBuf>,
    /// Host names (`name` or `*.name`) that pass through undecrypted and are recorded as flows.
    /// Default: none.
    pub passthrough: Vec<String>,
    /// Validity of minted leaves. Default: `"24h"`. Range: 1 h to 30 d.
    pub leaf_lifetime: String,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca_dir: "/var/lib/weir/ca".into(),
            extra_roots: Vec::new(),
            passthrough: Vec::new(),
            leaf_lifetime: "24h".into(),
        }
    }
}

/// `[dns]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Port on 127.0.0.1 and ::1, UDP and TCP. Default: 15053. Range: 1 to 65535.
    pub port: u16,
    /// Servers that answer, as `address:port`, asked in this order; at most 8. Default: those of
    /// `/etc/resolv.conf`, read at start.
    pub upstream: Vec<String>,
    /// Host names (`name` or `*.name`) that are not looked up, neither themselves nor as an alias.
    /// The answer is REFUSED. Default: none.
    pub refuse: Vec<String>,
    /// Queries waiting for an answer; further ones are dropped and counted. Default: 1024.
    /// Range: 1 to 16384.
    pub max_inflight: usize,
    /// TCP connections; further ones are closed and counted. Default: 256. Range: 1 to 16384.
    pub max_connections: usize,
    /// For one query, over all servers and attempts. Default: `"5s"`. Range: 100 ms to 1 min.
    pub timeout: String,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            port: 15053,
            upstream: Vec::new(),
            refuse: Vec::new(),
            max_inflight: 1024,
            max_connections: 256,
            timeout: "5s".into(),
        }
    }
}

/// Value of `policy.dns_check`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsCheck {
    /// Do not compare.
    Off,
    /// Compare and record.
    Record,
    /// Refuse what does not fit.
    Enforce,
}

/// Value of the keys of `[policy]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowRule {
    /// Forward and record.
    Forward,
    /// Close and record.
    Refuse,
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// HTTP without TLS: `forward` or `refuse`. Default: `forward`.
    pub plain_http: FlowRule,
    /// TCP that is neither TLS nor HTTP: `forward` or `refuse`. Default: `refuse`.
    pub opaque_tcp: FlowRule,
    /// Whether the address of a TLS flow is one that weir's resolver answered for its server name:
    /// `off`, `record`, or `enforce`, which refuses every other flow with a server name.
    /// Default: `record`.
    pub dns_check: DnsCheck,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            plain_http: FlowRule::Forward,
            opaque_tcp: FlowRule::Refuse,
            dns_check: DnsCheck::Record,
        }
    }
}

/// `[record]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// Bytes recorded of each body; the rest is only counted and hashed. `"0B"` records none.
    /// Default: `"1MiB"`. Range: 0 to 16 MiB.
    pub max_body: String,
    /// Memory for bodies on their way to the spool; beyond it bodies are dropped and counted.
    /// Default: `"256MiB"`. Range: 1 MiB to 64 GiB.
    pub max_memory: String,
    /// How long flows and exchanges are kept. Default: `"400d"`. Range: 1 h to 3650 d.
    pub retain_metadata: String,
    /// How long bodies are kept. Default: `"90d"`. Range: 1 h to 3650 d.
    pub retain_bodies: String,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            max_body: "1MiB".into(),
            max_memory: "256MiB".into(),
            retain_metadata: "400d".into(),
            retain_bodies: "90d".into(),
        }
    }
}

/// `[spool]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// Where. Default: `/var/lib/weir/spool`.
    pub dir: PathBuf,
    /// Disk space for all segments; when it is used up, new flows are refused.
    /// Default: `"8GiB"`. Range: 16 MiB to 1 TiB, and at least four segments.
    pub max_size: String,
    /// A segment is sealed at this size. Default: `"32MiB"`. Range: 64 KiB to 64 MiB.
    pub max_segment: String,
    /// A segment with records is sealed at this age: the delay until a query can see them.
    /// Default: `"1s"`. Range: 10 ms to 10 min.
    pub seal_after: String,
    /// Written records reach the disk within this time. Default: `"200ms"`. Range: 1 ms to 1 min.
    pub sync_every: String,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            dir: "/var/lib/weir/spool".into(),
            max_size: "8GiB".into(),
            max_segment: "32MiB".into(),
            seal_after: "1s".into(),
            sync_every: "200ms".into(),
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// A ClickHouse server, such as `http://clickhouse.example:8123`. Default: the embedded store.
    pub url: Option<String>,
    /// Database. Default: `weir`. Letters, digits and `_`.
    pub database: String,
    /// User of the server. Default: `weir`.
    pub user: String,
    /// File with that user's password. Default: none.
    pub password_file: Option<PathBuf>,
    /// Unix socket of the embedded store. Default: `/run/weir/store.sock`.
    pub socket: PathBuf,
    /// Data directory of the embedded store. Default: `/var/lib/weir/store`.
    pub data_dir: PathBuf,
    /// `libchdb.so` of the embedded store. Default: searched in `/usr/lib/weir`,
    /// `/usr/local/lib/weir` and `/usr/local/lib`.
    pub engine: Option<PathBuf>,
    /// Memory cap of the embedded engine. Default: `"2GiB"`. Range: 512 MiB to 1 TiB.
    pub max_memory: String,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            database: "weir".into(),
            user: "weir".into(),
            password_file: None,
            socket: "/run/weir/store.sock".into(),
            data_dir: "/var/lib/weir/store".into(),
            engine: None,
            max_memory: "2GiB".into(),
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Unix socket that answers `/health` and `/metrics`. Default: `/run/weir/admin.sock`.
    pub socket: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: "/run/weir/admin.sock".into() }
    }
}

/// `[containers]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// The real OCI runtime, runc or crun. Default: the first `runc` in `PATH`, `/usr/sbin`,
    /// `/usr/bin`, `/usr/local/sbin`, `/usr/local/bin`.
    pub runtime: Option<PathBuf>,
    /// Mount the bundle with weir's CA over the system bundles that an image has, for programs that
    /// read no environment variable. Default: `true`.
    pub system_bundle: bool,
    /// Leave `CAP_NET_RAW` to containers that have it. The hooks of a cgroup do not see what a packet
    /// socket sends. Default: `false`.
    pub net_raw: bool,
}

impl Default for Containers {
    fn default() -> Self {
        Self { runtime: None, system_bundle: true, net_raw: false }
    }
}

/// `[docker]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Docker {
    /// Whether `weir up` starts the proxy. Default: `false`.
    pub enabled: bool,
    /// Socket of the proxy: what captured jobs use. Default: `/run/weir/docker.sock`.
    pub listen: PathBuf,
    /// Group that may use it, by name. Default: root only.
    pub group: Option<String>,
    /// Docker's own socket, which captured jobs must not be able to open. Default:
    /// `/run/docker.sock`.
    pub upstream: PathBuf,
    /// Directories of the host that captured jobs must not mount into a container, beside those that
    /// `docs/docker.md` lists. Default: none.
    pub protect: Vec<PathBuf>,
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: "/run/weir/docker.sock".into(),
            group: None,
            upstream: "/run/docker.sock".into(),
            protect: Vec::new(),
        }
    }
}
