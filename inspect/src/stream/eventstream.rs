//! Event streams of AWS, as Bedrock sends them.
//!
//! - input: `application/vnd.amazon.eventstream` in any cutting: prelude, headers, payload, and two
//!   CRC-32
//! - output: the same frames; of a changed one both checksums are made anew
//! - bound: `limits::MAX_STREAM_EVENT_BYTES` of a frame
//! - on failure: [`Error`]: a wrong checksum or length, a payload that is not what its header says

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::body::Masker;
use crate::engine::End;
use crate::limits;
use crate::stream::Error;
use crate::stream::event::{Event, Events, JSON, Made, cut};
use crate::stream::json::Json;

mod headers;

/// Frames that are coming.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    events: Events,
    /// The frame that is not finished.
    raw: Vec<u8>,
}

/// Lengths and their checksum.
const PRELUDE: usize = 12;
/// Prelude, and the checksum of the frame.
const AROUND: usize = PRELUDE + 4;
/// Event of an invoked model: its payload has the model's event in base64.
const CHUNK: &[u8] = b"chunk";

impl EventStream {
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
        while let Some(total) = frame_len(rest)? {
            let Some((frame, after)) = rest.split_at_checked(total) else { break };
            rest = after;
            self.frame(masker, frame, out)?;
        }
        if !rest.is_empty() {
            // In place: a large frame is not copied with each piece of it.
            let done = raw.len() - rest.len();
            raw.drain(..done);
            self.raw = raw;
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
        if end == End::Complete && !self.raw.is_empty() {
            return Err(Error::Malformed("event stream ends inside a frame"));
        }
        self.raw.clear();
        let made = self.events.finish(masker, end)?;
        write_made(&made, out)
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.raw.len() + self.events.held()
    }

    fn frame(
        &mut self,
        masker: &mut Masker<'_>,
        frame: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let body = frame.len() - 4;
        if read(frame, body) != crc32fast::hash(frame.get(..body).unwrap_or_default()) {
            return Err(Error::Malformed("event stream frame with a wrong checksum"));
        }
        let payload_at = PRELUDE + length(read(frame, 4))?;
        let headers = frame.get(PRELUDE..payload_at).unwrap_or_default();
        let payload = frame.get(payload_at..body).unwrap_or_default();
        let parsed = headers::parse(headers)?;
        let name = headers::event_type(&parsed);
        let new_headers = headers::mask(masker, &parsed)?;
        let envelope = new_headers.as_deref().unwrap_or(headers);
        let event = Event { name, envelope, payload };
        let new_payload = if payload.is_empty() {
            None
        } else if name == CHUNK {
            self.chunk(masker, event, out)?
        } else if headers::is_json(&parsed) || payload.trim_ascii_start().starts_with(b"{") {
            let leaves = self.events.json(masker, event)?;
            write_made(&leaves.before, out)?;
            leaves.payload
        } else {
            self.events.text(masker, event)?
        };
        if new_headers.is_none() && new_payload.is_none() {
            out.extend(frame);
            return Ok(());
        }
        write(envelope, new_payload.as_deref().unwrap_or(payload), out)
    }

    /// The model's event stands in base64 in a member of the payload.
    fn chunk(
        &mut self,
        masker: &mut Masker<'_>,
        event: Event<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (hole, inner) = inner(event.payload)?;
        let leaves = self.events.json(masker, Event { name: b"", payload: &inner, ..event })?;
        write_made(&leaves.before, out)?;
        let blank = cut(event.payload, vec![(hole.clone(), b"\"\"")]);
        let around = masker.body(&JSON, &blank)?;
        if around.is_none() && leaves.payload.is_none() {
            return Ok(None);
        }
        let outer = around.unwrap_or(blank);
        let (hole, _) = self::inner(&outer)?;
        let inner = quoted(leaves.payload.as_deref().unwrap_or(&inner));
        Ok(Some(cut(&outer, vec![(hole, inner.as_bytes())])))
    }
}

/// Where `bytes` stands in the payload of a chunk, and what it says.
fn inner(payload: &[u8]) -> Result<(std::ops::Range<usize>, Vec<u8>), Error> {
    const WRONG: Error = Error::Malformed("chunk without bytes");
    let json = Json::parse(payload)?;
    let bytes = json.root().ok_or(WRONG)?.get("bytes")?.ok_or(WRONG)?;
    let text = bytes.text().ok_or(WRONG)?;
    let inner = STANDARD.decode(&*text).or(Err(Error::Malformed("chunk that is no base64")))?;
    Ok((bytes.span(), inner))
}

fn quoted(inner: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(inner))
}

fn write_made(made: &[Made], out: &mut Vec<u8>) -> Result<(), Error> {
    for made in made {
        let headers = headers::parse(&made.envelope)?;
        if headers::event_type(&headers) == CHUNK {
            let payload = format!("{{\"bytes\":{}}}", quoted(&made.payload));
            write(&made.envelope, payload.as_bytes(), out)?;
        } else {
            write(&made.envelope, &made.payload, out)?;
        }
    }
    Ok(())
}

/// Writes one frame.
pub(super) fn write(headers: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    const WRONG: Error = Error::TooLarge("event stream frame");
    let total = u32::try_from(AROUND + headers.len() + payload.len()).or(Err(WRONG))?;
    let headers_len = u32::try_from(headers.len()).or(Err(WRONG))?;
    let mut frame = Vec::with_capacity(AROUND + headers.len() + payload.len());
    frame.extend(total.to_be_bytes());
    frame.extend(headers_len.to_be_bytes());
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame.extend(headers);
    frame.extend(payload);
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    out.append(&mut frame);
    Ok(())
}

/// Length of the frame that begins here; `None` while its prelude is not whole.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(prelude) = bytes.get(..PRELUDE) else { return Ok(None) };
    if read(prelude, 8) != crc32fast::hash(prelude.get(..8).unwrap_or_default()) {
        return Err(Error::Malformed("event stream prelude with a wrong checksum"));
    }
    let (total, headers) = (length(read(prelude, 0))?, length(read(prelude, 4))?);
    if total > limits::MAX_STREAM_EVENT_BYTES {
        return Err(Error::TooLarge("event stream frame"));
    }
    if total < AROUND || headers > total - AROUND {
        return Err(Error::Malformed("event stream frame with a wrong length"));
    }
    Ok(Some(total))
}

/// The big-endian number at `at`; 0 where there is none.
fn read(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}

fn length(value: u32) -> Result<usize, Error> {
    usize::try_from(value).or(Err(Error::TooLarge("event stream frame")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_as_documented() {
        // An empty message has no headers and no payload: 16 bytes, and these checksums.
        let mut out = Vec::new();
        write(b"", b"", &mut out).unwrap();
        assert_eq!(hex(&out), "000000100000000005c248eb7d98c8ff");
        // A payload without headers.
        out.clear();
        write(b"", b"{'foo':'bar'}", &mut out).unwrap();
        assert_eq!(
            hex(&out),
            "0000001d00000000fd528c5a7b27666f6f273a27626172277dc36539 36".replace(' ', "")
        );
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
