//! Bodies that pass through while somebody watches.
//!
//! - input: a body from hyper
//! - output: the same frames, at once, in the same order, trailers included
//! - bound: one frame at a time; nothing is kept here
//! - on failure: the error goes on, so that a cut body never looks complete

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

/// Watches a body.
pub trait Observer {
    /// A piece of data passed.
    fn data(&self, chunk: &Bytes);
    /// The body ended as it should.
    fn ended(&self);
    /// The body broke off.
    fn failed(&self, error: &hyper::Error);
}

/// A body from hyper with its observer. Dropping it early means that nobody wanted the rest.
pub struct Observed {
    inner: Incoming,
    observer: Rc<dyn Observer>,
    ended: bool,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Observed {
    /// Watches `inner`. An empty body ends here and now.
    pub fn new(inner: Incoming, observer: Rc<dyn Observer>) -> Self {
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

impl Body for Observed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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

/// What goes to upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// From the client.
    Downstream(Observed),
    /// Of a request without a body that is sent again.
    Empty,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Downstream(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Downstream(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Downstream(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// What goes back to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// From upstream.
    Upstream(Observed),
    /// From weir itself.
    Own(Full<Bytes>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
            Self::Own(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(|e| match e {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.size_hint(),
            Self::Own(body) => body.size_hint(),
        }
    }
}
