//! Copies bytes both ways: passed-through TLS, opaque TCP, upgraded HTTP.
//!
//! - input: two streams
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
    let (down_read, down_write) = tokio::io::split(downstream);
    let (up_read, up_write) = tokio::io::split(upstream);
    let both = async {
        tokio::try_join!(
            one_way((down_read, Fault::Downstream), (up_write, Fault::Upstream), &moved.up),
            one_way((up_read, Fault::Upstream), (down_write, Fault::Downstream), &moved.down),
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
) -> Result<(), ForwardError> {
    let broken = |fault| move |source| ForwardError::Tunnel { fault, source };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = from.read(&mut buffer).await.map_err(broken(reading))?;
        if n == 0 {
            return to.shutdown().await.map_err(broken(writing));
        }
        let piece = buffer.get(..n).unwrap_or_default();
        to.write_all(piece).await.map_err(broken(writing))?;
        to.flush().await.map_err(broken(writing))?;
        count.set(count.get() + n as u64);
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
