//! A captured process for the kernel tests: joins a cgroup, makes sockets, says what it saw.
//!
//! - input: `[--cgroup DIR] [--uid N] [--netns] [--enter NETNS] COMMAND ARGS…`; end of standard input ends it
//! - output: one JSON line per step on standard output
//! - bound: what the command line says
//! - on failure: an error on standard error and exit status 1; refused calls are output, not failure

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_gateway::capture::Capture as _;
use weir_gateway::capture::maps::{PinnedCapture, counters};

fn main() -> anyhow::Result<()> {
    let mut args: std::collections::VecDeque<String> = std::env::args().skip(1).collect();
    let mut next = move || args.pop_front();
    let mut word = next().context("no command")?;
    loop {
        match word.as_str() {
            "--cgroup" => {
                let dir = next().context("--cgroup needs a directory")?;
                weir_gateway::capture::cgroup::join(Path::new(&dir), None)?;
            }
            "--uid" => {
                let uid: u32 = next().context("--uid needs a number")?.parse()?;
                nix::unistd::setgid(uid.into())?;
                nix::unistd::setuid(uid.into())?;
            }
            "--netns" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?,
            "--enter" => {
                let path = next().context("--enter needs a namespace")?;
                let netns = std::fs::File::open(path)?;
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            _ => break,
        }
        word = next().context("no command")?;
    }
    let mut rest = || next().with_context(|| format!("{word} needs another argument"));
    match word.as_str() {
        "connect" => {
            let socket = connect(rest()?.parse()?)?;
            wait_for_end()?;
            drop(socket);
        }
        "connect-briefly" => {
            let to: SocketAddr = rest()?.parse()?;
            let socket = tcp(to)?;
            let failed = socket.connect_timeout(&to.into(), Duration::from_millis(500));
            // A timeout of our own has no number.
            say(&json!({ "errno": errno(failed) }))?;
        }
        "connect-from-device" => connect_from_device(&rest()?, rest()?.parse()?)?,
        "connect-twice" => connect_twice(rest()?.parse()?, rest()?.parse()?)?,
        "reconnect" => reconnect(rest()?.parse()?, rest()?.parse()?)?,
        "abandon" => abandon(rest()?.parse()?, rest()?.parse()?)?,
        "udp-connect" => {
            let socket = unbound_udp(rest()?.parse()?)?;
            say(&json!({ "errno": errno(socket.1.connect(socket.0)) }))?;
        }
        "udp-send" => {
            let socket = unbound_udp(rest()?.parse()?)?;
            say(&json!({ "errno": errno(socket.1.send_to(b"x", socket.0)) }))?;
        }
        "udp-ask" => {
            let (to, socket) = unbound_udp(rest()?.parse()?)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let done = socket.connect(to).and_then(|()| socket.send(b"x"));
            say(&json!({ "errno": errno(done.and_then(|_sent| socket.recv(&mut [0; 1]))) }))?;
        }
        "read-record" => read_record(Path::new(&rest()?))?,
        "hold" => hold(rest()?.parse()?, rest()?.parse()?)?,
        "churn" => churn(rest()?.parse()?, rest()?.parse()?, rest()?.parse()?)?,
        other => bail!("unknown command {other}"),
    }
    Ok(())
}

fn say(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn wait_for_end() -> anyhow::Result<()> {
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_done| 0)
}

fn tcp(to: SocketAddr) -> anyhow::Result<Socket> {
    Ok(Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?)
}

fn unbound_udp(to: SocketAddr) -> anyhow::Result<(SocketAddr, UdpSocket)> {
    let from: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    Ok((to, UdpSocket::bind(from)?))
}

/// Connects and reports: the error, the peer that `getpeername` shows, and the socket's cookie.
fn connect(to: SocketAddr) -> anyhow::Result<Socket> {
    let socket = tcp(to)?;
    report(&socket, to)?;
    Ok(socket)
}

fn report(socket: &Socket, to: SocketAddr) -> anyhow::Result<()> {
    let failed = errno(socket.connect_timeout(&to.into(), Duration::from_secs(10)));
    let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
    let cookie = cookie(socket)?;
    say(&json!({ "errno": failed, "peer": peer.map(|peer| peer.to_string()), "cookie": cookie }))
}

fn cookie(socket: &Socket) -> anyhow::Result<u64> {
    Ok(socket.cookie()?)
}

/// Bound to a device through which loopback cannot be reached.
fn connect_from_device(device: &str, to: SocketAddr) -> anyhow::Result<()> {
    let socket = tcp(to)?;
    socket.bind_device(Some(device.as_bytes()))?;
    report(&socket, to)?;
    wait_for_end()
}

/// Connects, dissolves the association, and connects the same socket somewhere else.
fn reconnect(first: SocketAddr, second: SocketAddr) -> anyhow::Result<()> {
    let socket = tcp(first)?;
    report(&socket, first)?;
    dissolve(&socket)?;
    report(&socket, second)?;
    wait_for_end()
}

/// The same, with the second connect when a line comes.
fn connect_twice(first: SocketAddr, second: SocketAddr) -> anyhow::Result<()> {
    let socket = tcp(first)?;
    report(&socket, first)?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    dissolve(&socket)?;
    report(&socket, second)?;
    wait_for_end()
}

/// Starts to connect from a given port and gives up before anybody answers.
fn abandon(from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let socket = tcp(to)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.set_nonblocking(true)?;
    let failed = errno(socket.connect(&to.into()));
    drop(socket);
    say(&json!({ "errno": failed }))
}

#[expect(unsafe_code, reason = "no safe wrapper passes AF_UNSPEC to connect")]
fn dissolve(socket: &Socket) -> anyhow::Result<()> {
    // SAFETY: all-zero is a valid sockaddr.
    let mut none: libc::sockaddr = unsafe { std::mem::zeroed() };
    none.sa_family = u16::try_from(libc::AF_UNSPEC)?;
    let len = u32::try_from(size_of::<libc::sockaddr>())?;
    // SAFETY: the descriptor is open, `none` lives through the call and has `len` bytes.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), &raw const none, len) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Plays the gateway: standard input is an accepted socket.
fn read_record(pin_dir: &Path) -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capture = PinnedCapture::open(pin_dir)?;
    capture.beat()?;
    let record = capture.record(std::io::stdin().as_fd())?;
    let redirected = counters(pin_dir)?.into_iter().find(|(name, _)| *name == "connect_redirected");
    say(&json!({
        "capabilities": capabilities.map(str::trim),
        "orig_dst": record.orig_dst.0.to_string(),
        "tgid": record.process.key.tgid,
        "redirected": redirected.map(|(_, value)| value),
    }))
}

/// Process `index` opens `count` connections to addresses that say who they are, and holds them.
fn hold(index: u8, count: u16) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for number in 0..count {
        let to = destination(index, number);
        let socket = tcp(to)?;
        socket.connect(&SockAddr::from(to)).with_context(|| format!("connect {number}"))?;
        anyhow::ensure!(
            socket.peer_addr()?.as_socket() == Some(to),
            "getpeername of connection {number} does not show {to}"
        );
        send_claim(&socket, to)?;
        held.push(socket);
    }
    say(&json!({ "connected": held.len() }))?;
    wait_for_end()
}

