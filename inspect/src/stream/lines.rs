//! One JSON text on each line.
//!
//! - input: JSON lines or a JSON text sequence (RFC 7464), in any cutting
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
    /// Whether a separator stood before the last text.
    is_sequence: bool,
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
        write(&made, self.is_sequence, out);
        self.line.clear();
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.line.len() + self.events.held()
    }

    fn dispatch(&mut self, masker: &mut Masker<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let line = std::mem::take(&mut self.line);
        let is_around = |byte: &u8| byte.is_ascii_whitespace() || *byte == RECORD_SEPARATOR;
        let before = line.iter().take_while(|byte| is_around(byte)).count();
        let payload = line.get(before..).unwrap_or_default().trim_ascii_end();
        if payload.is_empty() {
            out.extend(line);
            return Ok(());
        }
        let event = Event { name: b"", envelope: b"", payload };
        let leaves = self.events.json(masker, event)?;
        self.is_sequence = line.first() == Some(&RECORD_SEPARATOR);
        write(&leaves.before, self.is_sequence, out);
        out.extend(line.get(..before).unwrap_or_default());
        out.extend(leaves.payload.as_deref().unwrap_or(payload));
        out.extend(line.get(before + payload.len()..).unwrap_or_default());
        Ok(())
    }
}

/// Stands before each text of a sequence.
const RECORD_SEPARATOR: u8 = 0x1E;

fn write(made: &[Made], is_sequence: bool, out: &mut Vec<u8>) {
    for made in made {
        out.extend(Some(RECORD_SEPARATOR).filter(|_| is_sequence));
        out.extend(&made.payload);
        out.push(b'\n');
    }
}
