//! What the hooks add to `connect(2)`: the same connect over loopback in a cgroup without hooks, in
//! the captured one (redirected), and in the captured one to an excluded destination.
//!
//! - input: `ROUNDS COUNT`
//! - output: one JSON object: medians and 99th percentiles of each round, in nanoseconds
//! - bound: one connection at a time; cgroups, pins and processes of its own
//! - on failure: exit status 1; what was made is removed
//!
//! The listener at the gateway's port only accepts and closes, so that nothing but hooks differs.
//! Rounds alternate between the ways. Client on the first core, listeners on the last.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weir_gateway::capture::cgroup;
use weir_gateway::capture::loader::{self, AttachSpec};
use weir_gateway::config::Net;

const FAR: &str = "198.51.100.7:443";
/// Not counted: caches and branch predictors are cold.
const WARM_UP: usize = 20;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["client", dir, to] => client(Path::new(dir), to.parse()?),
        [rounds, count] => bench(rounds.parse()?, count.parse()?),
        _ => anyhow::bail!("ROUNDS COUNT"),
    }
}

/// Answers each line, a number of connects, with its figures.
fn client(dir: &Path, to: SocketAddr) -> anyhow::Result<()> {
    cgroup::join(dir, None)?;
    pin(0)?;
    for line in std::io::stdin().lock().lines() {
        let count: usize = line?.parse()?;
        for _ in 0..WARM_UP {
            one(to)?;
        }
        let mut connects = Vec::with_capacity(count);
        let mut wholes = Vec::with_capacity(count);
        for _ in 0..count {
            let (connect, whole) = one(to)?;
            connects.push(connect);
            wholes.push(whole);
        }
        let figures = |all: Vec<u64>| {
            let [p50, p99] = percentiles(all);
            json!({ "p50": p50, "p99": p99 })
        };
        let answer = json!({ "connect": figures(connects), "whole": figures(wholes) });
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

/// Nanoseconds of `connect(2)`, and of `socket(2)`, `connect(2)` and `close(2)` together.
fn one(to: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let begun = Instant::now();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let made = begun.elapsed();
    // A reset instead of a waiting state: ports do not run out. Not counted.
    socket.set_linger(Some(Duration::ZERO))?;
    let to = to.into();
    let begun = Instant::now();
    socket.connect(&to)?;
    let connected = begun.elapsed();
    drop(socket);
    let closed = begun.elapsed();
    Ok((u64::try_from(connected.as_nanos())?, u64::try_from((made + closed).as_nanos())?))
}

fn percentiles(mut all: Vec<u64>) -> [u64; 2] {
    all.sort_unstable();
    [50, 99].map(|percent| all.get(all.len() * percent / 100).copied().unwrap_or_default())
}

fn bench(rounds: usize, count: usize) -> anyhow::Result<()> {
    let site = Site::new()?;
    let direct = site.listen(&site.home)?;
    let gateway = site.listen(&site.gateway)?;
    loader::attach(&site.spec(gateway.port()))?;
    let far = FAR.parse()?;
    let mut ways = [
        ("direct", Client::start(&site.plain, direct)?),
        ("redirected", Client::start(&site.captured, far)?),
        ("excluded", Client::start(&site.captured, direct)?),
    ];
    let mut found = serde_json::Map::new();
    for _ in 0..rounds {
        for (name, client) in &mut ways {
            let figures = client.ask(count)?;
            let samples = found.entry(*name).or_insert_with(|| json!([]));
            samples.as_array_mut().context("no list")?.push(figures);
        }
    }
    let counted = weir_gateway::capture::maps::counters(&site.pin_dir)?;
    let of = |name: &str| counted.iter().find(|(found, _)| *found == name).map_or(0, |(_, n)| *n);
    let each = u64::try_from((count + WARM_UP) * rounds)?;
    ensure!(of("connect_redirected") == each && of("connect_excluded") == each, "{counted:?}");
    found.insert("joined".into(), of("joined").into());
    writeln!(std::io::stdout(), "{}", Value::Object(found))?;
    Ok(())
}

/// Cgroups and pins; removed when dropped.
struct Site {
    home: PathBuf,
    top: PathBuf,
    plain: PathBuf,
    captured: PathBuf,
    gateway: PathBuf,
    pin_dir: PathBuf,
    tmp: tempfile::TempDir,
}

impl Site {
    fn new() -> anyhow::Result<Self> {
        let mount = cgroup::mount()?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2")?;
        let top = mount.join(format!("weir-connect-{}", std::process::id()));
        let tmp = tempfile::tempdir()?;
        let [plain, captured, gateway] =
            ["plain", "captured", "gateway"].map(|name| top.join(name));
        for dir in [&plain, &captured, &gateway] {
            cgroup::create(dir)?;
        }
        let pin_dir = tmp.path().join("bpf/weir");
        Ok(Self { home: mount.join(own), top, plain, captured, gateway, pin_dir, tmp })
    }

    /// Accepts and closes on a thread of its own, with a socket that belongs to a cgroup.
    fn listen(&self, dir: &Path) -> anyhow::Result<SocketAddr> {
        cgroup::join(dir, None)?;
        let listener = listener();
        cgroup::join(&self.home, None)?;
        let listener = listener?;
        let addr = listener.local_addr()?;
        std::thread::spawn(move || {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            pin(cores.saturating_sub(1)).unwrap_or_default();
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        Ok(addr)
    }

    fn spec(&self, gateway_port: u16) -> AttachSpec {
        AttachSpec {
            captured: self.captured.clone(),
            gateway: self.gateway.clone(),
            gateway_port,
            pin_dir: self.pin_dir.clone(),
            exclude: vec![Net { addr: Ipv4Addr::new(127, 0, 0, 0).into(), prefix_len: 8 }],
            addresses: 1,
            dns_port: 53_053,
            allow_dns: false,
            // Neither devices nor the packet filter of the host that runs this.
            devices: Vec::new(),
            bridges: Vec::new(),
            nftables: false,
            danger_fail_open: false,
            lsm: true,
            upgrade: false,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(loader::detach(&self.pin_dir));
        let end = Instant::now() + Duration::from_secs(5);
        for dir in [&self.plain, &self.captured, &self.gateway, &self.top] {
            while !cgroup::remove(dir).unwrap_or(true) && Instant::now() < end {
                std::thread::yield_now();
            }
        }
        let mount = self.tmp.path().join("bpf");
        // Fails where nothing was mounted, which is fine.
        nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).unwrap_or_default();
    }
}

/// With a queue that never overflows while the other core is busy: a lost SYN costs a second.
fn listener() -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A process in a cgroup; ends with its input.
struct Client {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start(dir: &Path, to: SocketAddr) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("client").arg(dir).arg(to.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, answers })
    }

    fn ask(&mut self, count: usize) -> anyhow::Result<Value> {
        writeln!(self.child.stdin.as_mut().context("no input")?, "{count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("a client ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

/// Keeps the calling thread on a core.
fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