/// Process `index` makes `count` connections one after the other from few source ports, and
/// resets seven of eight as soon as it has said who it is: their ports are used again while the
/// gateway has not accepted them.
fn churn(index: u8, count: u16, ports: u16) -> anyhow::Result<()> {
    let base = 20_000 + u16::from(index) * 64;
    let (mut done, mut busy, mut port) = (0_u16, 0_u64, 0_u16);
    while done < count {
        port = (port + 1) % ports;
        let to = destination(index, done);
        let socket = tcp(to)?;
        socket.set_reuse_address(true)?;
        let from: SocketAddr = ([127, 0, 0, 1], base + port).into();
        let connected =
            socket.bind(&from.into()).and_then(|()| socket.connect(&SockAddr::from(to)));
        if let Err(error) = connected {
            anyhow::ensure!(
                matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL)),
                "connection {done}: {error}"
            );
            busy += 1;
            anyhow::ensure!(busy < 50_000_000, "all source ports stay busy");
            continue;
        }
        send_claim(&socket, to)?;
        if done % 8 != 7 {
            socket.set_linger(Some(Duration::ZERO))?;
        } else {
            // The gateway closes first and keeps the waiting state, so the port is free at once.
            let mut end = [0_u8; 1];
            let mut stream = &socket;
            drop(std::io::Read::read(&mut stream, &mut end));
        }
        done += 1;
    }
    say(&json!({ "connected": done, "busy": busy }))?;
    wait_for_end()
}

/// `198.18.INDEX.LOW:PORT`, unique for each connection of a run.
fn destination(index: u8, number: u16) -> SocketAddr {
    let low = u8::try_from(number % 250).unwrap_or(0);
    ([198, 18, index, low], 1000 + number).into()
}

/// Twenty bytes: process id, socket cookie, and where we wanted to go.
fn send_claim(socket: &Socket, to: SocketAddr) -> anyhow::Result<()> {
    let SocketAddr::V4(to) = to else { bail!("claims are for IPv4") };
    let mut claim = Vec::with_capacity(20);
    claim.extend(std::process::id().to_be_bytes());
    claim.extend(cookie(socket)?.to_be_bytes());
    claim.extend(to.ip().octets());
    claim.extend(to.port().to_be_bytes());
    claim.extend([0; 2]);
    anyhow::ensure!(socket.send(&claim)? == claim.len(), "claim was cut");
    Ok(())
}
