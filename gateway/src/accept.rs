//! Listeners of the captured port.
//!
//! - input: connections that the hooks redirected to 127.0.0.1 or ::1
//! - output: [`Accepted`]: the socket and its capture record
//! - bound: `gateway.max_connections` over all workers; a backlog of 4096 per listener
//! - on failure: a connection without a record is closed and counted (fail closed)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

pub mod bridge;
pub mod inside;
pub mod wire;

use crate::capture::{Capture, CaptureError, Captured};
use crate::telemetry::Metrics;

/// A redirected connection with the record that the kernel keeps for it.
#[derive(Debug)]
pub struct Accepted {
    /// The downstream socket.
    pub stream: TcpStream,
    /// Where it wanted to go and who asked.
    pub captured: Captured,
}

const BACKLOG: i32 = 4096;

/// Opens the listeners of one worker: `addresses` from 127.0.0.1 on and, where the host has IPv6,
/// ::1.
///
/// Workers share the port through `SO_REUSEPORT`; the kernel spreads connections over them. Only
/// the same user can join such a group, and no captured process can bind the port at all.
///
/// # Errors
/// The operating system's answer for an IPv4 address.
pub fn listen(port: u16, addresses: u16) -> std::io::Result<Vec<std::net::TcpListener>> {
    let first = bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), false)?;
    let port = first.local_addr()?.port();
    let mut all = vec![first];
    for addr in self::addresses(port, addresses).skip(1) {
        all.push(bind(addr, false)?);
    }
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port), false) {
        Ok(v6) => all.push(v6),
        // Captured IPv6 connections then fail to connect: refused, not passed.
        Err(error) => tracing::warn!(%error, "no IPv6 listener on ::1"),
    }
    Ok(all)
}

/// The IPv4 addresses of the captured port, 127.0.0.1 first.
pub(crate) fn addresses(port: u16, count: u16) -> impl Iterator<Item = SocketAddr> {
    let first = Ipv4Addr::LOCALHOST.to_bits();
    (0..u32::from(count))
        .map(move |index| SocketAddr::new(Ipv4Addr::from_bits(first + index).into(), port))
}

/// Opens one listener. A transparent one accepts connections for addresses that the host does not
/// have.
///
/// # Errors
/// The operating system's answer.
pub(crate) fn bind(addr: SocketAddr, transparent: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent && addr.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    } else if transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Waits for the next connection and looks up its record.
///
/// # Errors
/// The inner error is a connection that must be closed; the outer one is the listener's.
///
/// # Cancel safety
/// Safe: a connection is either still queued or returned.
pub async fn accept(
    listener: &TcpListener,
    capture: &Arc<dyn Capture>,
    metrics: &Metrics,
) -> std::io::Result<Result<Accepted, CaptureError>> {
    let (stream, _) = listener.accept().await?;
    metrics.flows_total.inc();
    // Small writes (heads, events) must not wait for acknowledgements.
    stream.set_nodelay(true)?;
    Ok(match capture.record(stream.as_fd()) {
        Ok(captured) => Ok(Accepted { stream, captured }),
        Err(error) => {
            metrics.failed(&error);
            Err(error)
        }
    })
}
