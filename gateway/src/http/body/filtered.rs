//! A body that is changed or held back while it passes.
//!
//! - input: a body, and a [`Filter`] that sees all of it in order
//! - output: what the filter lets go; trailers come last
//! - bound: what the filter holds back
//! - on failure: the body breaks off, and what was held back is dropped with the filter

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{BodyError, Stopped};

/// Sees a body before anybody else does.
pub trait Filter {
    /// Takes the next piece; answers what may go now.
    ///
    /// # Errors
    /// The body must not go on.
    fn push(&mut self, data: Bytes) -> Result<Bytes, Stopped>;

    /// The body is whole; answers what was held back.
    ///
    /// # Errors
    /// The body must not look complete.
    fn finish(&mut self) -> Result<Bytes, Stopped>;

    /// Looks at the fields after the body.
    ///
    /// # Errors
    /// The body must not look complete.
    fn trailers(&mut self, trailers: &mut HeaderMap) -> Result<(), Stopped>;

    /// Whether as many bytes leave as came, so that the announced length stays true.
    fn keeps_length(&self) -> bool;
}

/// A body behind its filter.
pub struct Filtered<B> {
    inner: B,
    filter: Box<dyn Filter>,
    trailers: Option<HeaderMap>,
    /// Bytes that the filter holds back now.
    held: u64,
    ended: bool,
}

impl<B> std::fmt::Debug for Filtered<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filtered").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Filtered<B> {
    /// Puts `filter` before `inner`, of which nothing was read yet.
    pub fn new(inner: B, filter: Box<dyn Filter>) -> Self {
        let ended = inner.is_end_stream();
        Self { inner, filter, trailers: None, held: 0, ended }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, Stopped> {
        let came = data.len() as u64;
        let go = self.filter.push(data)?;
        self.held = (self.held + came).saturating_sub(go.len() as u64);
        if self.inner.is_end_stream() {
            return self.end(go);
        }
        Ok(go)
    }

    /// `go` and what was held back.
    fn end(&mut self, go: Bytes) -> Result<Bytes, Stopped> {
        self.ended = true;
        self.held = 0;
        let rest = self.filter.finish()?;
        Ok(match (go.is_empty(), rest.is_empty()) {
            (_, true) => go,
            (true, false) => rest,
            (false, false) => [go, rest].concat().into(),
        })
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Filtered<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.ended {
            let go = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(data),
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        let kept = self.filter.trailers(&mut trailers);
                        self.trailers = Some(trailers);
                        kept.and_then(|()| self.end(Bytes::new()))
                    }
                },
                None => self.end(Bytes::new()),
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            };
            match go {
                Ok(go) if go.is_empty() => {}
                Ok(go) => return Poll::Ready(Some(Ok(Frame::data(go)))),
                Err(stopped) => {
                    self.ended = true;
                    self.trailers = None;
                    return Poll::Ready(Some(Err(BodyError::Stopped(stopped))));
                }
            }
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.size_hint().exact() {
            _ if self.ended && self.trailers.is_none() => SizeHint::with_exact(0),
            Some(rest) if self.filter.keeps_length() => SizeHint::with_exact(rest + self.held),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt as _;

    use super::*;

    struct Frames(VecDeque<Result<Frame<Bytes>, BodyError>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    /// Holds the last byte back; stops at `!`.
    #[derive(Default)]
    struct Hold(Option<u8>);

    impl Filter for Hold {
        fn push(&mut self, data: Bytes) -> Result<Bytes, Stopped> {
            if data.contains(&b'!') {
                return Err(Stopped("no"));
            }
            let mut all: Vec<u8> = self.0.take().into_iter().collect();
            all.extend_from_slice(&data);
            self.0 = all.pop();
            Ok(all.into())
        }

        fn finish(&mut self) -> Result<Bytes, Stopped> {
            Ok(self.0.take().into_iter().collect::<Vec<u8>>().into())
        }

        fn trailers(&mut self, trailers: &mut HeaderMap) -> Result<(), Stopped> {
            trailers.insert("seen", http::HeaderValue::from_static("1"));
            Ok(())
        }

        fn keeps_length(&self) -> bool {
            true
        }
    }

    fn filtered(pieces: &[&'static str], trailers: bool) -> Filtered<Frames> {
        let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let trailers = trailers.then(|| Ok(Frame::trailers(HeaderMap::new())));
        Filtered::new(Frames(data.chain(trailers).collect()), Box::new(Hold::default()))
    }

    #[tokio::test]
    async fn all_of_it_leaves_in_order_and_its_end_comes_with_the_last_frame() {
        let mut body = filtered(&["ab", "", "c", "de"], false);
        let mut got = Vec::new();
        while !body.is_end_stream() {
            let frame = body.frame().await.expect("a frame").expect("data");
            got.extend_from_slice(&frame.into_data().expect("data"));
        }
        assert_eq!(got, b"abcde");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn what_was_held_back_comes_before_the_trailers_which_the_filter_sees() {
        let collected = filtered(&["ab", "c"], true).collect().await.expect("body");
        assert_eq!(collected.trailers().and_then(|t| t.get("seen")).map(|v| v.len()), Some(1));
        assert_eq!(collected.to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_stopped_body_breaks_off_and_nothing_comes_after() {
        let mut body = filtered(&["ab", "!", "c"], true);
        assert_eq!(body.frame().await.expect("frame").expect("ok").into_data().expect("data"), "a");
        assert!(matches!(body.frame().await, Some(Err(BodyError::Stopped(Stopped("no"))))));
        assert!(body.frame().await.is_none());
    }
}
