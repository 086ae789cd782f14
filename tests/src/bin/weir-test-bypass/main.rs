//! One attempt to get a packet past the capture, from inside it.
//!
//! - input: `ATTEMPT CAPTURED ROOT NETNS`: what to try, the captured cgroup, the hierarchy's root,
//!   and another network namespace; a line on standard input where an attempt has two steps
//! - output: `ready` where an attempt has two steps; then one JSON line with the `errno`
//! - bound: a few packets
//! - on failure: exit status 1, when the attempt could not even be tried

use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use weir_gateway::capture::cgroup;

mod sockets;

use sockets::{
    DEVICE, FAR, addr, dissolve, far, ipv4_packet, option, packet_send, packet_socket, raw,
    raw_socket, ring_connect, stream, tcp, tcp_with, udp, udp_connected,
};

const IPPROTO_MPTCP: i32 = 262;

struct Place {
    captured: PathBuf,
    root: PathBuf,
    netns: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [attempt, captured, root, netns] = args.as_slice() else {
        anyhow::bail!("ATTEMPT CAPTURED ROOT NETNS");
    };
    let place = Place { captured: captured.into(), root: root.into(), netns: netns.into() };
    let errno = match run(attempt, &place) {
        Ok(()) => 0,
        Err(error) => match error.raw_os_error() {
            Some(errno) => errno,
            // Of `connect_timeout`, which has no number for it.
            None if error.kind() == io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            None => return Err(error.into()),
        },
    };
    println_json(&json!({ "errno": errno }))?;
    Ok(())
}

