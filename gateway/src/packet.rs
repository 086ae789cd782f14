//! Unix sockets that keep packets apart (`SOCK_SEQPACKET`), between processes of weir.
//!
//! - input: paths
//! - output: listeners and connections
//! - bound: a short backlog
//! - on failure: the operating system's answer

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

/// Makes the socket, for its owner alone. A file that nobody listens on is replaced.
///
/// # Errors
/// `AddrInUse` when somebody listens.
pub fn listen(path: &Path, backlog: i32) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if connect(path).is_ok() {
            return Err(ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

/// Connects.
///
/// # Errors
/// As of `connect(2)`.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Lets only root and one user talk on.
///
/// # Errors
/// `PermissionDenied` for anybody else.
pub fn only(stream: &impl AsFd, uid: u32) -> Result<()> {
    let peer = getsockopt(stream, PeerCredentials)?.uid();
    if peer == 0 || peer == uid {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PermissionDenied, format!("asked by user {peer}")))
}
