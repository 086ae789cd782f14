//! The proxies that are compared: how each is configured, started and reached.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sh::{self, Daemon};
use crate::{proc, setup};

const START: Duration = Duration::from_secs(60);

/// What all peers share.
pub(crate) struct Site {
    pub(crate) directory: PathBuf,
    pub(crate) release: PathBuf,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) origin: String,
    pub(crate) origin_pid: u32,
}

/// One way to the origin.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Where the load generator connects: with HTTP/1.1, with HTTP/2.
    pub(crate) addresses: [String; 2],
    /// What comes before `loadgen` on its command line.
    pub(crate) prefix: Vec<String>,
    daemon: Option<Daemon>,
}

/// Process ids whose cost counts as the proxy's, and as its store's.
pub(crate) struct Processes {
    pub(crate) proxy: BTreeSet<u32>,
    pub(crate) store: BTreeSet<u32>,
}

impl Peer {
    /// Its processes as of now.
    pub(crate) fn processes(&self) -> Result<Processes> {
        let Some(daemon) = &self.daemon else {
            return Ok(Processes { proxy: BTreeSet::new(), store: BTreeSet::new() });
        };
        let all = proc::tree(daemon.pid())?;
        let is_store = |pid: &u32| self.name == "weir" && proc::has_argument(*pid, "store");
        let (store, proxy) = all.into_iter().partition(is_store);
        Ok(Processes { proxy, store })
    }

    /// True for the way without a proxy.
    pub(crate) fn is_direct(&self) -> bool {
        self.daemon.is_none()
    }
}

/// Starts all wanted peers. haproxy is the yardstick and must start.
pub(crate) fn start(site: &Site, wanted: impl Fn(&str) -> bool) -> Result<Vec<Peer>> {
    let origin = site.origin.clone();
    let mut peers = vec![Peer {
        name: "direct",
        addresses: [origin.clone(), origin],
        prefix: Vec::new(),
        daemon: None,
    }];
    if wanted("haproxy") {
        peers.push(haproxy(site)?);
    }
    for (name, program) in [("nginx", nginx as fn(&Site) -> Result<Peer>), ("mitmproxy", mitmproxy)]
    {
        if !wanted(name) {
            continue;
        }
        match program(site) {
            Ok(peer) => peers.push(peer),
            Err(error) => {
                sh::check()?;
                println!("\n!!! {name} IS LEFT OUT: {error:#}\n");
            }
        }
    }
    if wanted("weir") {
        peers.push(weir(site)?);
    }
    Ok(peers)
}

fn daemon(site: &Site, name: &'static str, command: &mut Command) -> Result<Daemon> {
    Daemon::start(name, command, &site.directory.join(format!("{name}.log")))
}

fn program(name: &str) -> String {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.exists() { sbin.display().to_string() } else { name.to_owned() }
}

fn haproxy(site: &Site) -> Result<Peer> {
    let Site { directory, name, host, origin, .. } = site;
    let directory_text = directory.display();
    let mut config = "global\n  maxconn 4000\n  ssl-server-verify required\n\
        defaults\n  mode http\n  timeout connect 10s\n  timeout client 5m\n  timeout server 5m\n"
        .to_owned();
    let mut addresses = [String::new(), String::new()];
    // The same protocol on both sides, as a transparent proxy has it.
    for (index, (id, port, alpn)) in
        [("h1", 8441, "http/1.1"), ("h2", 8442, "h2")].iter().enumerate()
    {
        config += &format!(
            "frontend f{id}\n  bind {host}:{port} ssl crt {directory_text}/server.pem alpn {alpn}\n  \
             default_backend b{id}\n\
             backend b{id}\n  http-reuse always\n  server o {origin} ssl verify required \
             ca-file {directory_text}/ca.pem sni str({name}) verifyhost {name} alpn {alpn}\n"
        );
        if let Some(address) = addresses.get_mut(index) {
            *address = format!("{host}:{port}");
        }
    }
    let path = directory.join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = sh::command(&[&program("haproxy"), "-db", "-f"]);
    let mut daemon = daemon(site, "haproxy", command.arg(path))?;
    for address in &addresses {
        daemon.wait_for_port(address, START)?;
    }
    Ok(Peer { name: "haproxy", addresses, prefix: Vec::new(), daemon: Some(daemon) })
}

