//! A JSON array whose elements come one by one.
//!
//! - input: `[{…},\n{…}]` in any cutting, as Gemini streams without `alt=sse`; or one JSON text alone,
//!   as it answers with an error
//! - output: the same array; each element is an event
//! - bound: `limits::MAX_STREAM_EVENT_BYTES` of an element
//! - on failure: [`Error`]: what is not an array of JSON texts

use crate::body::Masker;
use crate::engine::End;
use crate::limits;
use crate::stream::Error;
use crate::stream::event::{Event, Events, Made};

/// An array that is coming.
#[derive(Debug, Default)]
pub(super) struct Array {
    events: Events,
    part: Part,
    /// The element that is not finished, with the space around it.
    element: Vec<u8>,
    /// Brackets that are open in it.
    depth: usize,
    string: InString,
    /// Elements that have left.
    count: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Start,
    Elements,
    /// One JSON text, no array.
    Single,
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum InString {
    #[default]
    No,
    Yes,
    Escape,
}

impl Array {
    /// Adds bytes.
    pub(super) fn push(
        &mut self,
        masker: &mut Masker<'_>,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        for &byte in chunk {
            match self.part {
                Part::Start | Part::End if byte.is_ascii_whitespace() => out.push(byte),
                Part::Start if byte == b'[' => {
                    self.part = Part::Elements;
                    out.push(byte);
                }
                Part::Start => {
                    self.part = Part::Single;
                    self.element.push(byte);
                }
                Part::Elements => self.byte(masker, byte, out)?,
                Part::Single => self.element.push(byte),
                Part::End => return Err(Error::Malformed("bytes after an array")),
            }
            if self.element.len() > limits::MAX_STREAM_EVENT_BYTES {
                return Err(Error::TooLarge("element of an array"));
            }
        }
        Ok(())
    }

    /// Ends the stream.
    pub(super) fn finish(
        &mut self,
        masker: &mut Masker<'_>,
        end: End,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match (self.part, end) {
            (Part::Single, End::Complete) => self.dispatch(masker, out)?,
            (Part::Elements, End::Complete) => return Err(Error::Malformed("array is not closed")),
            _ => self.element.clear(),
        }
        // Only an array that was cut can hold something here.
        let made = self.events.finish(masker, end)?;
        self.write_last(&made, out);
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.element.len() + self.events.held()
    }

    fn byte(&mut self, masker: &mut Masker<'_>, byte: u8, out: &mut Vec<u8>) -> Result<(), Error> {
        let top = self.depth == 0 && self.string == InString::No;
        if top && matches!(byte, b',' | b']') {
            let blank = self.element.trim_ascii().is_empty();
            if blank && (byte == b',' || self.count > 0) {
                return Err(Error::Malformed("array without an element"));
            }
            if blank {
                out.append(&mut self.element);
            } else {
                self.dispatch(masker, out)?;
                self.count += 1;
            }
            if byte == b']' {
                let made = self.events.finish(masker, End::Complete)?;
                self.write_last(&made, out);
                self.part = Part::End;
            }
            out.push(byte);
            return Ok(());
        }
        self.string = match (self.string, byte) {
            (InString::No, b'"') | (InString::Escape, _) => InString::Yes,
            (InString::Yes, b'\\') => InString::Escape,
            (InString::Yes, b'"') => InString::No,
            (state, _) => state,
        };
        if self.string == InString::No {
            self.depth = match byte {
                b'{' | b'[' => self.depth + 1,
                b'}' | b']' => {
                    self.depth.checked_sub(1).ok_or(Error::Malformed("array with odd brackets"))?
                }
                _ => self.depth,
            };
        }
        self.element.push(byte);
        Ok(())
    }

    /// An element is whole.
    fn dispatch(&mut self, masker: &mut Masker<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let element = std::mem::take(&mut self.element);
        let payload = element.trim_ascii();
        let before = element.len() - element.trim_ascii_start().len();
        let event = Event { name: b"", envelope: b"", payload };
        let leaves = self.events.json(masker, event)?;
        out.extend(element.get(..before).unwrap_or_default());
        for made in &leaves.before {
            out.extend(&made.payload);
            out.extend(b",\n");
        }
        out.extend(leaves.payload.as_deref().unwrap_or(payload));
        out.extend(element.get(before + payload.len()..).unwrap_or_default());
        Ok(())
    }

    /// Events after the last element: there was one, since something is held of it.
    fn write_last(&self, made: &[Made], out: &mut Vec<u8>) {
        for made in made {
            out.extend(b",\n");
            out.extend(&made.payload);
        }
    }
}
