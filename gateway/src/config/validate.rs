//! Checks a parsed configuration as a whole and types it. Pure: no files, no network, no kernel.
//!
//! - input: [`raw::Raw`]
//! - output: [`Config`]
//! - bound: none
//! - on failure: every problem, each with the path of its key

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path};
use std::time::Duration;

use super::{Config, DnsCheck, FlowRule, HostPattern, Net, raw, units};

mod identity;
mod inspect;

/// Collects problems instead of stopping at the first.
#[derive(Default)]
struct Problems(Vec<String>);

/// Checks and types.
///
/// # Errors
/// All problems, as `key: what is wrong`.
pub fn validate(raw: &raw::Raw) -> Result<Config, Vec<String>> {
    let mut p = Problems::default();
    let config = Config {
        host: super::Host {
            id: raw.host.id.clone(),
            org: raw.host.org.clone(),
            project: raw.host.project.clone(),
        },
        capture: capture(&raw.capture, &mut p),
        gateway: gateway(&raw.gateway, &mut p),
        tls: tls(&raw.tls, &mut p),
        dns: dns(&raw.dns, raw.gateway.port, &mut p),
        identity: identity::checked(&raw.identity, &mut p),
        inspect: inspect::checked(&raw.inspect, &mut p),
        policy: super::Policy {
            plain_http: rule(raw.policy.plain_http),
            opaque_tcp: rule(raw.policy.opaque_tcp),
            dns_check: match raw.policy.dns_check {
                raw::DnsCheck::Off => DnsCheck::Off,
                raw::DnsCheck::Record => DnsCheck::Record,
                raw::DnsCheck::Enforce => DnsCheck::Enforce,
            },
        },
        record: record(&raw.record, &mut p),
        spool: spool(&raw.spool, &mut p),
        store: store(&raw.store, &mut p),
        admin: super::Admin { socket: raw.admin.socket.clone() },
        containers: containers(&raw.containers, &mut p),
        docker: docker(&raw.docker, &mut p),
    };
    if p.0.is_empty() { Ok(config) } else { Err(p.0) }
}

impl Problems {
    fn add(&mut self, key: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{key}: {what}"));
    }

    fn duration(&mut self, key: &str, text: &str, least: &str, most: &str) -> Duration {
        let value = match units::duration(text) {
            Ok(value) => value,
            Err(what) => {
                self.add(key, what);
                return Duration::ZERO;
            }
        };
        let within = |bound: &str| units::duration(bound).unwrap_or_default();
        if value < within(least) || value > within(most) {
            self.add(key, format!("{text:?} is not between {least} and {most}"));
        }
        value
    }

    fn size(&mut self, key: &str, text: &str, least: &str, most: &str) -> u64 {
        let value = match units::size(text) {
            Ok(value) => value,
            Err(what) => {
                self.add(key, what);
                return 0;
            }
        };
        let within = |bound: &str| units::size(bound).unwrap_or_default();
        if value < within(least) || value > within(most) {
            self.add(key, format!("{text:?} is not between {least} and {most}"));
        }
        value
    }

    fn patterns(&mut self, key: &str, texts: &[String]) -> Vec<HostPattern> {
        let mut patterns = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            match HostPattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(what) => self.add(&format!("{key}[{i}]"), what),
            }
        }
        patterns
    }

    fn count(&mut self, key: &str, value: usize, least: usize, most: usize) -> usize {
        if value < least || value > most {
            self.add(key, format!("{value} is not between {least} and {most}"));
        }
        value
    }
}

fn dns(raw: &raw::Dns, gateway_port: u16, p: &mut Problems) -> super::Dns {
    let port = p.count("dns.port", usize::from(raw.port), 1, 65_535);
    if port == usize::from(gateway_port) {
        p.add("dns.port", "must not be gateway.port");
    }
    let mut upstream = Vec::new();
    for (i, text) in raw.upstream.iter().enumerate() {
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() != 0 => upstream.push(addr),
            _ => {
                let what = format!("{text:?} is not an address and port such as \"192.0.2.1:53\"");
                p.add(&format!("dns.upstream[{i}]"), what);
            }
        }
    }
    p.count("dns.upstream", raw.upstream.len(), 0, 8);
    super::Dns {
        port: raw.port,
        upstream,
        refuse: p.patterns("dns.refuse", &raw.refuse),
        max_inflight: p.count("dns.max_inflight", raw.max_inflight, 1, 16_384),
        max_connections: p.count("dns.max_connections", raw.max_connections, 1, 16_384),
        timeout: p.duration("dns.timeout", &raw.timeout, "100ms", "1m"),
    }
}

