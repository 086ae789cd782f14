//! A host with bridges, containers on them, and the far end of its uplink: network namespaces.
//!
//! - input: bridges, containers
//! - output: the calling thread in the "host" namespace; packets counted at the far end
//! - bound: a handful of namespaces; every wait ends after [`PATIENCE`]
//! - on failure: panics; the namespaces go with their last thread

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use weir_gateway::accept;
use weir_gateway::capture::loader::{self, AttachSpec};
use weir_gateway::capture::maps::{self, PinnedCapture};
use weir_gateway::capture::{Capture as _, CaptureError, Captured, cgroup, netns};

use crate::world::{Client, PATIENCE, Places};

/// Runs commands in the calling thread's namespace, and answers what they print.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace that lives as long as this.
pub(crate) struct Netns {
    pub(crate) path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::sync_channel(1);
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            sender.send(own.into()).unwrap();
            while !until.load(Ordering::SeqCst) {
                std::thread::park();
            }
        });
        Self { path: receiver.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// Runs commands inside.
    pub(crate) fn sh(&self, line: &str) -> String {
        let path = self.path.to_str().unwrap();
        let inside = Command::new("nsenter")
            .args([&format!("--net={path}"), "sh", "-ec", line])
            .output()
            .unwrap();
        assert!(inside.status.success(), "{line}: {}", String::from_utf8_lossy(&inside.stderr));
        String::from_utf8(inside.stdout).unwrap()
    }

    pub(crate) fn open(&self) -> std::fs::File {
        std::fs::File::open(&self.path).unwrap()
    }

    pub(crate) fn cookie(&self) -> u64 {
        netns::cookie_of(self.open().as_fd()).unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A host with an uplink: 198.51.100.1 and 2001:db8::1, and the internet behind it.
pub(crate) struct Host {
    far: Netns,
}

impl Host {
    /// The calling thread is in it from now on.
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let far = Netns::new();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_ne!(own, std::fs::read_link("/proc/self/ns/net").unwrap(), "in the host's own");
        sh(&format!(
            "ip link set lo up
             ip link add up0 type veth peer name far0
             ip link set far0 netns {}
             ip addr add 198.51.100.1/24 dev up0
             ip -6 addr add 2001:db8::1/64 dev up0 nodad
             ip link set up0 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            tid(&far.path),
        ));
        far.sh("ip addr add 198.51.100.2/24 dev far0
                ip -6 addr add 2001:db8::2/64 dev far0 nodad
                ip link set far0 up
                ip addr add 203.0.113.10/32 dev lo
                ip -6 addr add 2001:db8:f::10/128 dev lo nodad
                nft add table inet seen
                nft 'add chain inet seen wire { type filter hook prerouting priority -300; }'
                nft add rule inet seen wire iifname far0 ip daddr 203.0.113.0/24 counter
                nft add rule inet seen wire iifname far0 ip6 daddr 2001:db8:f::/48 counter");
        sh("ip route add default via 198.51.100.2
            ip -6 route add default via 2001:db8::2");
        Self { far }
    }

    /// Packets to the internet that crossed the wire.
    pub(crate) fn left(&self) -> u64 {
        let shown = self.far.sh("nft list table inet seen");
        let after = shown.split("counter packets ").skip(1);
        after.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// A bridge with the first address of 10.77.NUMBER.0/24 and of 2001:db8:77:NUMBER::/64.
    pub(crate) fn bridge(&self, number: u8) -> String {
        let name = format!("wbr{number}");
        sh(&format!(
            "ip link add {name} type bridge
             ip addr add 10.77.{number}.1/24 dev {name}
             ip -6 addr add 2001:db8:77:{number}::1/64 dev {name} nodad
             ip link set {name} up"
        ));
        name
    }

    /// A container on a bridge, with addresses that end in `last`.
    pub(crate) fn container(&self, number: u8, last: u8) -> Netns {
        let inside = Netns::new();
        self.plug(&inside, number, last, "eth0");
        inside.sh(&format!(
            "ip route add default via 10.77.{number}.1
             ip -6 route add default via 2001:db8:77:{number}::1"
        ));
        inside
    }

    /// Another device of a container.
    pub(crate) fn plug(&self, inside: &Netns, number: u8, last: u8, device: &str) {
        sh(&format!(
            "ip link add wv{number}x{last} type veth peer name {device} netns {}
             ip link set wv{number}x{last} master wbr{number} up",
            tid(&inside.path),
        ));
        inside.sh(&format!(
            "ip addr add 10.77.{number}.{last}/24 dev {device}
             ip -6 addr add 2001:db8:77:{number}::{last}/64 dev {device} nodad
             ip link set {device} up"
        ));
        // Until addresses and bridge ports are of use.
        let deadline = Instant::now() + PATIENCE;
        while !sh(&format!("ip -d link show wv{number}x{last}")).contains("state forwarding") {
            assert!(Instant::now() < deadline, "the port of {device} does not forward");
            std::thread::yield_now();
        }
    }
}

/// The number that stands for a namespace in ip's arguments.
pub(crate) fn tid(namespace: &Path) -> String {
    namespace.components().nth(4).unwrap().as_os_str().to_str().unwrap().to_owned()
}

/// An attached capture with bridges, and the transparent listeners of two workers.
pub(crate) struct Bridged {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) capture: PinnedCapture,
    pub(crate) places: Places,
    pub(crate) spec: AttachSpec,
    pub(crate) host: Host,
}

impl Bridged {
    /// Bridges `wbr0` to `wbrN`.
    pub(crate) fn new(name: &str, bridges: u8) -> Self {
        Self::with(name, bridges, |_| {})
    }

    pub(crate) fn with(name: &str, bridges: u8, change: impl FnOnce(&mut AttachSpec)) -> Self {
        let host = Host::new();
        let places = Places::new(name);
        let mut spec = places.spec(15_443, &["127.0.0.0/8"]);
        spec.bridges = (0..bridges).map(|number| host.bridge(number)).collect();
        change(&mut spec);
        loader::attach(&spec).expect("attach");
        let capture = PinnedCapture::open(&places.pin_dir).expect("open pins");
        let mut world = Self { listeners: Vec::new(), capture, places, spec, host };
        world.listen();
        world
    }

    /// Starts the gateway.
    pub(crate) fn listen(&mut self) {
        cgroup::join(&self.places.gateway, None).unwrap();
        let opened = accept::bridge::open(&self.places.pin_dir, 2);
        cgroup::join(&self.places.home, None).unwrap();
        self.listeners = opened.unwrap().into_iter().flatten().collect();
    }

    pub(crate) fn register(&self, inside: &Netns) -> Result<u64, CaptureError> {
        netns::register_bridged(&self.places.pin_dir, inside.open().as_fd())
    }

    /// Starts a client in a namespace, inside the captured cgroup.
    pub(crate) fn client(&self, inside: &Netns, args: &[&str]) -> Client {
        let captured = self.places.captured.to_str().unwrap();
        let mut all = vec!["--cgroup", captured, "--enter", inside.path.to_str().unwrap()];
        all.extend(args);
        Client::start(&all)
    }

    /// The next connection at any listener.
    pub(crate) fn accept(&self) -> (std::net::TcpStream, Result<Captured, CaptureError>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for listener in &self.listeners {
                if let Ok((stream, _)) = listener.accept() {
                    let record = self.capture.record(stream.as_fd());
                    return (stream, record);
                }
            }
            assert!(Instant::now() < deadline, "nothing arrives; counters: {:?}", self.counters());
            std::thread::yield_now();
        }
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let all = maps::counters(&self.places.pin_dir).unwrap();
        all.into_iter().find_map(|(found, value)| (found == name).then_some(value)).unwrap()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = maps::counters(&self.places.pin_dir).unwrap();
        all.into_iter().filter(|(_, value)| *value != 0).collect()
    }
}
