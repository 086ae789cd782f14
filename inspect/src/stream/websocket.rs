//! One direction of a WebSocket.
//!
//! - input: frames (RFC 6455) without extensions, in any cutting
//! - output: the same messages, each in one frame; control frames as they come
//! - bound: the largest message that the caller allows
//! - on failure: [`Error`]; [`close`] tells the receiver
//!
//! A message is passed when it is whole. A JSON message is an event, so that deltas are joined; any other
//! message is masked by itself: what is split over two of them is not seen.

use crate::body::{BodyKind, Masker};
use crate::engine::End;
use crate::stream::event::{Event, Events, Made};
use crate::stream::json::Json;
use crate::stream::{Error, Sender};

mod frame;

use self::frame::{Frame, Opcode};

/// Frames that are coming.
#[derive(Debug)]
pub(super) struct WebSocket {
    sender: Sender,
    max_message: usize,
    events: Events,
    /// The frame that is not finished.
    raw: Vec<u8>,
    /// The message that is not finished.
    message: Option<(Opcode, Vec<u8>)>,
    /// A close frame has left: nothing may follow it.
    closed: bool,
}

const NOT_TEXT: &str = "websocket text that is not UTF-8";

impl WebSocket {
    pub(super) fn new(sender: Sender, max_message: usize) -> Self {
        Self {
            sender,
            max_message,
            events: Events::default(),
            raw: Vec::new(),
            message: None,
            closed: false,
        }
    }

    /// Adds bytes.
    pub(super) fn push(
        &mut self,
        masker: &mut Masker<'_>,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.raw.extend(chunk);
        let mut raw = std::mem::take(&mut self.raw);
        let mut rest = raw.as_slice();
        while !self.closed
            && let Some((frame, len)) = frame::parse(rest, self.sender, self.max_message)?
        {
            rest = rest.get(len..).unwrap_or_default();
            self.frame(masker, frame, out)?;
        }
        if !self.closed && !rest.is_empty() {
            // In place: a large frame is not copied with each piece of it.
            let done = raw.len() - rest.len();
            raw.drain(..done);
            self.raw = raw;
        }
        Ok(())
    }

    /// Ends the stream. A message that is not whole does not leave.
    pub(super) fn finish(
        &mut self,
        masker: &mut Masker<'_>,
        end: End,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.raw.clear();
        self.message = None;
        let made = self.events.finish(masker, end)?;
        if !self.closed {
            self.write_made(&made, out);
        }
        Ok(())
    }

    /// Tells the receiver why nothing more comes.
    pub(super) fn close(&mut self, error: &Error, out: &mut Vec<u8>) {
        let code: u16 = match error {
            Error::Malformed(NOT_TEXT) => 1007,
            Error::Malformed(_) => 1002,
            Error::TooLarge(_) => 1009,
            Error::Body(_) => 1008,
            Error::Failed => 1011,
        };
        if !std::mem::replace(&mut self.closed, true) {
            frame::write(Opcode::Close, &code.to_be_bytes(), self.sender, out);
        }
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |(_, message)| message.len());
        self.raw.len() + message + self.events.held()
    }

    fn frame(
        &mut self,
        masker: &mut Masker<'_>,
        frame: Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if frame.opcode.is_control() {
            return self.control(masker, &frame, out);
        }
        let (opcode, mut message) = match (frame.opcode, self.message.take()) {
            (Opcode::Continuation, Some(begun)) => begun,
            (Opcode::Continuation, None) => {
                return Err(Error::Malformed("websocket continuation of nothing"));
            }
            (_, Some(_)) => return Err(Error::Malformed("websocket message inside another one")),
            (opcode, None) => (opcode, Vec::new()),
        };
        if message.len() + frame.payload.len() > self.max_message {
            return Err(Error::TooLarge("websocket message"));
        }
        message.extend(frame.payload);
        if frame.is_last {
            return self.message(masker, opcode, &message, out);
        }
        self.message = Some((opcode, message));
        Ok(())
    }

    fn control(
        &mut self,
        masker: &mut Masker<'_>,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let is_close = frame.opcode == Opcode::Close;
        if is_close {
            let made = self.events.finish(masker, End::Complete)?;
            self.write_made(&made, out);
            self.closed = true;
        }
        let status = if is_close { 2 } else { 0 };
        let (status, text) = frame.payload.split_at(frame.payload.len().min(status));
        let masked = masker.text(text)?;
        let mut payload = [status, masked.as_deref().unwrap_or(text)].concat();
        payload.truncate(frame::MAX_CONTROL_BYTES);
        frame::write(frame.opcode, &payload, self.sender, out);
        Ok(())
    }

    /// A message is whole.
    fn message(
        &mut self,
        masker: &mut Masker<'_>,
        opcode: Opcode,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let is_text = opcode == Opcode::Text;
        if is_text && std::str::from_utf8(message).is_err() {
            return Err(Error::Malformed(NOT_TEXT));
        }
        let begins = message.trim_ascii_start().first();
        let masked =
            if is_text && matches!(begins, Some(b'{' | b'[')) && Json::parse(message).is_ok() {
                let event = Event { name: b"", envelope: b"", payload: message };
                let leaves = self.events.json(masker, event)?;
                self.write_made(&leaves.before, out);
                leaves.payload
            } else if is_text {
                masker.text(message)?
            } else {
                masker.body(&BodyKind::default(), message)?
            };
        frame::write(opcode, masked.as_deref().unwrap_or(message), self.sender, out);
        Ok(())
    }

    fn write_made(&self, made: &[Made], out: &mut Vec<u8>) {
        for made in made {
            frame::write(Opcode::Text, &made.payload, self.sender, out);
        }
    }
}