fn nginx(site: &Site) -> Result<Peer> {
    let Site { directory, name, host, origin, .. } = site;
    let directory = directory.display();
    let address = format!("{host}:8443");
    let config = format!(
        "daemon off; worker_processes auto; pid {directory}/nginx.pid;\n\
         error_log stderr crit; worker_rlimit_nofile 16384;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; client_max_body_size 0; proxy_max_temp_file_size 0;\n\
         client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;\n\
         fastcgi_temp_path {directory}/nginx-f; uwsgi_temp_path {directory}/nginx-u;\n\
         scgi_temp_path {directory}/nginx-s;\n\
         upstream o {{ server {origin}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ listen {address} ssl http2; keepalive_requests 100000000;\n\
         ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_request_buffering off; proxy_ssl_verify on; proxy_ssl_name {name};\n\
         proxy_ssl_server_name on; proxy_ssl_trusted_certificate {directory}/ca.pem;\n\
         location / {{ proxy_pass https://o; }}\n\
         location /sse {{ proxy_buffering off; proxy_pass https://o; }} }} }}\n"
    );
    let path = site.directory.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = sh::command(&[&program("nginx"), "-c"]);
    let mut daemon = daemon(site, "nginx", command.arg(path))?;
    daemon.wait_for_port(&address, START)?;
    let addresses = [address.clone(), address];
    Ok(Peer { name: "nginx", addresses, prefix: Vec::new(), daemon: Some(daemon) })
}

/// By default mitmproxy holds every body, which would hold back event streams to their end.
const STREAM: &str = "
def requestheaders(flow):
    flow.request.stream = True

def responseheaders(flow):
    flow.response.stream = True
";

/// The Python package goes into an environment of its own below `target/bench`.
fn mitmproxy(site: &Site) -> Result<Peer> {
    let environment = sh::root().join("target/bench/mitmproxy");
    let dump = environment.join("bin/mitmdump");
    if !dump.exists() {
        anyhow::ensure!(setup::present("python3"), "python3 is missing");
        println!("installing mitmproxy below target/bench");
        let limit = Duration::from_secs(180);
        sh::output(sh::command(&["python3", "-m", "venv"]).arg(&environment), limit)?;
        let mut pip = Command::new(environment.join("bin/pip"));
        sh::output(pip.args(["install", "--quiet", "mitmproxy"]), limit)?;
    }
    let Site { directory, host, origin, .. } = site;
    let mut command = Command::new(dump);
    command.args(["--quiet", "--mode", &format!("reverse:https://{origin}")]);
    command.args(["--listen-host", host, "--listen-port", "8444"]);
    // Addressed by number, so that no resolver is needed: it cannot verify the name then.
    command.args(["--ssl-insecure", "--set", "keep_host_header=true"]);
    let addon = directory.join("stream.py");
    fs::write(&addon, STREAM)?;
    command.arg("--scripts").arg(addon).arg("--set");
    command.arg(format!("confdir={}", directory.join("mitmproxy").display()));
    let address = format!("{host}:8444");
    let mut daemon = daemon(site, "mitmproxy", &mut command)?;
    daemon.wait_for_port(&address, START)?;
    let addresses = [address.clone(), address];
    Ok(Peer { name: "mitmproxy", addresses, prefix: Vec::new(), daemon: Some(daemon) })
}

/// Real capture: the load generator runs inside `weir run` and connects to the origin.
fn weir(site: &Site) -> Result<Peer> {
    let config = site.directory.join("weir.toml");
    let text = crate::weir::config(&site.directory, "weir-bench", 15_477)?;
    fs::write(&config, text).context("write weir.toml")?;
    let weir = site.release.join("weir");
    let mut command = Command::new(&weir);
    let mut daemon = daemon(site, "weir", command.arg("--config").arg(&config).arg("up"))?;
    daemon.wait_for("weir is up", START)?;
    let words = [weir.as_path(), Path::new("--config"), &config, Path::new("run"), Path::new("--")];
    let prefix = words.iter().map(|word| word.display().to_string()).collect();
    let addresses = [site.origin.clone(), site.origin.clone()];
    Ok(Peer { name: "weir", addresses, prefix, daemon: Some(daemon) })
}
