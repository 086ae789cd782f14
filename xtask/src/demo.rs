//! `xtask demo`: real clients, captured on this machine, and what weir recorded of them.
//!
//! Origin in a network namespace; names resolve by a hosts file that only the clients see, in a
//! mount namespace of theirs. Nothing of the machine's own configuration changes.

mod clients;
mod jobs;
mod masking;
mod person;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;
use crate::sh::{self, Daemon, Scratch};
use crate::{setup, weir};

/// Beginning of the names of the processes that must be in the timeline.
const PROCESSES: [&str; 4] = ["curl", "git", "python", "node"];
pub(crate) const API: &str = "api.demo.test";
pub(crate) const GIT: &str = "git.demo.test";
/// A fake language model, whose route replaces secrets.
pub(crate) const LLM: &str = "llm.demo.test";
const NETWORK: &str = "10.78";
const START: Duration = Duration::from_secs(60);
const QUERY: Duration = Duration::from_secs(30);
const PROCESS_NAMES: &str = "SELECT DISTINCT process FROM exchanges ORDER BY process";
const BY_PROCESS: &str = "SELECT process, method, dst_host, path, status, resp_bytes \
    FROM exchanges ORDER BY ts LIMIT 30";
const BY_HOST: &str = "SELECT dst_host, uniqExact(process) AS processes, count() AS requests, \
    sum(req_bytes) AS sent, sum(resp_bytes) AS received \
    FROM exchanges GROUP BY dst_host ORDER BY dst_host";

/// What the steps share.
pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
    pub(crate) weir: PathBuf,
    pub(crate) config: PathBuf,
}

impl Stage {
    /// `weir --config … ARGUMENTS`.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.weir);
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        sh::output(&mut self.weir(arguments), QUERY)
    }
}

pub(crate) fn run(keep: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it attaches kernel programs");
    sh::step("demo: setup", setup::run)?;
    sh::step("demo: build", || {
        sh::run(&mut sh::cargo(&["build", "--release", "-p", "weir-gateway", "-p", "weir-tests"]))
    })?;
    let release = sh::root().join("target/release");
    let scratch = Scratch::new("weir-demo")?;
    let netns = Netns::new("demo", NETWORK)?;
    let origin = start_origin(&release, scratch.path(), &netns)?;
    let stage = Stage {
        directory: scratch.path().to_owned(),
        weir: release.join("weir"),
        config: scratch.path().join("weir.toml"),
    };
    let (idp, provider) =
        sh::step("demo: identity provider", || jobs::start(&release, scratch.path()))?;
    let config = weir::config(scratch.path(), "weir-demo", 15_478)?;
    let identity = jobs::config(&provider, scratch.path()) + &person::config(&provider);
    std::fs::write(&stage.config, config + &identity + &masking::config())?;
    let hosts = format!(
        "127.0.0.1 localhost\n::1 localhost\n{0} {API}\n{0} {GIT}\n{0} {LLM}\n",
        netns.inside
    );
    std::fs::write(scratch.path().join("hosts"), hosts)?;

    let mut up = sh::step("demo: weir up", || {
        let log = scratch.path().join("weir.log");
        let mut up = Daemon::start("weir up", &mut stage.weir(&["up"]), &log)?;
        up.wait_for("weir is up", START)?;
        Ok(up)
    })?;
    let shown = show(&stage, &provider);
    if shown.is_err() {
        println!("\nlog of weir up:\n{}", up.log());
    }
    shown?;
    up.check()?;
    if keep {
        let cleanup = netns.keep();
        let pids = format!("{} {} {}", up.pid(), origin.pid(), idp.pid());
        explain(&stage, &pids, &cleanup);
        up.keep();
        origin.keep();
        idp.keep();
        scratch.keep();
        return Ok(());
    }
    sh::step("demo: weir down", || up.stop())?;
    ensure!(!Path::new(&pins()).exists(), "{} is still there after weir ended", pins());
    Ok(())
}

