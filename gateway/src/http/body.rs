//! Bodies on their way through: watched, held back in part, or replaced as a whole.
//!
//! - input: a body from hyper
//! - output: the same frames, at once, in the same order, trailers included; or what a [`Filter`]
//!   makes of them
//! - bound: one frame at a time; what a filter holds back is its own bound
//! - on failure: the error goes on, so that a cut body never looks complete

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

mod filtered;
mod observed;

pub use filtered::{Filter, Filtered};
pub use observed::{Observed, Observer};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Whoever sent it did so.
    #[error(transparent)]
    Peer(#[from] hyper::Error),
    /// A filter did not let it pass.
    #[error("{0}")]
    Stopped(Stopped),
}

/// What a filter says that lets a body pass no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped(pub &'static str);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A body as hyper reads it.
#[derive(Debug)]
pub struct Live(pub Incoming);

impl Body for Live {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        Pin::new(&mut self.0).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(BodyError::Peer)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A body in memory, with the trailers that came with it.
#[derive(Debug, Default)]
pub struct Whole {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// The data in one frame, then the trailers.
    pub fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers }
    }

    /// Whether its end must be told by the framing, since something comes after the data.
    pub fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.data.len() as u64)
    }
}

/// What goes to upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// From the client, as it comes.
    Live(Observed<Live>),
    /// From the client, as a filter lets it pass.
    Filtered(Observed<Filtered<Live>>),
    /// Read to its end before.
    Whole(Observed<Whole>),
    /// Of a request without a body that is sent again.
    Empty,
}

/// What goes back to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// From upstream, as it comes.
    Live(Observed<Live>),
    /// From upstream, as a filter lets it pass; watched on both sides of it.
    Filtered(Observed<Filtered<Observed<Live>>>),
    /// Read to its end before.
    Whole(Observed<Whole>),
    /// From weir itself.
    Own(Full<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Live(body) => Pin::new(body).poll_frame(cx),
            Self::Filtered(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Live(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Live(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Live(body) => Pin::new(body).poll_frame(cx),
            Self::Filtered(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Own(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(|e| match e {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Live(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Live(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
            Self::Own(body) => body.size_hint(),
        }
    }
}
