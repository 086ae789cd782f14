//! A body that somebody watches.
//!
//! - input: a body
//! - output: the same frames
//! - bound: one frame at a time; nothing is kept here
//! - on failure: told to the observer, and passed on

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::BodyError;

/// Watches a body.
pub trait Observer {
    /// A piece of data passed.
    fn data(&self, chunk: &Bytes);
    /// The body ended as it should.
    fn ended(&self);
    /// The body broke off.
    fn failed(&self, error: &BodyError);
}

/// A body with its observer. Dropping it early means that nobody wanted the rest.
pub struct Observed<B> {
    inner: B,
    observer: Rc<dyn Observer>,
    ended: bool,
}

impl<B> std::fmt::Debug for Observed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Observed<B> {
    /// Watches `inner`. An empty body ends here and now.
    pub fn new(inner: B, observer: Rc<dyn Observer>) -> Self {
        let mut body = Self { inner, observer, ended: false };
        body.note_end();
        body
    }

    /// hyper may stop asking once it has what `Content-Length` promised, so that the end is seen
    /// with the last frame and not with the `None` after it.
    fn note_end(&mut self) {
        if self.inner.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.observer.ended();
        }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Observed<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.observer.data(data);
                }
                if frame.is_trailers() {
                    // Nothing comes after them, and nobody asks.
                    self.end();
                } else {
                    self.note_end();
                }
            }
            Some(Err(error)) => self.observer.failed(error),
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
