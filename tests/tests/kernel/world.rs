//! A capture of its own for each test, and the processes inside it.
//!
//! - input: a name, excluded destinations
//! - output: [`World`]: attached programs, a listening gateway, client processes
//! - bound: every wait ends after [`PATIENCE`]
//! - on failure: panics; `Drop` removes what was made

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use weir_gateway::capture::loader::{self, AttachSpec};
use weir_gateway::capture::maps::{self, PinnedCapture};
use weir_gateway::capture::{Capture as _, CaptureError, Captured, cgroup};
use weir_gateway::config::Net;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT: &str = env!("CARGO_BIN_EXE_weir-test-client");

/// Directories for one test: cgroups below `weir-test-PID-NAME`, pins on a bpffs of its own.
pub(crate) struct Places {
    pub(crate) top: PathBuf,
    pub(crate) captured: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) pin_dir: PathBuf,
    pub(crate) home: PathBuf,
    tmp: tempfile::TempDir,
}

impl Places {
    pub(crate) fn new(name: &str) -> Self {
        let mount = cgroup::mount().expect("these tests need cgroup2");
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let home = mount.join(own);
        let top = mount.join(format!("weir-test-{}-{name}", std::process::id()));
        let tmp = tempfile::tempdir().unwrap();
        let pin_dir = tmp.path().join("bpf/weir");
        let (captured, gateway) = (top.join("captured"), top.join("gateway"));
        Self { top, captured, gateway, pin_dir, home, tmp }
    }

    pub(crate) fn spec(&self, gateway_port: u16, exclude: &[&str]) -> AttachSpec {
        AttachSpec {
            captured: self.captured.clone(),
            gateway: self.gateway.clone(),
            gateway_port,
            pin_dir: self.pin_dir.clone(),
            exclude: exclude.iter().map(|text| net(text)).collect(),
            addresses: 1,
            dns_port: 0,
            allow_dns: true,
            // Neither devices nor the packet filter of the host that runs the tests.
            devices: Vec::new(),
            nftables: false,
            danger_fail_open: false,
            bridges: Vec::new(),
            lsm: true,
            upgrade: false,
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        cgroup::join(&self.home, None).unwrap();
        drop(loader::detach(&self.pin_dir));
        let deadline = Instant::now() + PATIENCE;
        for dir in [&self.captured, &self.gateway, &self.top] {
            // A killed process leaves its cgroup a moment after it was waited for.
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

fn net(text: &str) -> Net {
    let (addr, len) = text.split_once('/').unwrap();
    Net { addr: addr.parse().unwrap(), prefix_len: len.parse().unwrap() }
}

/// Attached programs and a gateway that listens on both loopback addresses.
pub(crate) struct World {
    pub(crate) v4: TcpListener,
    pub(crate) v6: TcpListener,
    pub(crate) port: u16,
    pub(crate) capture: PinnedCapture,
    pub(crate) places: Places,
}

impl World {
    pub(crate) fn new(name: &str, exclude: &[&str]) -> Self {
        Self::with(name, exclude, |_| {})
    }

    /// With another attach.
    pub(crate) fn with(name: &str, exclude: &[&str], change: impl FnOnce(&mut AttachSpec)) -> Self {
        let places = Places::new(name);
        cgroup::create(&places.gateway).unwrap();
        // Sockets belong to the cgroup in which they are made.
        cgroup::join(&places.gateway, None).unwrap();
        let v4 = listen((Ipv4Addr::LOCALHOST, 0).into());
        let port = v4.local_addr().unwrap().port();
        let v6 = listen((Ipv6Addr::LOCALHOST, port).into());
        cgroup::join(&places.home, None).unwrap();
        let mut spec = places.spec(port, exclude);
        change(&mut spec);
        loader::attach(&spec).expect("attach");
        let capture = PinnedCapture::open(&places.pin_dir).expect("open pins");
        Self { v4, v6, port, capture, places }
    }

    /// Starts a client inside the captured cgroup.
    pub(crate) fn client(&self, args: &[&str]) -> Client {
        let mut all = vec!["--cgroup", self.places.captured.to_str().unwrap()];
        all.extend(args);
        Client::start(&all)
    }

    pub(crate) fn accept_v4(&self) -> (TcpStream, Result<Captured, CaptureError>) {
        self.accept(&self.v4)
    }

    pub(crate) fn accept_v6(&self) -> (TcpStream, Result<Captured, CaptureError>) {
        self.accept(&self.v6)
    }

    fn accept(&self, listener: &TcpListener) -> (TcpStream, Result<Captured, CaptureError>) {
        let (stream, _peer) = listener.accept().expect("a redirected connection");
        let record = self.capture.record(stream.as_fd());
        (stream, record)
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let all = maps::counters(&self.places.pin_dir).unwrap();
        all.into_iter().find_map(|(found, value)| (found == name).then_some(value)).unwrap()
    }
}

/// A listener whose `accept` gives up after [`PATIENCE`].
pub(crate) fn listen(on: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(on), Type::STREAM, Some(Protocol::TCP)).unwrap();
    if on.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&on.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// A running test client; killed when dropped.
pub(crate) struct Client {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    pub(crate) args: Vec<String>,
}

impl Client {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::piped())
    }

    pub(crate) fn start_with(args: &[&str], stdin: Stdio) -> Self {
        let mut child =
            Command::new(CLIENT).args(args).stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let args = std::iter::once(CLIENT).chain(args.iter().copied()).map(str::to_owned).collect();
        Self { child, lines, args }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that the client says.
    pub(crate) fn say(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{:?} said {line:?}: {error}", self.args);
        })
    }

    pub(crate) fn errno(&mut self) -> i64 {
        self.say()["errno"].as_i64().unwrap()
    }

    /// Lets a client that waits for a line go on.
    pub(crate) fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Ends the client's wait and checks that it had no complaint.
    pub(crate) fn finish(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{:?}: {status}", self.args);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Start time of a process in clock ticks since boot, from `/proc/PID/stat`.
pub(crate) fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may contain anything; field 22 is the twentieth after it.
    let after = stat.rsplit_once(')').unwrap().1;
    after.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// A recorded start time in the same unit. `USER_HZ` is 100 on every architecture we build for.
pub(crate) fn ticks(start_time_ns: u64) -> u64 {
    start_time_ns / 10_000_000
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
