//! The handover: a newer gateway takes the sockets of an older one while both run.
//!
//! - input: a unix socket that only the gateway's user and root may use
//! - output: at the newer one [`Handed`] and a [`Predecessor`]; at the older one a [`Successor`]
//! - bound: one conversation at a time, [`MAX_FDS`] descriptors per packet, [`MAX_PACKETS`]
//!   packets, [`PATIENCE`] for the newer one to serve
//! - on failure: the older gateway goes on as if nobody had asked
//!
//! Packets (`SOCK_SEQPACKET`), newer to older and back:
//!
//! 1. `weir-handover 1`
//! 2. names, one per line, each with its descriptor; as many packets as needed; then `end`
//! 3. `serving`: both accept now. The older one stops
//! 4. `stopped N`: N of the kernel's joined connections are accounted for; or `stopped -`

use std::io::{self, Error, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::sync::oneshot;

use super::handed::{Handed, Name};
use crate::packet;

/// Descriptors of one packet; the kernel takes at most 253.
const MAX_FDS: usize = 128;
/// Enough for 256 workers with 65 addresses each.
const MAX_PACKETS: usize = 256;
/// Newer gateways that may wait for their turn.
pub(super) const BACKLOG: i32 = 4;
const MAX_PACKET_BYTES: usize = 8192;
const HELLO: &str = "weir-handover 1";
const END: &str = "end";
const SERVING: &str = "serving";
/// For everything but the newer gateway's own start.
const PACKET_TIME: Duration = Duration::from_secs(5);
/// From the descriptors until the newer gateway serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// The older gateway, as the newer one sees it.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the gateway that listens at `path` for its sockets. It goes on accepting until
    /// [`Predecessor::serving`]. Blocks.
    ///
    /// # Errors
    /// When nobody listens, or does not answer as agreed.
    pub fn take(path: &Path) -> io::Result<(Handed, Self)> {
        let mut stream = packet::connect(path)?;
        stream.set_read_timeout(Some(PACKET_TIME))?;
        stream.set_write_timeout(Some(PACKET_TIME))?;
        stream.write_all(HELLO.as_bytes())?;
        let mut handed = Handed::default();
        for _ in 0..MAX_PACKETS {
            if !receive(&stream, &mut handed)? {
                return Ok((handed, Self(stream)));
            }
        }
        Err(Error::other("the older gateway handed over too much"))
    }

    /// Its connection, for a process that goes on with it.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    /// The connection that another process began.
    pub fn from_descriptor(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// Tells it that this gateway accepts: it stops.
    ///
    /// # Errors
    /// When it is gone.
    pub fn serving(&mut self) -> io::Result<()> {
        self.0.write_all(SERVING.as_bytes())
    }

    /// Waits until it accepts no more; answers how many of the kernel's joined connections are
    /// accounted for, if it knows. Blocks.
    ///
    /// # Errors
    /// When it is gone without saying so.
    pub fn stopped(mut self) -> io::Result<Option<u64>> {
        let text = packet(&mut self.0)?;
        let count = text.strip_prefix("stopped ").ok_or(ErrorKind::InvalidData)?;
        Ok(count.parse().ok())
    }
}

/// Takes one packet; false at the last one.
fn receive(stream: &UnixStream, handed: &mut Handed) -> io::Result<bool> {
    let mut bytes = vec![0; MAX_PACKET_BYTES];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let text = bytes.get(..got.bytes).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or(ErrorKind::InvalidData)?;
    if text == END {
        return Ok(false);
    }
    let names: Option<Vec<Name>> = text.lines().map(Name::parse).collect();
    let names = names.filter(|names| names.len() == fds.len() && !names.is_empty());
    let Some(names) = names else {
        let text = format!("unexpected answer of {} bytes from the older gateway", got.bytes);
        return Err(Error::new(ErrorKind::InvalidData, text));
    };
    names.into_iter().zip(fds).for_each(|(name, fd)| handed.push(name, fd));
    Ok(true)
}

fn send(stream: &UnixStream, handed: &Handed) -> io::Result<()> {
    let all: Vec<_> = handed.iter().collect();
    for some in all.chunks(MAX_FDS) {
        let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
        let fds: Vec<_> = some.iter().map(|(_, fd)| fd.as_fd()).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let text = names.join("\n");
        sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    }
    (&*stream).write_all(END.as_bytes())
}

fn packet(stream: &mut UnixStream) -> io::Result<String> {
    let mut bytes = vec![0; MAX_PACKET_BYTES];
    let length = stream.read(&mut bytes)?;
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_not_text| ErrorKind::InvalidData.into())
}

