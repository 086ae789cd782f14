//! `xtask bench`: weir beside other proxies, all in one topology, in alternating rounds.
//!
//! Origin in a network namespace behind a veth pair; proxies, load generator and weir outside.
//! Only ratios within one run mean something. `tests/perf/README.md` explains the figures.

mod connect;
mod detect;
mod mask;
mod measure;
mod peers;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::netns::Netns;
use crate::sh::{self, Daemon, Scratch};
use measure::Sizes;
use peers::Site;
use report::Results;

const NAME: &str = "api.bench.test";
const NETWORK: &str = "10.77";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// At most four minutes, with smaller counts
    #[arg(long)]
    quick: bool,
    /// Which proxies, of direct, haproxy, nginx, mitmproxy, weir
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Which measurements, of identity, connect, latency, h1, h2, conns, download, upload, sse, idle
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Subcommand)]
enum Part {
    /// Recall and false positives of the detection of secrets, beside peers
    Detect(detect::Options),
    /// Speed of the detection of secrets, and how long streamed text waits for it
    Mask(mask::Options),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.part {
        None => proxies(options),
        Some(Part::Detect(options)) => detect::run(options),
        Some(Part::Mask(options)) => mask::run(options),
    }
}

fn proxies(options: &Options) -> Result<()> {
    let release = sh::root().join("target/release");
    let is_wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|one| one == name);
    let through_proxies = measure::KINDS.iter().any(|kind| is_wanted(kind.name()));
    if is_wanted("identity") {
        let words = ["bench", "--quiet", "-p", "weir-gateway", "--bench", "identity_lookup"];
        sh::run(&mut sh::cargo(&words))?;
        if options.only.len() == 1 {
            return Ok(());
        }
    }
    let mut packages = vec!["build", "--release", "-p", "weir-tests"];
    if through_proxies {
        packages.extend(["-p", "weir-gateway"]);
    } else {
        packages.extend(["--bin", "weir-test-connect"]);
    }
    sh::run(&mut sh::cargo(&packages))?;
    raise_file_limit()?;

    // Building does not count.
    let began = Instant::now();
    let (hooks, samples) = if is_wanted("connect") {
        connect::run(&release, options.quick)?
    } else {
        (String::new(), Value::Null)
    };
    if !through_proxies {
        ensure!(!hooks.is_empty(), "nothing was measured");
        return finish(&Results::default(), samples, &hooks);
    }
    let scratch = Scratch::new("weir-bench")?;
    let netns = Netns::new("bench", NETWORK)?;
    let mut command = netns.enter();
    command.arg(release.join("origin")).args(["--name", NAME, "--out"]).arg(scratch.path());
    command.arg("--listen").arg(format!("{}:443", netns.inside));
    let mut origin = Daemon::start("origin", &mut command, &scratch.path().join("origin.log"))?;
    origin.wait_for("origin is up", Duration::from_secs(10))?;

    let site = Site {
        directory: scratch.path().to_owned(),
        release,
        name: NAME.to_owned(),
        host: netns.host.clone(),
        origin: format!("{}:443", netns.inside),
        origin_pid: origin.pid(),
    };
    let wanted = |name: &str| {
        name == "direct" || options.peers.is_empty() || options.peers.iter().any(|one| one == name)
    };
    let peers = peers::start(&site, wanted)?;
    let sizes = if options.quick { Sizes::quick() } else { Sizes::full() };
    let mut results = Results::default();
    for round in 1..=sizes.rounds {
        for kind in measure::KINDS {
            if !is_wanted(kind.name()) {
                continue;
            }
            if round > 1 && matches!(kind, measure::Kind::Idle) {
                continue;
            }
            for peer in &peers {
                sh::check()?;
                if began.elapsed() > sizes.budget {
                    println!("time is used up: {} s", sizes.budget.as_secs());
                    break;
                }
                kind.run(&site, peer, &sizes, &mut results)
                    .with_context(|| format!("{} through {}", kind.name(), peer.name))?;
            }
        }
        println!(
            "round {round} of {}: {:.0} s so far",
            sizes.rounds,
            began.elapsed().as_secs_f64()
        );
    }
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    ensure!(!results.is_empty(), "nothing was measured");
    finish(&results, samples, &format!("{}\n{hooks}", results.table(&names)))
}

fn finish(results: &Results, connect: Value, table: &str) -> Result<()> {
    println!("\n{table}");
    let path = save(results, connect, table)?;
    println!("saved {}", path.display());
    Ok(())
}

fn save(results: &Results, connect: Value, table: &str) -> Result<PathBuf> {
    let folder = sh::root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("latest.json");
    let text = serde_json::to_string_pretty(&results.json(connect))?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    std::fs::write(folder.join("latest.md"), table)?;
    Ok(path)
}

/// A thousand connections need two descriptors each in a proxy; children inherit the limit.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
