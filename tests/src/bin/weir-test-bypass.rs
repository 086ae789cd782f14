//! One attempt to get a packet past the capture, from inside it.
//!
//! - input: `ATTEMPT CAPTURED ROOT NETNS`: what to try, the captured cgroup, the hierarchy's root,
//!   and another network namespace; a line on standard input where an attempt has two steps
//! - output: `ready` where an attempt has two steps; then one JSON line with the `errno`
//! - bound: a few packets
//! - on failure: exit status 1, when the attempt could not even be tried

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_gateway::capture::cgroup;

const FAR: &str = "203.0.113.10";
const DEVICE: &str = "wv0";
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const IPPROTO_MPTCP: i32 = 262;
const ETHERTYPE_V4: u16 = 0x0800;

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
            |socket| socket.connect(&addr(&far(443))),
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

fn far(port: u16) -> String {
    format!("{FAR}:{port}")
}

fn addr(text: &str) -> SockAddr {
    text.parse::<SocketAddr>().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into()).into()
}

fn stream() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

fn tcp(to: &str) -> io::Result<()> {
    let to = addr(to);
    let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&to, Duration::from_secs(1))
}

fn tcp_with(prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<()> {
    let socket = stream()?;
    prepare(&socket)?;
    socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
}

fn udp_socket(to: &str) -> io::Result<UdpSocket> {
    UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })
}

fn udp(to: &str) -> io::Result<()> {
    udp_socket(to)?.send_to(b"x", to).map(drop)
}

fn udp_connected(to: &str) -> io::Result<()> {
    let socket = udp_socket(to)?;
    socket.connect(to)?;
    socket.send(b"x").map(drop)
}

fn raw_socket(protocol: i32) -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)))
}

fn raw(protocol: i32, bytes: &[u8]) -> io::Result<()> {
    raw_socket(protocol)?.send_to(bytes, &addr(&far(0))).map(drop)
}

fn packet_socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, None)
}

/// A frame of our own, to the far end's hardware address.
#[expect(unsafe_code, reason = "no safe wrapper makes a link-layer address")]
fn packet_send(socket: &Socket) -> io::Result<()> {
    let mut frame = FAR_MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHERTYPE_V4.to_be_bytes());
    frame.extend(ipv4_packet(FAR));
    let index = nix::net::if_::if_nametoindex(DEVICE)?;
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    to.sll_protocol = ETHERTYPE_V4.to_be();
    to.sll_halen = 6;
    if let Some(mac) = to.sll_addr.get_mut(..6) {
        mac.copy_from_slice(&FAR_MAC);
    }
    let len = u32::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; `frame` and `to` live through the call with these lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            len,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An IPv4 header and some bytes of TCP; the kernel fills in the checksum where it sends it.
fn ipv4_packet(to: &str) -> Vec<u8> {
    let octets = to.parse::<std::net::Ipv4Addr>().map_or([0; 4], |ip| ip.octets());
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1];
    packet.extend(octets);
    packet.extend([0x1e, 0x61, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    packet
}

#[expect(unsafe_code, reason = "no safe wrapper sets options by number")]
fn option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, `value` lives through the call and has the size we say.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "no safe wrapper passes AF_UNSPEC to connect")]
fn dissolve(socket: &Socket) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr.
    let none: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, `none` lives through the call and has that size.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), &raw const none, 16) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

/// io_uring makes the socket and connects it, perhaps in a kernel thread.
#[expect(unsafe_code, reason = "submission entries carry pointers")]
fn ring_connect(sqpoll_idle_ms: u32, force_async: bool) -> io::Result<()> {
    use io_uring::{IoUring, opcode, squeue::Flags, types::Fd};
    let mut builder = IoUring::builder();
    if sqpoll_idle_ms > 0 {
        builder.setup_sqpoll(sqpoll_idle_ms);
    }
    let mut ring = builder.build(4)?;
    let flags = if force_async { Flags::ASYNC } else { Flags::empty() };
    let mut once = |entry: io_uring::squeue::Entry| -> io::Result<i32> {
        // SAFETY: what the entry points to outlives the wait for its completion just below.
        unsafe { ring.submission().push(&entry.flags(flags)) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        let done: io_uring::cqueue::Entry =
            ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
        let result = done.result();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    };
    let fd = once(opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build())?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let to = addr(&far(443));
    once(opcode::Connect::new(Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len()).build())?;
    Ok(())
}
