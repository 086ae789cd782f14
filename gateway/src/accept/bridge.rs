//! Listeners of what arrives by bridges: transparent sockets that `weir_lookup` hands connections to.
//!
//! - input: connections from containers, to any address and port
//! - output: listeners; the local address of what they accept is the original destination
//! - bound: one listener per worker and family; a backlog of [`super::BACKLOG`] each
//! - on failure: the operating system's answer; connections from bridges are dropped by the kernel
//!
//! Opening needs `CAP_NET_ADMIN` (`IP_TRANSPARENT`), accepting needs nothing. The sockets are bound
//! to loopback, where nobody finds them but by map `LISTENERS`, and belong to the cgroup of the
//! calling task, which must be the gateway's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::capture::{CaptureError, netns};

/// Opens one listener per worker and family, and shows the first of each family to the kernel, which
/// spreads connections over its group. Answers each worker's share.
///
/// # Errors
/// [`CaptureError::Io`] when IPv4 cannot be opened, [`CaptureError::Bpf`] when the map is missing.
pub fn open(pin_dir: &Path, workers: usize) -> Result<Vec<Vec<TcpListener>>, CaptureError> {
    let io = |source| CaptureError::Io { action: "listening for bridges".into(), source };
    let v4 = group(Ipv4Addr::LOCALHOST.into(), workers).map_err(io)?;
    let v6 = group(Ipv6Addr::LOCALHOST.into(), workers).unwrap_or_else(|error| {
        // IPv6 connections from containers are then dropped, not passed.
        tracing::warn!(%error, "no IPv6 listener for bridges");
        Vec::new()
    });
    netns::show_listeners(pin_dir, v4.first(), v6.first())?;
    let mut v6 = v6.into_iter();
    Ok(v4.into_iter().map(|one| std::iter::once(one).chain(v6.next()).collect()).collect())
}

/// Sockets that share one port, which the first of them picks.
fn group(addr: IpAddr, count: usize) -> std::io::Result<Vec<TcpListener>> {
    let first = super::bind(SocketAddr::new(addr, 0), true)?;
    let port = first.local_addr()?.port();
    let mut all = vec![first];
    while all.len() < count {
        all.push(super::bind(SocketAddr::new(addr, port), true)?);
    }
    Ok(all)
}
