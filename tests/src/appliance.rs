//! A whole appliance for privileged tests: the real `weir`, its store, and an origin behind a veth.
//!
//! - input: nothing; further configuration as TOML
//! - output: [`Site`]: captured clients, answers of the record, the origin's own log
//! - bound: every wait ends after [`PATIENCE`]
//! - on failure: panics; `Drop` ends what was started and removes what was made
//!
//! Everything is named after this process and a counter, so that runs do not meet.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod counting;
mod network;

pub use counting::{Arrivals, Arrived, Counting};
pub use network::{Network, OriginThread};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Name of the origin.
pub const API: &str = "api.appliance.test";
const POLL: Duration = Duration::from_millis(20);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One appliance.
pub struct Site {
    weir: PathBuf,
    /// `weir up`, while it runs.
    up: Option<Child>,
    /// What the origin has seen.
    pub origin: OriginThread,
    /// Where the origin is.
    pub network: Network,
    /// Part of the names of cgroups and pins.
    pub id: String,
    dir: tempfile::TempDir,
}

impl Site {
    /// An origin and a configuration; nothing of weir runs.
    ///
    /// `more` are further lines: those before the first table header belong to `[store]`.
    pub fn new(more: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this suite needs root");
        // Before anything is made that a missing binary could not remove.
        let weir = binary();
        let id = format!("weir-appl-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let dir = tempfile::tempdir().unwrap();
        // The gateway is another user: it passes here to what is its own.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let network = Network::new(&id);
        std::fs::create_dir(dir.path().join("git")).unwrap();
        let origin = OriginThread::start(&network, API, dir.path());
        let site = Self { weir, up: None, origin, network, id, dir };
        let hosts = format!("127.0.0.1 localhost\n{} {API}\n", site.network.inside);
        std::fs::write(site.path("hosts"), hosts).unwrap();
        site.configure("weir.toml", more);
        site
    }

    /// The same, with `weir up` running.
    pub fn up(more: &str) -> Self {
        let mut site = Self::new(more);
        site.start();
        site
    }

    /// Writes a configuration of this site.
    pub fn configure(&self, name: &str, more: &str) {
        let (id, dir) = (&self.id, self.dir.path().display());
        let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.engine/libchdb.so");
        assert!(engine.is_file(), "{} is missing: run `cargo xtask setup`", engine.display());
        let text = format!(
            "[host]\nid = \"{id}\"\n[capture]\ncgroup = \"{id}/captured\"\n\
             nftables = false\ndevices = []\n\
             gateway_cgroup = \"{id}/gateway\"\npin_dir = \"/sys/fs/bpf/{id}\"\n\
             [dns]\nport = {}\n[gateway]\nport = {}\ndrain_timeout = \"2s\"\n[tls]\nca_dir = \"{dir}/ca\"\n\
             extra_roots = [\"{dir}/origin-ca.pem\"]\n\
             [inspect]\nstate_dir = \"{dir}/inspect\"\n[spool]\ndir = \"{dir}/spool\"\n\
             seal_after = \"200ms\"\n[admin]\nsocket = \"{dir}/admin.sock\"\n\
             [store]\nsocket = \"{dir}/store.sock\"\ndata_dir = \"{dir}/store\"\n\
             engine = {engine:?}\n{more}\n",
            self.network.dns_port, self.network.port,
        );
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Changes a line of the configuration, wherever it is.
    pub fn reconfigure(&self, line: &str, other: &str) {
        let text = std::fs::read_to_string(self.path("weir.toml")).unwrap();
        assert!(text.contains(line), "no {line}");
        std::fs::write(self.path("weir.toml"), text.replacen(line, other, 1)).unwrap();
    }

    /// Starts `weir up` and waits until it says so.
    pub fn start(&mut self) {
        let log = File::create(self.path("log")).unwrap();
        let child = self
            .weir(&["up"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.up = Some(child);
        wait_for("weir is up", || {
            let ended = self.up.as_mut().and_then(|up| up.try_wait().unwrap());
            assert!(ended.is_none(), "weir up ended: {}", self.log());
            let log = self.log();
            // Its admin socket answers a moment before the bundle of `weir run` is written.
            log.contains("weir is up") && log.contains("INFO gateway is up")
        });
    }

    /// Ends `weir up` in order.
    pub fn stop(&mut self) {
        let mut up = self.up.take().unwrap();
        signal(up.id(), Signal::SIGTERM);
        assert!(up.wait().unwrap().success(), "{}", self.log());
    }

    /// What `weir up` has printed and logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A path in the site's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `weir --config … ARGUMENTS`, with nothing in its environment that names a proxy or roots.
    pub fn weir(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.weir);
        command.arg("--config").arg(self.path("weir.toml")).args(arguments);
        self.bare(&mut command);
        command
    }

    /// The output of `weir ARGUMENTS`, whatever its exit code.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.weir(arguments).output().unwrap()
    }

    /// What `weir ARGUMENTS` prints. It must succeed.
    pub fn said(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// `weir run --job JOB -- WORDS` with an `/etc/hosts` that only it sees.
    pub fn captured(&self, job: &str, words: &[&str]) -> Command {
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", self.show("hosts"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "client"]);
        command.arg(&self.weir).arg("--config").arg(self.path("weir.toml"));
        command.args(["run", "--job", job, "--"]).args(words);
        self.bare(&mut command);
        command
    }

    /// Runs a captured client. It must succeed; answers what it prints.
    pub fn run(&self, job: &str, words: &[&str]) -> String {
        let output = self.captured(job, words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}{}", text(&output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn bare(&self, command: &mut Command) {
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.env("HOME", self.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
        command.env_remove("WEIR_CONFIG").env_remove("WEIR_LOG");
    }

    /// A path as text, for scripts.
    pub fn show(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Rows of a statement, through `weir query`; an error when the store does not answer.
    pub fn try_query(&self, sql: &str) -> Result<Vec<Value>, String> {
        let output = self.ask(&["query", "--format", "json", sql]);
        if !output.status.success() {
            return Err(text(&output));
        }
        let lines = String::from_utf8(output.stdout).unwrap();
        Ok(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Rows of a statement.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}{}", self.log()))
    }

    /// Waits until a statement has at least so many rows. Records reach the store a moment later.
    pub fn rows(&self, least: usize, sql: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let found = try_wait(|| {
            rows = self.try_query(sql).unwrap_or_default();
            rows.len() >= least
        });
        assert!(found, "{} of {least} rows of {sql}: {rows:#?}{}", rows.len(), self.log());
        rows
    }

    /// Process id of a running part: `store` or `gateway`.
    pub fn part(&self, name: &str) -> Option<u32> {
        let up = self.up.as_ref()?.id();
        let children = std::fs::read_to_string(format!("/proc/{up}/task/{up}/children")).ok()?;
        children.split_whitespace().filter_map(|word| word.parse().ok()).find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(name.as_bytes())
        })
    }

    /// Signals `weir up` itself; stopped, it starts nothing again.
    pub fn signal_up(&self, what: Signal) {
        signal(self.up.as_ref().unwrap().id(), what);
    }

    /// `kill -9` of a part; answers its process id.
    pub fn kill_part(&self, name: &str) -> u32 {
        let pid = self.part(name).unwrap_or_else(|| panic!("no {name} runs: {}", self.log()));
        signal(pid, Signal::SIGKILL);
        pid
    }

    /// Lets a newer gateway take over from the running one, as after an upgrade, and waits until
    /// it serves; answers the process id of the older one, which ends its flows.
    pub fn hand_over(&self) -> u32 {
        let older = self.part("gateway").unwrap();
        let done = || self.log().matches("taken over by a newer one").count();
        let before = done();
        self.signal_up(Signal::SIGHUP);
        wait_for("a newer gateway", || {
            assert!(!self.log().contains("not taken over"), "{}", self.log());
            done() > before
        });
        older
    }

    /// Waits until `weir up` has started a killed part again and it answers.
    pub fn wait_restarted(&self, name: &str, before: u32) {
        let socket = self.path(match name {
            "store" => "store.sock",
            "guard" => "guard.sock",
            _ => "admin.sock",
        });
        wait_for(&format!("a new {name}"), || {
            self.part(name).is_some_and(|pid| pid != before) && answers(&socket)
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        #[expect(clippy::print_stderr, reason = "a test that fails shows what weir said")]
        if std::thread::panicking() {
            eprintln!("log of weir:\n{}", self.log());
        }
        if let Some(mut up) = self.up.take() {
            // In order, so that it detaches; it ends its parts.
            let asked = kill(pid_of(up.id()), Signal::SIGTERM).is_ok();
            if !asked || !try_wait(|| !matches!(up.try_wait(), Ok(None))) {
                drop((up.kill(), up.wait()));
            }
        }
        // Nothing is left to remove unless the test failed.
        drop(self.ask(&["detach"]));
    }
}

/// Whether somebody listens on a unix socket; the guard's keeps packets apart.
fn answers(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
        || weir_gateway::packet::connect(path).is_ok()
}

/// `weir`, built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("weir");
    assert!(path.is_file(), "{} is missing: cargo build -p weir-gateway", path.display());
    path
}

/// Both streams of a finished command.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// A number, which ClickHouse quotes when it has 64 bits.
pub fn number(value: &Value) -> u64 {
    let quoted = || value.as_str().and_then(|text| text.parse().ok());
    value.as_u64().or_else(quoted).unwrap_or_else(|| panic!("{value} is no number"))
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

/// Signals a process that this test started.
pub fn signal(pid: u32, signal: Signal) {
    kill(pid_of(pid), signal).unwrap();
}

/// Waits until something holds; false after [`PATIENCE`].
pub fn try_wait(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Waits until something holds.
///
/// # Panics
/// When it does not.
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    assert!(try_wait(holds), "waited {PATIENCE:?} for {what}");
}