/// The newer gateway, as the older one sees it: it serves.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Tells it that this gateway accepts no more, and what it has accounted for.
    ///
    /// # Errors
    /// When it is gone.
    pub fn stopped(mut self, joined: Option<u64>) -> io::Result<()> {
        let count = joined.map_or("-".to_owned(), |count| count.to_string());
        self.0.write_all(format!("stopped {count}").as_bytes())
    }
}

/// Hands `kept` to whoever asks, until one of them serves.
///
/// # Errors
/// When the socket fails.
///
/// # Cancel safety
/// A conversation that has begun goes on without effect.
pub async fn serve(listener: UnixListener, kept: Arc<Handed>) -> io::Result<Successor> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let stream = stream.into_std()?;
        let (done, answer) = oneshot::channel();
        let kept = Arc::clone(&kept);
        // A thread of its own: a runtime would wait for it when the gateway ends.
        std::thread::Builder::new()
            .name("weir-handover".into())
            .spawn(move || drop(done.send(converse(stream, &kept))))?;
        match answer.await {
            Ok(Ok(successor)) => return Ok(successor),
            Ok(Err(error)) => tracing::warn!(%error, "a handover was not finished"),
            Err(_panicked) => tracing::error!("a handover was not finished"),
        }
    }
}

fn converse(mut stream: UnixStream, kept: &Handed) -> io::Result<Successor> {
    stream.set_nonblocking(false)?;
    packet::only(&stream, nix::unistd::geteuid().as_raw())?;
    stream.set_write_timeout(Some(PACKET_TIME))?;
    stream.set_read_timeout(Some(PACKET_TIME))?;
    if packet(&mut stream)? != HELLO {
        return Err(Error::new(ErrorKind::InvalidData, "asked by another version"));
    }
    send(&stream, kept)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match packet(&mut stream)?.as_str() {
        SERVING => Ok(Successor(stream)),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// An older gateway's side, on a thread of its own.
    fn older(count: usize) -> (tempfile::TempDir, std::thread::JoinHandle<io::Result<Successor>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = packet::listen(&dir.path().join("s"), BACKLOG).unwrap();
        let mut kept = Handed::default();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (0..count).for_each(|_| kept.push(Name::Captured, socket.try_clone().unwrap()));
        kept.push(Name::Admin, socket);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve(listener, Arc::new(kept)))
        });
        (dir, thread)
    }

    #[test]
    fn more_descriptors_than_one_packet_holds_arrive_in_order_and_usable() {
        let (dir, thread) = older(300);
        let (mut handed, mut predecessor) = Predecessor::take(&dir.path().join("s")).unwrap();
        assert_eq!(handed.take(Name::Captured).len(), 300);
        let admin = TcpListener::from(handed.take_one(Name::Admin).unwrap());
        admin.local_addr().unwrap();
        predecessor.serving().unwrap();
        thread.join().unwrap().unwrap().stopped(Some(7)).unwrap();
        assert_eq!(predecessor.stopped().unwrap(), Some(7));
    }

    #[test]
    fn who_breaks_off_or_speaks_nonsense_changes_nothing() {
        let (dir, thread) = older(1);
        let path = dir.path().join("s");
        drop(Predecessor::take(&path).unwrap());
        packet::connect(&path).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop(packet::connect(&path).unwrap());
        assert_eq!(packet::listen(&path, BACKLOG).unwrap_err().kind(), ErrorKind::AddrInUse);
        let (_handed, mut predecessor) = Predecessor::take(&path).unwrap();
        predecessor.serving().unwrap();
        drop(thread.join().unwrap().unwrap());
        assert!(predecessor.stopped().is_err(), "it ended without a word");
    }
}
