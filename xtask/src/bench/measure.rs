//! One measurement through one peer: load, and what the proxy's processes spent meanwhile.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::peers::{Peer, Site};
use super::report::Results;
use crate::{proc, sh};

const LIMIT: Duration = Duration::from_secs(240);

/// Counts and times of one run.
pub(crate) struct Sizes {
    pub(crate) rounds: u32,
    /// After this no further measurement begins.
    pub(crate) budget: Duration,
    requests: u32,
    seconds: u32,
    bytes: u64,
    events: u32,
    idle: u32,
}

impl Sizes {
    pub(crate) fn quick() -> Self {
        let budget = Duration::from_secs(220);
        Self {
            rounds: 2,
            budget,
            requests: 2000,
            seconds: 2,
            bytes: 1 << 28,
            events: 10,
            idle: 1000,
        }
    }

    pub(crate) fn full() -> Self {
        let budget = Duration::from_secs(1800);
        Self {
            rounds: 5,
            budget,
            requests: 10_000,
            seconds: 5,
            bytes: 1 << 30,
            events: 50,
            idle: 1000,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Latency,
    H1,
    H2,
    Conns,
    Download,
    Upload,
    Sse,
    Idle,
}

/// Idle first: later, proxies have memory to spare.
pub(crate) const KINDS: [Kind; 8] = [
    Kind::Idle,
    Kind::Latency,
    Kind::H1,
    Kind::H2,
    Kind::Conns,
    Kind::Download,
    Kind::Upload,
    Kind::Sse,
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::Conns => "conns",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Sse => "sse",
            Self::Idle => "idle",
        }
    }

    fn arguments(self, sizes: &Sizes) -> String {
        match self {
            Self::Latency => format!("--threads 1 latency --requests {}", sizes.requests),
            Self::H1 => format!("throughput --seconds {}", sizes.seconds),
            Self::H2 => format!("--http h2 throughput --seconds {}", sizes.seconds),
            Self::Conns => format!("conns --seconds {}", sizes.seconds),
            Self::Download => format!("download --bytes {}", sizes.bytes),
            Self::Upload => format!("upload --bytes {}", sizes.bytes),
            Self::Sse => format!("sse --hold --streams 200 --gap-ms 200 --events {}", sizes.events),
            Self::Idle => format!("idle --connections {}", sizes.idle),
        }
    }

    /// Measures and adds to the results.
    pub(crate) fn run(
        self,
        site: &Site,
        peer: &Peer,
        sizes: &Sizes,
        results: &mut Results,
    ) -> Result<()> {
        if let Self::Idle = self {
            return idle(site, peer, sizes, results);
        }
        let _pinned = match self {
            Self::Latency => Some(Pinned::new(site, peer)?),
            _ => None,
        };
        let processes = peer.processes()?;
        let (proxy, store) = (proc::cpu(&processes.proxy)?, proc::cpu(&processes.store)?);
        let mut command = loadgen(site, peer, self, sizes);
        let (text, spent) = if let Self::Sse = self {
            // Without the cost of opening the streams.
            let held = Held::start(&mut command)?;
            let proxy = proc::cpu(&processes.proxy)?;
            let text = held.finish()?;
            (text, proc::cpu(&processes.proxy)?.saturating_sub(proxy))
        } else {
            let text = sh::output(&mut command, LIMIT)?;
            (text, proc::cpu(&processes.proxy)?.saturating_sub(proxy))
        };
        let spent_store = proc::cpu(&processes.store)?.saturating_sub(store);
        let report: Value = serde_json::from_str(text.trim()).context("read loadgen's report")?;
        if number(&report, "errors")? > 0.0 {
            println!("!!! {} through {}: {report}", self.name(), peer.name);
        }
        self.keep(peer, &report, spent, spent_store, results)
    }