fn rule(raw: raw::FlowRule) -> FlowRule {
    match raw {
        raw::FlowRule::Forward => FlowRule::Forward,
        raw::FlowRule::Refuse => FlowRule::Refuse,
    }
}

fn capture(raw: &raw::Capture, p: &mut Problems) -> super::Capture {
    for (key, path) in
        [("capture.cgroup", &raw.cgroup), ("capture.gateway_cgroup", &raw.gateway_cgroup)]
    {
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            p.add(key, "must be a relative path below the cgroup2 mount, never its root");
        }
    }
    if raw.gateway_cgroup.starts_with(&raw.cgroup) {
        p.add(
            "capture.gateway_cgroup",
            "must not be inside capture.cgroup: it would capture itself",
        );
    }
    if !raw.pin_dir.is_absolute() || raw.pin_dir.parent().is_none_or(|d| d == Path::new("/")) {
        p.add("capture.pin_dir", "must be an absolute path of a directory in bpffs");
    }
    let mut exclude = Vec::new();
    for (i, text) in raw.exclude.iter().enumerate() {
        match net(text) {
            Ok(net) => exclude.push(net),
            Err(what) => p.add(&format!("capture.exclude[{i}]"), what),
        }
    }
    p.count("capture.bridges", raw.bridges.len(), 0, 64);
    for (i, name) in raw.bridges.iter().enumerate() {
        // They become part of nft's and ip's programs.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 15 || !name.chars().all(plain) || name.starts_with('-') {
            p.add(&format!("capture.bridges[{i}]"), format!("{name:?} is not a device name"));
        }
    }
    super::Capture {
        cgroup: raw.cgroup.clone(),
        gateway_cgroup: raw.gateway_cgroup.clone(),
        pin_dir: raw.pin_dir.clone(),
        exclude,
        allow_dns: raw.allow_dns,
        devices: raw.devices.clone(),
        nftables: raw.nftables,
        danger_fail_open: raw.danger_fail_open,
        bridges: raw.bridges.clone(),
    }
}