fn pins() -> String {
    format!("/sys/fs/bpf/weir-demo-{}", std::process::id())
}

fn start_origin(release: &Path, directory: &Path, netns: &Netns) -> Result<Daemon> {
    let repositories = directory.join("repositories");
    std::fs::create_dir(&repositories)?;
    let mut command = netns.enter();
    command.arg(release.join("origin")).arg("--listen").arg(format!("{}:443", netns.inside));
    command.args(["--name", API, "--name", GIT, "--name", LLM, "--out"]).arg(directory);
    command.arg("--git-root").arg(repositories).args(["--git-repository", "demo.git"]);
    command.arg("--received").arg(masking::received(directory));
    let mut origin = Daemon::start("origin", &mut command, &directory.join("origin.log"))?;
    origin.wait_for("origin is up", START)?;
    Ok(origin)
}

fn show(stage: &Stage, provider: &str) -> Result<()> {
    sh::step("demo: curl", || clients::curl(stage))?;
    sh::step("demo: git clone, commit, push", || clients::git(stage))?;
    sh::step("demo: python", || clients::python(stage))?;
    sh::step("demo: node", || clients::node(stage))?;
    sh::step("demo: timeline", || timeline(stage))?;
    sh::step("demo: who asked what", || query(stage, BY_PROCESS, &[API, GIT]))?;
    sh::step("demo: traffic per host", || query(stage, BY_HOST, &[API, GIT]))?;
    sh::step("demo: secrets, to a model and back", || masking::run(stage))?;
    sh::step("demo: two CI jobs at once", || jobs::run(stage, provider))?;
    sh::step("demo: a person logs in", || person::run(stage, provider))?;
    sh::step("demo: who they were", || {
        jobs::show(stage)?;
        person::show(stage)
    })
}

/// Records reach the store a moment after the exchange: asks until all are there.
fn timeline(stage: &Stage) -> Result<()> {
    let until = Instant::now() + QUERY;
    loop {
        let recorded = stage.ask(&["query", PROCESS_NAMES, "--format", "csv"])?;
        let names: Vec<&str> = recorded.lines().map(|line| line.trim_matches('"')).collect();
        let is_missing = |process: &&str| !names.iter().any(|name| name.starts_with(process));
        let missing: Vec<&str> = PROCESSES.into_iter().filter(is_missing).collect();
        if missing.is_empty() {
            let text = stage.ask(&["timeline", "--since", "15m"])?;
            println!("{text}");
            // The whole names: `git` alone is in a host name too.
            for name in names.iter().filter(|name| PROCESSES.iter().any(|p| name.starts_with(p))) {
                ensure!(text.contains(name), "`{name}` is not in the timeline");
            }
            return Ok(());
        }
        if Instant::now() > until {
            bail!("no exchange of {} was recorded, only of:\n{recorded}", missing.join(", "));
        }
        sh::check()?;
        std::thread::sleep(Duration::from_millis(250));
    }
}

fn query(stage: &Stage, sql: &str, expected: &[&str]) -> Result<()> {
    println!("{sql}\n");
    let text = stage.ask(&["query", sql]).context("ask the store")?;
    println!("{text}");
    for word in expected {
        ensure!(text.contains(word), "`{word}` is not in the answer");
    }
    Ok(())
}

fn explain(stage: &Stage, pids: &str, cleanup: &str) {
    let weir = format!("{} --config {}", stage.weir.display(), stage.config.display());
    println!(
        "\nweir is still running. Try:\n  {} {weir} run -- curl https://{API}/headers\n  \
         {weir} timeline --since 15m\n  {weir} query 'SELECT * FROM exchanges LIMIT 3'\n\
         To end it:\n  kill {pids}; sleep 3; {cleanup}; rm -r {}",
        clients::namespace(stage).join(" "),
        stage.directory.display(),
    );
}