fn println_json(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// Waits for the harness between the two steps of an attempt.
fn pause() -> io::Result<()> {
    println_json(&json!("ready"))?;
    io::stdin().lock().read_exact(&mut [0]).map(drop)
}

fn run(attempt: &str, place: &Place) -> io::Result<()> {
    let inside = || join(place);
    match attempt {
        "tcp4" => inside().and_then(|()| tcp(&far(443))),
        "tcp6" => inside().and_then(|()| tcp("[2001:db8:f::10]:443")),
        "tcp-mapped" => inside().and_then(|()| tcp(&format!("[::ffff:{FAR}]:443"))),
        "tcp-other-port" => inside().and_then(|()| tcp(&far(22))),
        "tcp-bound-source" => inside().and_then(|()| tcp_with(|s| s.bind(&addr("198.51.100.1:0")))),
        "tcp-bound-device" => {
            inside().and_then(|()| tcp_with(|s| s.bind_device(Some(DEVICE.as_bytes()))))
        }
        "tcp-mark" => inside().and_then(|()| tcp_with(|s| s.set_mark(0x1234))),
        "tcp-fastopen-connect" => inside().and_then(|()| {
            let socket = stream()?;
            option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
            socket.connect(&addr(&far(443)))?;
            socket.send(b"x").map(drop)
        }),
        "tcp-fastopen-send" => inside().and_then(|()| {
            let socket = stream()?;
            socket.send_to_with_flags(b"x", &addr(&far(443)), libc::MSG_FASTOPEN).map(drop)
        }),
        "tcp-reconnect" => inside().and_then(|()| {
            let socket = stream()?;
            drop(socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1)));
            dissolve(&socket)?;
            socket.connect_timeout(&addr(&far(80)), Duration::from_secs(1))
        }),
        "mptcp" => inside().and_then(|()| {
            let protocol = Protocol::from(IPPROTO_MPTCP);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
            socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
        }),
        "sctp" => inside().and_then(|()| {
            let protocol = Protocol::from(libc::IPPROTO_SCTP);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
            socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
        }),
        "io-uring" => inside().and_then(|()| ring_connect(0, false)),
        "io-uring-sqpoll" => inside().and_then(|()| ring_connect(1000, false)),
        "io-uring-async" => inside().and_then(|()| ring_connect(0, true)),
        "tcp-existing" => {
            inside()?;
            let socket = stream()?;
            socket.connect(&addr(&far(443)))?;
            pause()?;
            socket.send(b"x")?;
            // What the kernel sends again counts as well.
            std::thread::sleep(Duration::from_millis(300));
            Ok(())
        }
        "tcp-listening" => {
            inside()?;
            let socket = stream()?;
            socket.bind(&addr("0.0.0.0:8080"))?;
            socket.listen(1)?;
            pause()?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let (mut peer, _) = socket.accept()?;
            peer.write_all(b"x")
        }
        "udp-connect-443" => inside().and_then(|()| udp_connected(&far(443))),
        "udp-sendto-443" => inside().and_then(|()| udp(&far(443))),
        "udp-sendto-53" => inside().and_then(|()| udp(&far(53))),
        "udp-connect-53" => inside().and_then(|()| udp_connected(&far(53))),
        "udp-sendto-5000" => inside().and_then(|()| udp(&far(5000))),
        "udp6-sendto-5000" => inside().and_then(|()| udp("[2001:db8:f::10]:5000")),
        "udp-broadcast" => inside().and_then(|()| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_broadcast(true)?;
            socket.send_to(b"x", "198.51.100.255:5000").map(drop)
        }),
        "udp-multicast" => inside().and_then(|()| udp("239.1.2.3:5000")),
        "udp-existing" => {
            inside()?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(far(443))?;
            pause()?;
            socket.send(b"x").map(drop)
        }
        "group-join" => inside().and_then(|()| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.join_multicast_v4(
                &std::net::Ipv4Addr::new(239, 1, 2, 3),
                &[198, 51, 100, 1].into(),
            )?;
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        }),
        "udplite" => inside().and_then(|()| {
            let protocol = Protocol::from(libc::IPPROTO_UDPLITE);
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(protocol))?;
            socket.send_to(b"x", &addr(&far(5000))).map(drop)
        }),
        "ping" => inside().and_then(|()| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?;
            socket.send_to(&[8, 0, 0, 0, 0, 1, 0, 1], &addr(&far(0))).map(drop)
        }),
        "raw-tcp" => inside().and_then(|()| raw(libc::IPPROTO_RAW, &ipv4_packet(FAR))),
        "raw-other" => inside().and_then(|()| raw(253, b"twenty or more bytes")),
        "raw-existing" => {
            inside()?;
            let socket = raw_socket(libc::IPPROTO_RAW)?;
            pause()?;
            socket.send_to(&ipv4_packet(FAR), &addr(&far(0))).map(drop)
        }
        "raw-existing-spoofed" => {
            // The header says loopback, the route does not.
            inside()?;
            let socket = raw_socket(libc::IPPROTO_RAW)?;
            pause()?;
            socket.send_to(&ipv4_packet("127.0.0.1"), &addr(&far(0))).map(drop)
        }
        "packet" => inside().and_then(|()| packet_send(&packet_socket()?)),
        "packet-qdisc-bypass" => inside().and_then(|()| {
            let socket = packet_socket()?;
            option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
            packet_send(&socket)
        }),
        "packet-existing-bypass" => {
            inside()?;
            let socket = packet_socket()?;
            option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
            pause()?;
            packet_send(&socket)
        }
        "xdp" => inside().and_then(|()| {
            const XDP_TX_RING: i32 = 3;
            let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)?;
            option(&socket, libc::SOL_XDP, XDP_TX_RING, 64)
        }),
        "vsock" => inside().and_then(|()| Socket::new(Domain::VSOCK, Type::STREAM, None).map(drop)),
        "move-root" => {
            inside()?;
            cgroup::join(&place.root, None).map_err(io::Error::other)?;
            tcp(&far(443))
        }
        "move-user" => {
            inside()?;
            become_nobody()?;
            // Not a failure of the attempt: this is how it is meant to end.
            if cgroup::join(&place.root, None).is_err() {
                return Err(io::Error::from_raw_os_error(libc::EACCES));
            }
            tcp(&far(443))
        }
        "made-inside-moved" => {
            inside()?;
            let socket = stream()?;
            cgroup::join(&place.root, None).map_err(io::Error::other)?;
            socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
        }
        "made-outside-joined" => {
            let socket = stream()?;
            inside()?;
            socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
        }
        "made-outside-udp" => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            inside()?;
            socket.send_to(b"x", far(5000)).map(drop)
        }
        "passed-unconnected" => passed(
            place,
            |_| Ok(()),
            |socket| socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1)),
        ),
        "passed-connected" => passed(
            place,
            // Its end is a reset, which is not counted: a FIN would be, also after a refusal.
            |socket| {
                socket.set_linger(Some(Duration::ZERO))?;
                socket.connect(&addr(&far(443)))
            },
            |socket| socket.send(b"more").map(drop),
        ),
        "unix-proxy" => unix_proxy(place),
        "netns-tcp" => elsewhere(place).and_then(|()| tcp(&far(443))),
        "netns-udp" => elsewhere(place).and_then(|()| udp(&far(5000))),
        "netns-packet" => elsewhere(place).and_then(|()| packet_send(&packet_socket()?)),
        "new-netns" => {
            inside()?;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            tcp(&far(443))
        }
        "hold" => inside().and_then(|()| hold()),
        "churn" => inside().and_then(|()| churn()),
        "bind-gateway-port" => inside().and_then(|()| {
            // Not while it listens: what is tried is to be there first.
            UdpSocket::bind("127.0.0.1:15443").map(drop)
        }),
        _ => Err(io::Error::other("unknown attempt")),
    }
}

