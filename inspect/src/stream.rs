//! A body that is masked while it passes.
//!
//! - input: a body in any cutting; a [`Masker`]
//! - output: the same body in the same framing, with every secret judged; for any cutting of the
//!   input the output, put together, is the same
//! - bound: `limits::MAX_STREAM_EVENT_BYTES` of an unfinished event, `limits::MAX_STREAM_CHANNELS`
//!   texts at a time
//! - on failure: [`Error`]; nothing leaves after it, see [`Stream::abort`]

use crate::body::{self, Masker};
use crate::engine::End;

mod array;
mod channel;
mod event;
mod eventstream;
mod fragment;
mod json;
mod lines;
mod shape;
mod sse;
mod string;
mod unit;
mod websocket;

/// A body that is masked while it passes. Bytes leave when no secret can begin before them any
/// more: what proves that is more bytes or the end, never time.
#[derive(Debug)]
pub struct Stream {
    framing: Framing,
    /// After an error nothing may leave.
    failed: bool,
}

#[derive(Debug)]
enum Framing {
    Sse(Box<sse::Sse>),
    Array(Box<array::Array>),
    Lines(Box<lines::Lines>),
    EventStream(Box<eventstream::EventStream>),
    WebSocket(Box<websocket::WebSocket>),
    Text(Box<channel::Open>),
}

/// Who sends the frames of a WebSocket direction.
#[derive(Clone, Copy, Debug)]
pub enum Sender {
    /// The client: its frames are masked (RFC 6455, section 5.3), each anew with a key from this source,
    /// which must not be predictable.
    Client(fn() -> [u8; 4]),
    /// The server: its frames are not masked.
    Server,
}

/// Why a stream is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not what their type says.
    #[error("malformed stream: {0}")]
    Malformed(&'static str),
    /// A bound is exceeded.
    #[error("stream over its bound: {0}")]
    TooLarge(&'static str),
    /// Judge or masker refused.
    #[error(transparent)]
    Body(#[from] body::Error),
    /// The stream failed before.
    #[error("stream failed before")]
    Failed,
}

impl Stream {
    /// Plain text, or what is not known better: one text.
    pub fn text() -> Self {
        Self::new(Framing::Text(Box::default()))
    }

    /// Server-sent events (`text/event-stream`).
    pub fn sse() -> Self {
        Self::new(Framing::Sse(Box::default()))
    }

    /// A JSON array whose elements come one by one, as Gemini sends it.
    pub fn json_array() -> Self {
        Self::new(Framing::Array(Box::default()))
    }

    /// One JSON text on each line, or a JSON text sequence.
    pub fn json_lines() -> Self {
        Self::new(Framing::Lines(Box::default()))
    }

    /// One direction of a WebSocket (RFC 6455) without extensions; messages of at most `max_message`
    /// bytes.
    pub fn websocket(sender: Sender, max_message: usize) -> Self {
        let frames = websocket::WebSocket::new(sender, max_message);
        Self::new(Framing::WebSocket(Box::new(frames)))
    }

    /// `application/vnd.amazon.eventstream`.
    pub fn event_stream() -> Self {
        Self::new(Framing::EventStream(Box::default()))
    }

    /// The stream that a content type asks for; `None` where the body is to be masked as a whole.
    pub fn for_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/event-stream" => Some(Self::sse()),
            "text/plain" => Some(Self::text()),
            "application/x-ndjson"
            | "application/jsonl"
            | "application/json-seq"
            | "application/x-json-stream" => Some(Self::json_lines()),
            "application/vnd.amazon.eventstream" => Some(Self::event_stream()),
            _ => None,
        }
    }

    /// Adds bytes; what may leave now is added to `out`. A masker bounds what it decodes: for a stream
    /// without end it is made anew each time.
    ///
    /// # Errors
    /// [`Error`]; the stream is to be ended then.
    pub fn push(
        &mut self,
        masker: &mut Masker<'_>,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.once(|framing| match framing {
            Framing::Sse(sse) => sse.push(masker, chunk, out),
            Framing::Array(array) => array.push(masker, chunk, out),
            Framing::Lines(lines) => lines.push(masker, chunk, out),
            Framing::EventStream(frames) => frames.push(masker, chunk, out),
            Framing::WebSocket(frames) => frames.push(masker, chunk, out),
            Framing::Text(open) => open.push(masker, chunk, out),
        })
    }

    /// Ends the body; everything that may leave at all is added to `out`.
    ///
    /// # Errors
    /// [`Error`]; the stream is to be ended then.
    pub fn finish(
        &mut self,
        masker: &mut Masker<'_>,
        end: End,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.once(|framing| match framing {
            Framing::Sse(sse) => sse.finish(masker, end, out),
            Framing::Array(array) => array.finish(masker, end, out),
            Framing::Lines(lines) => lines.finish(masker, end, out),
            Framing::EventStream(frames) => frames.finish(masker, end, out),
            Framing::WebSocket(frames) => frames.finish(masker, end, out),
            Framing::Text(open) => open.finish(masker, end, out),
        })
    }

    /// Bytes that came and have not left. With none, other known values may be given next time.
    pub fn held_bytes(&self) -> usize {
        match &self.framing {
            Framing::Sse(sse) => sse.held(),
            Framing::Array(array) => array.held(),
            Framing::Lines(lines) => lines.held(),
            Framing::EventStream(frames) => frames.held(),
            Framing::WebSocket(frames) => frames.held(),
            Framing::Text(open) => open.held(),
        }
    }

    /// Adds to `out` what tells the receiver that the stream ends here because of `error`, where
    /// its framing has such a thing: a WebSocket's close frame. The other direction's stream tells
    /// the sender.
    pub fn abort(&mut self, error: &Error, out: &mut Vec<u8>) {
        self.failed = true;
        if let Framing::WebSocket(frames) = &mut self.framing {
            frames.close(error, out);
        }
    }

    fn new(framing: Framing) -> Self {
        Self { framing, failed: false }
    }

    /// Runs `step` unless a step failed before.
    fn once(&mut self, step: impl FnOnce(&mut Framing) -> Result<(), Error>) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        let done = step(&mut self.framing);
        self.failed = done.is_err();
        done
    }
}

#[cfg(test)]
mod tests;
