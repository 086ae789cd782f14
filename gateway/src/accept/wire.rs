//! The downstream socket as later stages see it: counted, and able to take bytes back.
//!
//! - input: a socket
//! - output: the same byte stream
//! - bound: the bytes that sniffing read
//! - on failure: the socket's own errors

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that crossed the downstream socket. Atomic only because hyper wants `Send` streams.
#[derive(Debug, Default)]
pub struct WireCount {
    up: AtomicU64,
    down: AtomicU64,
}

impl WireCount {
    /// Bytes from the client and to the client.
    pub fn totals(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// A counted socket.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    unread: Bytes,
    count: Arc<WireCount>,
}

impl Wire {
    /// Wraps a socket.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Bytes::new(), count: Arc::default() }
    }

    /// Puts bytes back in front of what the socket holds.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// The counters, which outlive the socket.
    pub fn count(&self) -> Arc<WireCount> {
        Arc::clone(&self.count)
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = result {
            self.count.down.fetch_add(n as u64, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let n = self.unread.len().min(buf.remaining());
            buf.put_slice(self.unread.get(..n).unwrap_or_default());
            self.unread.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.count.up.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
