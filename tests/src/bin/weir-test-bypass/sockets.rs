//! Sockets of every kind, and what is sent on them to the far end.
//!
//! - input: destinations
//! - output: one packet or connection each
//! - bound: a second per connect
//! - on failure: the operating system's answer

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub(crate) const FAR: &str = "203.0.113.10";
pub(crate) const DEVICE: &str = "wv0";
pub(crate) const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ETHERTYPE_V4: u16 = 0x0800;

pub(crate) fn far(port: u16) -> String {
    format!("{FAR}:{port}")
}

pub(crate) fn addr(text: &str) -> SockAddr {
    text.parse::<SocketAddr>().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into()).into()
}

pub(crate) fn stream() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

pub(crate) fn tcp(to: &str) -> io::Result<()> {
    let to = addr(to);
    let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&to, Duration::from_secs(1))
}

pub(crate) fn tcp_with(prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<()> {
    let socket = stream()?;
    prepare(&socket)?;
    socket.connect_timeout(&addr(&far(443)), Duration::from_secs(1))
}

pub(crate) fn udp_socket(to: &str) -> io::Result<UdpSocket> {
    UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })
}

pub(crate) fn udp(to: &str) -> io::Result<()> {
    udp_socket(to)?.send_to(b"x", to).map(drop)
}

pub(crate) fn udp_connected(to: &str) -> io::Result<()> {
    let socket = udp_socket(to)?;
    socket.connect(to)?;
    socket.send(b"x").map(drop)
}

pub(crate) fn raw_socket(protocol: i32) -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)))
}

pub(crate) fn raw(protocol: i32, bytes: &[u8]) -> io::Result<()> {
    raw_socket(protocol)?.send_to(bytes, &addr(&far(0))).map(drop)
}

pub(crate) fn packet_socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, None)
}

/// A frame of our own, to the far end's hardware address.
#[expect(unsafe_code, reason = "no safe wrapper makes a link-layer address")]
pub(crate) fn packet_send(socket: &Socket) -> io::Result<()> {
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
pub(crate) fn ipv4_packet(to: &str) -> Vec<u8> {
    let octets = to.parse::<std::net::Ipv4Addr>().map_or([0; 4], |ip| ip.octets());
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 1];
    packet.extend(octets);
    packet.extend([0x1e, 0x61, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    packet
}

#[expect(unsafe_code, reason = "no safe wrapper sets options by number")]
pub(crate) fn option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, `value` lives through the call and has the size we say.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "no safe wrapper passes AF_UNSPEC to connect")]
pub(crate) fn dissolve(socket: &Socket) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr.
    let none: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, `none` lives through the call and has that size.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), &raw const none, 16) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// io_uring makes the socket and connects it, perhaps in a kernel thread.
#[expect(unsafe_code, reason = "submission entries carry pointers")]
pub(crate) fn ring_connect(sqpoll_idle_ms: u32, force_async: bool) -> io::Result<()> {
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
