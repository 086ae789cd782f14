//! A host, the network it is connected to, and a container: three network namespaces.
//!
//! - input: none
//! - output: the calling thread in the "host" namespace; counts of what reached the far end
//! - bound: frames are counted; the newest few are kept for complaints
//! - on failure: panics; the namespaces go with their last thread

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

const ETH_P_ALL: u16 = 0x0003;
const MARKER_PORT: u16 = 9;

/// Frames kept for a complaint.
const LAST_FRAMES: usize = 12;

/// What the far end saw, and what it is asked to do.
#[derive(Default)]
struct Seen {
    frames: AtomicU64,
    /// The newest of them, in hexadecimal, to tell what an unexpected one was.
    last: Mutex<VecDeque<String>>,
    /// Apart, because the kernel repeats them for seconds.
    group_reports: AtomicU64,
    dial: AtomicBool,
    /// The last marker that arrived.
    marker: AtomicU64,
}

/// Three namespaces. The thread that made this is in the first.
pub(crate) struct Net {
    /// Path of the container's namespace.
    pub(crate) container: PathBuf,
    seen: Arc<Seen>,
    sent: AtomicU64,
    stop: Arc<AtomicBool>,
    ends: Vec<JoinHandle<()>>,
}

/// Runs a command in the calling thread's namespace.
pub(crate) fn sh(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace of one's own is the condition for everything that these tests do: independent of
/// any configuration, nothing is loaded into the one that the test process was started in.
pub(crate) fn assert_own_namespace() {
    let id = |path: &str| std::fs::read_link(path).unwrap();
    let own = id("/proc/thread-self/ns/net");
    assert_ne!(own, id("/proc/self/ns/net"), "this thread is in the host's network namespace");
}

impl Net {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert_own_namespace();
        sh("ip link set lo up");
        sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
        let (seen, stop) = (Arc::default(), Arc::default());
        let (far_path, far) = spawn(far_end(&seen, &stop));
        let (container, inner) = spawn(container_end(&stop));
        let far_tid = tid(&far_path);
        let container_tid = tid(&container);
        sh(&format!(
            "ip link add wv0 address 02:00:00:00:00:01 type veth \
               peer name wf0 address 02:00:00:00:00:02 netns {far_tid}\n\
             ip link add wx0 type veth peer name wf1 address 02:00:00:00:00:02 netns {far_tid}\n\
             ip link set wx0 name wv1 netns {container_tid}\n\
             ip addr add 198.51.100.1/24 dev wv0\n\
             ip -6 addr add 2001:db8::1/64 dev wv0 nodad\n\
             ip link set wv0 up"
        ));
        let net = Self { container, seen, sent: AtomicU64::new(0), stop, ends: vec![far, inner] };
        // Both ends wait until their devices are there, and set them up themselves.
        for end in &net.ends {
            end.thread().unpark();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !carrier() {
            assert!(Instant::now() < deadline, "the far end did not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        sh("ip route add default via 198.51.100.2\n\
            ip -6 route add default via 2001:db8::2\n\
            ip neigh replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev wv0 nud permanent\n\
            ip -6 neigh replace 2001:db8::2 lladdr 02:00:00:00:00:02 dev wv0 nud permanent");
        net
    }

    /// Frames that reached the far end and were no business of the kernel's own, so far; and
    /// reports of group memberships.
    pub(crate) fn seen(&self) -> (u64, u64) {
        (self.seen.frames.load(Ordering::SeqCst), self.seen.group_reports.load(Ordering::SeqCst))
    }

    /// The newest frames that were counted, newest first.
    pub(crate) fn last_frames(&self) -> Vec<String> {
        self.seen.last.lock().unwrap().iter().cloned().collect()
    }

    /// Waits until everything that was sent before has been counted: a marker follows it through
    /// the same queues.
    pub(crate) fn settle(&self) {
        std::thread::sleep(Duration::from_millis(3));
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        socket.send_to(&number.to_be_bytes(), ("203.0.113.10", MARKER_PORT)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.seen.marker.load(Ordering::SeqCst) < number {
            assert!(Instant::now() < deadline, "the far end does not see what is sent");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Has the far end connect to the near one.
    pub(crate) fn dial(&self) {
        self.seen.dial.store(true, Ordering::SeqCst);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for end in self.ends.drain(..) {
            end.thread().unpark();
            let ended = end.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn carrier() -> bool {
    Command::new("ip")
        .args(["link", "show", "wv0"])
        .output()
        .unwrap()
        .stdout
        .windows(8)
        .any(|w| w == b"LOWER_UP")
}

fn tid(namespace: &std::path::Path) -> String {
    namespace.components().nth(4).unwrap().as_os_str().to_str().unwrap().to_owned()
}

/// A thread in a namespace of its own, and the path of that namespace.
fn spawn(run: impl FnOnce() + Send + 'static) -> (PathBuf, JoinHandle<()>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let handle = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert_own_namespace();
        let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        sender.send(own.into()).unwrap();
        // Until the devices are here.
        std::thread::park();
        run();
    });
    (receiver.recv().unwrap(), handle)
}

fn far_end(seen: &Arc<Seen>, stop: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static + use<> {
    let (seen, stop) = (Arc::clone(seen), Arc::clone(stop));
    move || {
        sh("ip link set lo up\n\
            ip addr add 198.51.100.2/24 dev wf0\n\
            ip -6 addr add 2001:db8::2/64 dev wf0 nodad\n\
            ip addr add 192.0.2.2/24 dev wf1\n\
            ip link set wf0 up\nip link set wf1 up\n\
            ip addr add 203.0.113.10/32 dev lo\n\
            ip -6 addr add 2001:db8:f::10/128 dev lo nodad");
        // Answers, so that connections can exist; never reads, so that it has nothing to say.
        let _listeners: Vec<TcpListener> =
            ["203.0.113.10:443", "203.0.113.10:80"].map(|at| TcpListener::bind(at).unwrap()).into();
        let mut sniffer = Socket::new(
            Domain::PACKET,
            Type::RAW,
            Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))),
        )
        .unwrap();
        sniffer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut frame = [0; 2048];
        while !stop.load(Ordering::SeqCst) {
            if seen.dial.swap(false, Ordering::SeqCst) {
                let to = ([198, 51, 100, 1], 8080).into();
                drop(TcpStream::connect_timeout(&to, Duration::from_millis(300)));
            }
            let Ok(len) = sniffer.read(&mut frame) else { continue };
            if let Some(number) = marker(&frame[..len]) {
                seen.marker.store(number, Ordering::SeqCst);
                continue;
            }
            if !is_foreign(&frame[..len]) {
                continue;
            }
            let reports = [frame[12], frame[13], frame[23]] == [0x08, 0x00, 2];
            let counter = if reports { &seen.group_reports } else { &seen.frames };
            counter.fetch_add(1, Ordering::SeqCst);
            let mut last = seen.last.lock().unwrap();
            last.truncate(LAST_FRAMES - 1);
            last.push_front(hex::encode(&frame[..len.min(80)]));
        }
    }
}

fn container_end(stop: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static + use<> {
    let stop = Arc::clone(stop);
    move || {
        sh("ip link set lo up\nip link set wv1 name wv0\nip addr add 192.0.2.1/24 dev wv0\n\
            ip link set wv0 up\nip route add default via 192.0.2.2\n\
            ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev wv0 nud permanent");
        while !stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// The number in a marker: UDP over IPv4 to its port.
fn marker(frame: &[u8]) -> Option<u64> {
    let port = frame.get(36..38)? == MARKER_PORT.to_be_bytes();
    let is_udp = frame.get(12..14)? == [0x08, 0x00] && frame.get(23)? == &17;
    let number = frame.get(42..50)?.try_into().ok()?;
    (is_udp && port).then(|| u64::from_be_bytes(number))
}

/// Whether a frame came from the near side and is nothing that its kernel sends by itself.
fn is_foreign(frame: &[u8]) -> bool {
    if frame.len() < 15 || frame[6..12] == [2, 0, 0, 0, 0, 2] {
        return false;
    }
    // The far end's own loopback, where it tells itself what it could not reach: both addresses are
    // zero there, and nothing of it crossed the wire.
    if frame[..12] == [0; 12] {
        return false;
    }
    match [frame[12], frame[13]] {
        [0x08, 0x06] => false,
        [0x86, 0xdd] if frame.len() > 54 => {
            // Hop-by-hop carries multicast listener reports.
            let icmp = match frame[20] {
                58 => Some(frame[54]),
                0 => frame.get(62).copied(),
                _ => None,
            };
            !matches!(icmp, Some(130..=136 | 143))
        }
        // The kernel resets what nobody listens for, on its own behalf and without data.
        [0x08, 0x00] => !(frame[23] == 6 && frame.get(47).is_some_and(|flags| flags & 4 != 0)),
        _ => true,
    }
}
