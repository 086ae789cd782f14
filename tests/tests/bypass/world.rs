//! Cgroups, a gateway that only counts, and attempts.
//!
//! - input: which layers to attach
//! - output: what became of an attempt
//! - bound: every wait ends after [`PATIENCE`]
//! - on failure: panics; `Drop` removes what was made

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir_gateway::capture::loader::{self, AttachSpec, Layer};
use weir_gateway::capture::maps::PinnedCapture;
use weir_gateway::capture::{Capture as _, cgroup};
use weir_gateway::config::Net as Range;

use crate::net::{Net, assert_own_namespace};

pub(crate) const PORT: u16 = 15_443;
pub(crate) const ADDRESSES: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_millis(300);
const ATTEMPT: &str = env!("CARGO_BIN_EXE_weir-test-bypass");

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The gateway accepted a connection with a record of that process.
    Captured,
    /// The far end saw something.
    Leaked,
    /// Nothing left and nothing arrived.
    Refused(i64),
    /// It succeeded and nothing left: for attempts that only open a way.
    Opened,
}

pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) captured: PathBuf,
    pub(crate) pin_dir: PathBuf,
    pub(crate) root: PathBuf,
    top: PathBuf,
    gateway: PathBuf,
    home: PathBuf,
    pub(crate) listeners: Vec<TcpListener>,
    tmp: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let root = cgroup::mount().expect("these tests need cgroup2");
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = root.join(own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap());
        let top = root.join(format!("weir-bypass-{}-{name}", std::process::id()));
        let (captured, gateway) = (top.join("captured"), top.join("gateway"));
        let net = Net::new();
        let tmp = tempfile::tempdir().unwrap();
        let pin_dir = tmp.path().join("bpf/weir");
        cgroup::create(&captured).unwrap();
        cgroup::create(&gateway).unwrap();
        cgroup::join(&gateway, None).unwrap();
        let mut at: Vec<IpAddr> = vec![Ipv6Addr::LOCALHOST.into()];
        at.extend(
            (1..=ADDRESSES)
                .map(|low| IpAddr::from(Ipv4Addr::new(127, 0, 0, u8::try_from(low).unwrap()))),
        );
        let listeners = at
            .into_iter()
            .map(|at| {
                let listener = TcpListener::bind(SocketAddr::new(at, PORT)).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            })
            .collect();
        cgroup::join(&home, None).unwrap();
        Self { net, captured, pin_dir, root, top, gateway, home, listeners, tmp }
    }

    pub(crate) fn spec(&self) -> AttachSpec {
        AttachSpec {
            captured: self.captured.clone(),
            gateway: self.gateway.clone(),
            gateway_port: PORT,
            pin_dir: self.pin_dir.clone(),
            exclude: vec![Range { addr: Ipv4Addr::new(127, 0, 0, 0).into(), prefix_len: 8 }],
            addresses: ADDRESSES,
            dns_port: 0,
            allow_dns: false,
            devices: Vec::new(),
            nftables: false,
            danger_fail_open: false,
            bridges: Vec::new(),
            lsm: false,
            upgrade: false,
        }
    }

    pub(crate) fn attach(&self, spec: &AttachSpec) -> Vec<Layer> {
        assert_own_namespace();
        loader::attach(spec).expect("attach");
        loader::layers(&self.pin_dir).unwrap()
    }

    pub(crate) fn last_frames(&self) -> Vec<String> {
        self.net.last_frames()
    }

    pub(crate) fn start(&self, attempt: &str) -> Attempt {
        drop(self.accept());
        self.spawn(attempt)
    }

    /// Starts an attempt beside others: their connections stay at the gateway.
    pub(crate) fn spawn(&self, attempt: &str) -> Attempt {
        self.net.settle();
        let before = self.net.seen();
        let mut child = Command::new(ATTEMPT)
            .arg(attempt)
            .args([&self.captured, &self.root, &self.net.container])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Attempt { child, lines, name: attempt.to_owned(), before }
    }

    /// Lets an attempt go and says what became of it.
    pub(crate) fn judge(&self, mut attempt: Attempt, two_steps: bool) -> Outcome {
        let mut before = attempt.before;
        if two_steps {
            drop(self.accept());
            self.net.settle();
            before = self.net.seen();
            // It may have been aborted already, which its answer tells.
            attempt.go();
        }
        if attempt.name == "tcp-listening" {
            self.net.dial();
        }
        let errno = attempt.answer();
        let status = attempt.child.wait().unwrap();
        assert!(status.success(), "{}: {status}", attempt.name);
        self.net.settle();
        let after = self.net.seen();
        // A handshake over loopback may end after connect returned.
        let wait = if errno == 0 && after == before { HANDSHAKE } else { Duration::ZERO };
        let deadline = Instant::now() + wait;
        let mut captured = self.accept();
        while !captured.contains(&attempt.child.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            captured.extend(self.accept());
        }
        if after.0 != before.0 || (attempt.name == "group-join" && after.1 != before.1) {
            Outcome::Leaked
        } else if captured.contains(&attempt.child.id()) {
            Outcome::Captured
        } else if errno == 0 {
            Outcome::Opened
        } else {
            Outcome::Refused(errno)
        }
    }

    /// The processes whose connections wait at the gateway.
    fn accept(&self) -> Vec<u32> {
        let Ok(capture) = PinnedCapture::open(&self.pin_dir) else { return Vec::new() };
        let mut all = Vec::new();
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                all.extend(capture.record(stream.as_fd()).map(|record| record.process.key.tgid));
            }
        }
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(cgroup::join(&self.home, None));
        drop(loader::detach(&self.pin_dir));
        let deadline = Instant::now() + PATIENCE;
        for dir in [&self.captured, &self.gateway, &self.top] {
            while !cgroup::remove(dir).unwrap_or(true) && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        let mount = self.tmp.path().join("bpf");
        if mount.exists() {
            let unmounted = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
            assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
        }
    }
}

/// A running attempt; killed when dropped.
pub(crate) struct Attempt {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    name: String,
    /// What the far end had seen when it started.
    before: (u64, u64),
}

impl Attempt {
    /// Waits until the first of two steps is done; an errno if it failed.
    pub(crate) fn ready(&mut self) -> Result<(), i64> {
        let said = self.line();
        if said == "ready" { Ok(()) } else { Err(said["errno"].as_i64().unwrap()) }
    }

    /// Ends what it waits for.
    pub(crate) fn go(&mut self) {
        drop(self.child.stdin.take().unwrap().write_all(b"x"));
    }

    fn answer(&mut self) -> i64 {
        self.line()["errno"].as_i64().unwrap_or_else(|| panic!("{}: no errno", self.name))
    }

    pub(crate) fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{} said {line:?}: {error}", self.name))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
