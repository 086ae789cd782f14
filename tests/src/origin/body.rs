//! Response bodies that are made while they are sent.
//!
//! - input: lengths, chunk sizes, gaps
//! - output: `http_body::Body`
//! - bound: one chunk at a time
//! - on failure: [`Pattern::abort_at`] fails on purpose; nothing else does

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::pattern;

/// Wall-clock nanoseconds, the same in every process of the machine.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// `length` bytes of the test pattern.
pub struct Pattern {
    position: u64,
    end: u64,
    chunk: u64,
    abort_at: Option<u64>,
    gap: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    known_length: bool,
}

impl Pattern {
    /// In chunks of at most `chunk` bytes, with a length if `known_length`.
    pub fn new(length: u64, chunk: u64, known_length: bool) -> Self {
        Self {
            position: 0,
            end: length,
            chunk: chunk.max(1),
            abort_at: None,
            gap: Duration::ZERO,
            sleep: None,
            known_length,
        }
    }

    /// Waits before every chunk.
    pub fn gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// Fails after this many bytes, which resets the stream.
    pub fn abort_at(mut self, position: u64) -> Self {
        self.abort_at = Some(position);
        self
    }

    fn poll_gap(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.gap.is_zero() {
            return Poll::Ready(());
        }
        let gap = self.gap;
        let waiting = self.sleep.get_or_insert_with(|| Box::pin(sleep(gap)));
        ready!(waiting.as_mut().poll(context));
        self.sleep = None;
        Poll::Ready(())
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.position == self.end {
            return Poll::Ready(None);
        }
        ready!(self.poll_gap(context));
        let mut end = self.end;
        if let Some(abort_at) = self.abort_at {
            if self.position >= abort_at {
                return Poll::Ready(Some(Err(io::Error::other("aborted on purpose"))));
            }
            end = end.min(abort_at);
        }
        let data = pattern::slice(self.position, (end - self.position).min(self.chunk));
        self.position += data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.end
    }

    fn size_hint(&self) -> SizeHint {
        if self.known_length {
            SizeHint::with_exact(self.end - self.position)
        } else {
            SizeHint::default()
        }
    }
}

/// Server-sent events that carry the time at which they were made.
pub struct Events {
    next: u64,
    count: u64,
    gap: Duration,
    padding: String,
    due: Pin<Box<Sleep>>,
}

impl Events {
    /// `count` events, one every `gap`, each with `size` bytes of padding.
    pub fn new(count: u64, gap: Duration, size: usize) -> Self {
        Self { next: 0, count, gap, padding: "x".repeat(size), due: Box::pin(sleep(gap)) }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.next == self.count {
            return Poll::Ready(None);
        }
        if !self.gap.is_zero() {
            ready!(self.due.as_mut().poll(context));
            let next = self.due.deadline().max(Instant::now() - self.gap) + self.gap;
            self.due.as_mut().reset(next);
        }
        let text = format!(
            "id: {seq}\ndata: {{\"seq\":{seq},\"sent_ns\":{sent},\"padding\":\"{padding}\"}}\n\n",
            seq = self.next,
            sent = now_ns(),
            padding = self.padding,
        );
        self.next += 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}

/// Frames listed beforehand, without a length: chunked in HTTP/1.
pub struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    /// Data frames, then trailers if any.
    pub fn new(data: impl IntoIterator<Item = Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self(data.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).collect())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}