fn net(text: &str) -> Result<Net, String> {
    let wrong = || format!("{text:?} is not an address range such as \"10.0.0.0/8\"");
    let (addr, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let addr: IpAddr = addr.parse().ok().ok_or_else(wrong)?;
    let prefix_len: u8 = prefix.parse().ok().ok_or_else(wrong)?;
    if prefix_len > if addr.is_ipv4() { 32 } else { 128 } {
        return Err(wrong());
    }
    Ok(Net { addr, prefix_len })
}

fn gateway(raw: &raw::Gateway, p: &mut Problems) -> super::Gateway {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = p.count("gateway.workers", raw.workers, 0, 256);
    p.count("gateway.port", usize::from(raw.port), 1, 65_535);
    let most = usize::from(weir_ebpf_common::MAX_ADDRESSES);
    p.count("gateway.addresses", usize::from(raw.addresses), 1, most);
    super::Gateway {
        port: raw.port,
        addresses: raw.addresses,
        workers: if workers == 0 { cores } else { workers },
        max_connections: p.count("gateway.max_connections", raw.max_connections, 1, 200_000),
        handshake_timeout: p.duration(
            "gateway.handshake_timeout",
            &raw.handshake_timeout,
            "100ms",
            "5m",
        ),
        head_timeout: p.duration("gateway.head_timeout", &raw.head_timeout, "100ms", "1h"),
        idle_timeout: p.duration("gateway.idle_timeout", &raw.idle_timeout, "1s", "24h"),
        connect_timeout: p.duration("gateway.connect_timeout", &raw.connect_timeout, "100ms", "5m"),
        user: raw.user.clone(),
        drain_timeout: p.duration("gateway.drain_timeout", &raw.drain_timeout, "0s", "1h"),
        handover_timeout: p.duration(
            "gateway.handover_timeout",
            &raw.handover_timeout,
            "0s",
            "24h",
        ),
    }
}

fn tls(raw: &raw::Tls, p: &mut Problems) -> super::Tls {
    let passthrough = p.patterns("tls.passthrough", &raw.passthrough);
    super::Tls {
        ca_dir: raw.ca_dir.clone(),
        extra_roots: raw.extra_roots.clone(),
        passthrough,
        leaf_lifetime: p.duration("tls.leaf_lifetime", &raw.leaf_lifetime, "1h", "30d"),
    }
}

fn containers(raw: &raw::Containers, p: &mut Problems) -> super::Containers {
    if raw.runtime.as_ref().is_some_and(|path| !path.is_absolute()) {
        p.add("containers.runtime", "must be an absolute path");
    }
    super::Containers {
        runtime: raw.runtime.clone(),
        system_bundle: raw.system_bundle,
        net_raw: raw.net_raw,
    }
}

fn docker(raw: &raw::Docker, p: &mut Problems) -> super::Docker {
    for (key, path) in [("docker.listen", &raw.listen), ("docker.upstream", &raw.upstream)] {
        if !path.is_absolute() {
            p.add(key, "must be an absolute path");
        }
    }
    if raw.listen == raw.upstream {
        p.add("docker.listen", "must not be docker.upstream");
    }
    for (i, path) in raw.protect.iter().enumerate() {
        if !path.is_absolute() {
            p.add(&format!("docker.protect[{i}]"), "must be an absolute path");
        }
    }
    super::Docker {
        enabled: raw.enabled,
        listen: raw.listen.clone(),
        group: raw.group.clone(),
        upstream: raw.upstream.clone(),
        protect: raw.protect.clone(),
    }
}

fn record(raw: &raw::Record, p: &mut Problems) -> super::Record {
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    super::Record {
        max_body_bytes: bytes(p.size("record.max_body", &raw.max_body, "0B", "16MiB")),
        max_memory_bytes: bytes(p.size("record.max_memory", &raw.max_memory, "1MiB", "64GiB")),
        retain_metadata: p.duration("record.retain_metadata", &raw.retain_metadata, "1h", "3650d"),
        retain_bodies: p.duration("record.retain_bodies", &raw.retain_bodies, "1h", "3650d"),
    }
}

fn spool(raw: &raw::Spool, p: &mut Problems) -> super::Spool {
    let segment = p.size("spool.max_segment", &raw.max_segment, "64KiB", "64MiB");
    let max_bytes = p.size("spool.max_size", &raw.max_size, "16MiB", "1TiB");
    if max_bytes < segment.saturating_mul(4) {
        p.add("spool.max_size", "must hold at least four segments of spool.max_segment");
    }
    super::Spool {
        dir: raw.dir.clone(),
        max_bytes,
        max_segment_bytes: segment,
        seal_after: p.duration("spool.seal_after", &raw.seal_after, "10ms", "10m"),
        sync_every: p.duration("spool.sync_every", &raw.sync_every, "1ms", "1m"),
    }
}

fn store(raw: &raw::Store, p: &mut Problems) -> super::Store {
    match &raw.url {
        Some(url) if url.starts_with("https://") => {
            p.add("store.url", "https:// is not supported yet; use http:// on a trusted network");
        }
        Some(url) if !url.starts_with("http://") => {
            p.add("store.url", format!("{url:?} does not begin with http://"));
        }
        _ => {}
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if raw.database.is_empty() || !raw.database.chars().all(word) {
        p.add("store.database", "must consist of letters, digits and _");
    }
    super::Store {
        url: raw.url.clone(),
        database: raw.database.clone(),
        user: raw.user.clone(),
        password_file: raw.password_file.clone(),
        socket: raw.socket.clone(),
        data_dir: raw.data_dir.clone(),
        engine: raw.engine.clone(),
        max_memory_bytes: p.size("store.max_memory", &raw.max_memory, "512MiB", "1TiB"),
    }
}