/// Holds as many connections as there are source ports for.
fn hold() -> io::Result<()> {
    // Sockets spread over the gateway's addresses by chance: some find theirs full.
    const TRIES: usize = 2000;
    let mut held = Vec::new();
    for _ in 0..TRIES {
        let socket = stream()?;
        match socket.connect(&addr(&far(443))) {
            Ok(()) => held.push(socket),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            Err(error) => return Err(error),
        }
    }
    println_json(&json!({ "held": held.len() }))?;
    io::stdin().lock().read_exact(&mut [0]).map(drop)
}

/// Connects again and again, until standard input ends; each time the gateway closes first.
fn churn() -> io::Result<()> {
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let end = std::sync::Arc::clone(&ended);
    std::thread::spawn(move || {
        drop(io::stdin().lock().read_exact(&mut [0]));
        end.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    println_json(&json!("ready"))?;
    let (mut connected, mut failed) = (0_u64, 0_u64);
    while !ended.load(std::sync::atomic::Ordering::SeqCst) {
        let socket = stream()?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let done = socket
            .connect_timeout(&addr(&far(443)), Duration::from_secs(5))
            .and_then(|()| (&socket).read(&mut [0]));
        match done {
            Ok(_) => connected += 1,
            Err(_) => failed += 1,
        }
    }
    println_json(&json!({ "connected": connected, "failed": failed }))
}

fn join(place: &Place) -> io::Result<()> {
    cgroup::join(&place.captured, None).map_err(io::Error::other)
}

/// Inside the captured cgroup, but in a network namespace that weir does not know.
fn elsewhere(place: &Place) -> io::Result<()> {
    join(place)?;
    let netns = std::fs::File::open(&place.netns)?;
    Ok(nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

fn become_nobody() -> io::Result<()> {
    nix::unistd::setgid(65534.into())?;
    Ok(nix::unistd::setuid(65534.into())?)
}

/// A cooperating process outside prepares a socket and passes it to us inside.
#[expect(unsafe_code, reason = "forks, and takes over a descriptor that was passed")]
#[expect(clippy::exit, reason = "a forked child must not run what its parent does next")]
fn passed(
    place: &Place,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
    use_it: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread.
    if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }? {
        let given =
            stream().and_then(|socket| prepare(&socket).map(|()| socket)).and_then(|socket| {
                let fds = [socket.as_raw_fd()];
                let message = [ControlMessage::ScmRights(&fds)];
                let text = [io::IoSlice::new(b"x")];
                sendmsg::<()>(theirs.as_raw_fd(), &text, &message, MsgFlags::empty(), None)?;
                Ok(())
            });
        std::process::exit(i32::from(given.is_err()));
    }
    drop(theirs);
    join(place)?;
    let mut byte = [0];
    let mut text = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let received = recvmsg::<()>(ours.as_raw_fd(), &mut text, Some(&mut space), MsgFlags::empty())?;
    let fd = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fd.ok_or_else(|| io::Error::other("no descriptor was passed"))?;
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) }.into();
    // What the preparation sent must not count as ours.
    pause()?;
    use_it(&socket)
}

/// A daemon outside that connects for whoever asks.
#[expect(unsafe_code, reason = "forks")]
#[expect(clippy::exit, reason = "a forked child must not run what its parent does next")]
fn unix_proxy(place: &Place) -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("proxy");
    let listener = UnixListener::bind(&path)?;
    // SAFETY: this process has one thread.
    if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }? {
        let served = listener.accept().and_then(|(mut client, _)| {
            client.read_exact(&mut [0])?;
            drop(tcp(&far(443)));
            client.write_all(b"x")
        });
        std::process::exit(i32::from(served.is_err()));
    }
    join(place)?;
    let mut client = UnixStream::connect(&path)?;
    client.write_all(b"x")?;
    client.read_exact(&mut [0]).map(drop)
}
