//! One JSON text on each line.
//!
//! - input: JSON lines in any cutting
//! - output: the same lines; each is an event
//! - bound: `limits::MAX_STREAM_EVENT_BYTES` of a line
//! - on failure: [`Error`]: a line that is not JSON

use crate::body::Masker;
use crate::engine::End;
use crate::limits;
use crate::stream::Error;
use crate::stream::event::{Event, Events, Made};

/// Lines that are coming.
#[derive(Debug, Default)]
pub(super) struct Lines {
    events: Events,
    /// The line that is not finished.
    line: Vec<u8>,
}

impl Lines {
    /// Adds bytes.
    pub(super) fn push(
        &mut self,
        masker: &mut Masker<'_>,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(part);
            if self.line.len() > limits::MAX_STREAM_EVENT_BYTES {
                return Err(Error::TooLarge("line"));
            }
            if part.ends_with(b"\n") {
                self.dispatch(masker, out)?;
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
        let open = end == End::Complete && !self.line.is_empty();
        if open {
            self.dispatch(masker, out)?;
        }
        let made = self.events.finish(masker, end)?;
        if open && !made.is_empty() {
            out.push(b'\n');
        }
        write(&made, out);
        self.line.clear();
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.line.len() + self.events.held()
    }

    fn dispatch(&mut self, masker: &mut Masker<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let line = std::mem::take(&mut self.line);
        let payload = line.trim_ascii();
        if payload.is_empty() {
            out.extend(line);
            return Ok(());
        }
        let before = line.len() - line.trim_ascii_start().len();
        let event = Event { name: b"", envelope: b"", payload };
        let leaves = self.events.json(masker, event)?;
        write(&leaves.before, out);
        out.extend(line.get(..before).unwrap_or_default());
        out.extend(leaves.payload.as_deref().unwrap_or(payload));
        out.extend(line.get(before + payload.len()..).unwrap_or_default());
        Ok(())
    }
}

fn write(made: &[Made], out: &mut Vec<u8>) {
    for made in made {
        out.extend(&made.payload);
        out.push(b'\n');
    }
}