    fn keep(
        self,
        peer: &Peer,
        report: &Value,
        spent: Duration,
        spent_store: Duration,
        results: &mut Results,
    ) -> Result<()> {
        let mut add = |metric: &str, value: f64| results.add(metric, peer.name, value);
        // unit of work, its name, and the factor from seconds
        let (units, unit, factor) = match self {
            Self::Latency => {
                add("a latency p50 (us)", number(report, "p50_us")?);
                add("a latency p99 (us)", number(report, "p99_us")?);
                return Ok(());
            }
            Self::H1 | Self::H2 | Self::Conns => {
                let (metric, unit) = match self {
                    Self::H1 => ("b h1 requests/s", "b h1 CPU us/request"),
                    Self::H2 => ("b h2 requests/s", "b h2 CPU us/request"),
                    _ => ("c TLS connections/s", "c CPU us/connection"),
                };
                add(metric, number(report, "rate")?);
                (number(report, "count")?, unit, 1e6)
            }
            Self::Download | Self::Upload => {
                let (metric, unit) = match self {
                    Self::Download => ("d download GB/s", "d download CPU s/GB"),
                    _ => ("d upload GB/s", "d upload CPU s/GB"),
                };
                add(metric, number(report, "gb_per_s")?);
                (number(report, "bytes")? / 1e9, unit, 1.0)
            }
            Self::Sse | Self::Idle => {
                add("e SSE delay p50 (us)", number(report, "p50_us")?);
                add("e SSE delay p99 (us)", number(report, "p99_us")?);
                (number(report, "count")?, "e SSE CPU us/event", 1e6)
            }
        };
        if !peer.is_direct() {
            add(unit, spent.as_secs_f64() * factor / units);
        }
        if peer.name == "weir" {
            add(&format!("{unit}, store"), spent_store.as_secs_f64() * factor / units);
        }
        Ok(())
    }
}

fn number(report: &Value, key: &str) -> Result<f64> {
    report.get(key).and_then(Value::as_f64).with_context(|| format!("no `{key}` in {report}"))
}

fn loadgen(site: &Site, peer: &Peer, kind: Kind, sizes: &Sizes) -> Command {
    let loadgen = site.release.join("loadgen").display().to_string();
    let [h1, h2] = &peer.addresses;
    let address = if matches!(kind, Kind::H2) { h2 } else { h1 };
    let mut words: Vec<&str> = peer.prefix.iter().map(String::as_str).collect();
    words.extend([loadgen.as_str(), "--connect", address, "--name", &site.name]);
    let arguments = kind.arguments(sizes);
    words.extend(arguments.split(' '));
    let mut command = sh::command(&words);
    if matches!(kind, Kind::Latency) {
        command = sh::command(&[&["taskset", "-c", "0"], &words[..]].concat());
    }
    command
}

/// Memory with and without idle connections.
fn idle(site: &Site, peer: &Peer, sizes: &Sizes, results: &mut Results) -> Result<()> {
    if peer.is_direct() {
        return Ok(());
    }
    let before = proc::memory(&peer.processes()?.proxy);
    let held = Held::start(&mut loadgen(site, peer, Kind::Idle, sizes))?;
    let after = proc::memory(&peer.processes()?.proxy);
    held.finish()?;
    results.add("f base PSS (MB)", peer.name, before as f64 / 1e6);
    let per = after.saturating_sub(before) as f64 / 1024.0 / f64::from(sizes.idle);
    results.add("f KB/idle connection", peer.name, per);
    Ok(())
}

/// A load generator that has printed its first line and goes on when its input ends.
struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Held {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start loadgen")?;
        let mut output = BufReader::new(child.stdout.take().context("take loadgen's output")?);
        // The load generator bounds its set-up; its end would close the pipe.
        let mut line = String::new();
        output.read_line(&mut line).context("wait for loadgen")?;
        Ok(Self { child, output })
    }

    /// Ends its input and returns what it prints from now on.
    fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let status = sh::wait(self.child, LIMIT)?;
        ensure!(status.success(), "loadgen ended with {status}");
        let mut text = String::new();
        self.output.read_to_string(&mut text).context("read loadgen's report")?;
        Ok(text)
    }
}

/// Proxy and origin on the first core, until dropped.
struct Pinned {
    pids: Vec<u32>,
}

impl Pinned {
    fn new(site: &Site, peer: &Peer) -> Result<Self> {
        let mut pids: Vec<u32> = peer.processes()?.proxy.into_iter().collect();
        pids.extend(proc::tree(site.origin_pid)?);
        let pinned = Self { pids };
        pinned.set("0")?;
        Ok(pinned)
    }

    fn set(&self, cores: &str) -> Result<()> {
        for pid in &self.pids {
            let pid = pid.to_string();
            let command = &mut sh::command(&["taskset", "--all-tasks", "-cp", cores, &pid]);
            let status = command.stdout(Stdio::null()).status().context("run taskset")?;
            ensure!(status.success(), "cannot pin process {pid}");
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Err(error) = self.set(&format!("0-{}", cores.saturating_sub(1))) {
            println!("!!! processes stay pinned: {error:#}");
        }
    }
}
