//! Listeners inside other network namespaces, for those that no bridge leads out of: opened by
//! `weir netns add`, handed to the running gateway.
//!
//! - input: a namespace; at the gateway, a connection on its socket `netns.sock`
//! - output: an [`Order`]
//! - bound: one packet of 24 bytes and [`MAX_FDS`] descriptors per order, [`PATIENCE`] for each side
//! - on failure: the namespace stays refused
//!
//! A packet has the cookie, the number of listeners, and 1 where a process follows them, each eight
//! bytes in native order. The answer is one byte. Only the owner of the socket, and root, can send.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Read as _, Result, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::capture::{CaptureError, netns};

/// Two listeners and a process.
const MAX_FDS: usize = 3;
const PACKET_BYTES: usize = 24;
/// For one packet and its answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
const TAKEN: u8 = 1;

/// What the gateway is asked to do about a namespace.
#[derive(Debug)]
pub struct Order {
    /// Which namespace.
    pub cookie: u64,
    /// Its listeners; none to drop those that the gateway has.
    pub listeners: Vec<TcpListener>,
    /// A process (pidfd) with whose end the listeners are of no more use.
    pub process: Option<OwnedFd>,
}

/// Makes the gateway listen inside a namespace, until it ends, or `process` does. The caller must be
/// in the gateway's cgroup: sockets belong to the cgroup of the task that makes them.
///
/// # Errors
/// [`CaptureError::Io`] when the gateway does not answer, others when a step fails.
pub fn register(
    pin_dir: &Path,
    gateway: &Path,
    netns: BorrowedFd<'_>,
    process: Option<OwnedFd>,
) -> std::result::Result<u64, CaptureError> {
    let io = |action: &str| {
        let action = action.to_owned();
        |source| CaptureError::Io { action, source }
    };
    let cookie = netns::cookie_of(netns)?;
    netns::check_foreign(pin_dir, cookie)?;
    let listeners = netns::inside(netns, || open().map_err(io("listening in the namespace")))?;
    let first = listeners.first().map(TcpListener::local_addr).transpose();
    let port = first.map_err(io("reading an address"))?.map_or(0, |addr| addr.port());
    give(gateway, &Order { cookie, listeners, process })
        .map_err(io("handing listeners to the gateway"))?;
    // Last: from here on the namespace is no longer refused.
    netns::register_listening(pin_dir, cookie, port)?;
    Ok(cookie)
}

/// On 127.0.0.1 and, where the namespace has IPv6, on ::1, on one port.
fn open() -> Result<Vec<TcpListener>> {
    let v4 = super::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), false)?;
    let port = v4.local_addr()?.port();
    let mut all = vec![v4];
    // IPv6 connections are refused without it.
    all.extend(super::bind(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), false));
    Ok(all)
}

/// Sends an order and waits until the gateway has taken it.
///
/// # Errors
/// When the gateway does not run, or refuses.
pub fn give(gateway: &Path, order: &Order) -> Result<()> {
    let mut stream = UnixStream::connect(gateway)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut packet = Vec::with_capacity(PACKET_BYTES);
    packet.extend(order.cookie.to_ne_bytes());
    packet.extend((order.listeners.len() as u64).to_ne_bytes());
    packet.extend(u64::from(order.process.is_some()).to_ne_bytes());
    let mut fds: Vec<BorrowedFd<'_>> = order.listeners.iter().map(|one| one.as_fd()).collect();
    fds.extend(order.process.as_ref().map(|one| one.as_fd()));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(&stream, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if sent == PACKET_BYTES && answer == [TAKEN] {
        return Ok(());
    }
    Err(Error::other("the gateway did not take it"))
}

/// Receives an order. Blocks.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for anything that is no order; the peer gets no answer then.
pub fn take(stream: &UnixStream) -> Result<Order> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut packet = [0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut packet)];
    let got = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let word = |at: usize| {
        let bytes = packet.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_ne_bytes).ok_or(ErrorKind::InvalidData)
    };
    let (cookie, listeners, process) = (word(0)?, word(8)?, word(16)?);
    let expected = listeners.saturating_add(process);
    if got != PACKET_BYTES || process > 1 || expected != fds.len() as u64 {
        return Err(ErrorKind::InvalidData.into());
    }
    let process = if process == 1 { fds.pop() } else { None };
    let listeners: Vec<TcpListener> = fds.into_iter().map(TcpListener::from).collect();
    if !listeners.iter().all(|one| socket2::SockRef::from(one).is_listener().unwrap_or(false)) {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(Order { cookie, listeners, process })
}

/// Tells the peer that its order is carried out.
///
/// # Errors
/// When it is gone.
pub fn answer(mut stream: &UnixStream) -> Result<()> {
    stream.write_all(&[TAKEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_whole_and_nonsense_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns.sock");
        let gateway = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let listeners = open().unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        let count = listeners.len();
        let giver = std::thread::spawn({
            let path = path.clone();
            move || give(&path, &Order { cookie: 7, listeners, process: None })
        });
        let (stream, _) = gateway.accept().unwrap();
        let order = take(&stream).unwrap();
        answer(&stream).unwrap();
        giver.join().unwrap().unwrap();
        assert_eq!((order.cookie, order.listeners.len()), (7, count));
        assert_eq!(order.listeners[0].local_addr().unwrap().port(), port);
        assert!(order.process.is_none());

        let refused = |bytes: &[u8]| {
            let (mut peer, ours) = UnixStream::pair().unwrap();
            peer.write_all(bytes).unwrap();
            drop(peer);
            assert_eq!(take(&ours).unwrap_err().kind(), ErrorKind::InvalidData, "{bytes:?}");
        };
        refused(b"");
        refused(&[0; 23]);
        refused(&[1; 24]);
        refused(&[0xff; 24]);
        // A descriptor that is no listener.
        let sender = std::thread::spawn(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let plain = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let listeners = vec![TcpListener::from(OwnedFd::from(plain))];
            give(&path, &Order { cookie: 7, listeners, process: None })
        });
        let (stream, _) = gateway.accept().unwrap();
        assert_eq!(take(&stream).unwrap_err().kind(), ErrorKind::InvalidData);
        drop(stream);
        assert!(sender.join().unwrap().is_err());
    }
}
