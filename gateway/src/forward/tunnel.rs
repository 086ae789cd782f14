//! Copies bytes both ways: passed-through TLS, opaque TCP, upgraded HTTP.
//!
//! - input: two streams, and what is to be changed in each direction
//! - output: bytes per direction
//! - bound: two 64 KiB buffers; `idle` without a byte in either direction ends it
//! - on failure: [`ForwardError`]; half-closes are passed on, not treated as the end
//!
//! A plain copy: splice and sockmap were measured and gained nothing.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::ForwardError;
use crate::error::Fault;

const BUFFER_BYTES: usize = 64 * 1024;

/// Bytes that a tunnel moved, readable while it runs.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the client.
    pub up: Cell<u64>,
    /// To the client.
    pub down: Cell<u64>,
}

/// What leaves a tunnel in place of what came, in one direction.
pub trait Change {
    /// Whether everything leaves as it came.
    fn is_none(&self) -> bool {
        false
    }

    /// Takes bytes; what may leave now is added to `out`.
    ///
    /// # Errors
    /// The tunnel is to be closed, after `out`, which may tell the receiver so.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Halted>;

    /// The sender has closed.
    ///
    /// # Errors
    /// As for `push`.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Halted>;
}

/// A [`Change`] does not let a tunnel go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halted;

/// Everything leaves as it came.
#[derive(Clone, Copy, Debug)]
pub struct Unchanged;

impl Change for Unchanged {
    fn is_none(&self) -> bool {
        true
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Halted> {
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, _: &mut Vec<u8>) -> Result<(), Halted> {
        Ok(())
    }
}

/// Copies until both sides have closed.
///
/// # Errors
/// [`ForwardError::Tunnel`] when a side fails, [`ForwardError::Idle`] when nothing moves.
pub async fn copy(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    idle: Duration,
    moved: &Moved,
) -> Result<(), ForwardError> {
    copy_changed(downstream, upstream, idle, moved, [Box::new(Unchanged), Box::new(Unchanged)])
        .await
}

/// The same, with what is changed on the way up and on the way down.
///
/// # Errors
/// [`ForwardError::Halted`] when a change does not let it go on; otherwise as [`copy`].
pub async fn copy_changed(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    idle: Duration,
    moved: &Moved,
    [up, down]: [Box<dyn Change>; 2],
) -> Result<(), ForwardError> {
    let (down_read, down_write) = tokio::io::split(downstream);
    let (up_read, up_write) = tokio::io::split(upstream);
    let both = async {
        tokio::try_join!(
            one_way((down_read, Fault::Downstream), (up_write, Fault::Upstream), &moved.up, up),
            one_way((up_read, Fault::Upstream), (down_write, Fault::Downstream), &moved.down, down),
        )
    };
    tokio::select! {
        done = both => done.map(|_| ()),
        () = stalled(idle, || (moved.up.get(), moved.down.get())) => Err(ForwardError::Idle),
    }
}

/// Copies one direction. Each end says whose fault its failure is.
async fn one_way(
    (mut from, reading): (impl AsyncRead + Unpin, Fault),
    (mut to, writing): (impl AsyncWrite + Unpin, Fault),
    count: &Cell<u64>,
    mut change: Box<dyn Change>,
) -> Result<(), ForwardError> {
    let broken = |fault| move |source| ForwardError::Tunnel { fault, source };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut changed = Vec::new();
    loop {
        let n = from.read(&mut buffer).await.map_err(broken(reading))?;
        let piece = buffer.get(..n).unwrap_or_default();
        let (mut halted, mut leaves) = (Ok(()), piece);
        if !change.is_none() {
            changed.clear();
            halted = match n {
                0 => change.finish(&mut changed),
                _ => change.push(piece, &mut changed),
            };
            leaves = &changed;
        }
        if !leaves.is_empty() {
            to.write_all(leaves).await.map_err(broken(writing))?;
            to.flush().await.map_err(broken(writing))?;
        }
        count.set(count.get() + n as u64);
        if n == 0 || halted.is_err() {
            to.shutdown().await.map_err(broken(writing))?;
            return halted.map_err(|Halted| ForwardError::Halted);
        }
    }
}

/// Returns when `progress` has not changed for `idle` (and at most twice that).
pub async fn stalled<T: PartialEq>(idle: Duration, progress: impl Fn() -> T) {
    let mut last = progress();
    loop {
        tokio::time::sleep(idle).await;
        let now = progress();
        if now == last {
            return;
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_half_close_is_passed_on_and_the_answer_still_arrives() {
        let (mut client, down) = tokio::io::duplex(16);
        let (up, mut server) = tokio::io::duplex(16);
        let moved = Moved::default();
        let talk = async {
            client.write_all(b"question").await.expect("write");
            client.shutdown().await.expect("shutdown");
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.expect("read");
            server.write_all(b"a longer answer than one buffer").await.expect("write");
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("read");
            (question, answer)
        };
        let serve = async { copy(down, up, Duration::from_secs(5), &moved).await };
        let talk =
            async { tokio::time::timeout(Duration::from_secs(5), talk).await.expect("in time") };
        let (copied, (question, answer)) = tokio::join!(serve, talk);
        copied.expect("tunnel");
        assert_eq!(question, b"question");
        assert_eq!(answer, b"a longer answer than one buffer");
        assert_eq!((moved.up.get(), moved.down.get()), (8, 31));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_tunnel_is_closed() {
        let (_client, down) = tokio::io::duplex(16);
        let (up, _server) = tokio::io::duplex(16);
        let moved = Moved::default();
        let copied = copy(down, up, Duration::from_secs(60), &moved).await;
        assert!(matches!(copied, Err(ForwardError::Idle)));
    }
}
