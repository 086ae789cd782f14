//! Server-sent events.
//!
//! - input: `text/event-stream` (WHATWG HTML, section 9.2) in any cutting
//! - output: the same stream; an event that is not changed leaves as it came, byte by byte; of a changed
//!   one only the `data` lines change
//! - bound: `limits::MAX_STREAM_EVENT_BYTES` of an event
//! - on failure: [`Error`]: an event over its bound; in a stream of JSON, one that begins like JSON and is
//!   not

use std::ops::Range;

use crate::body::Masker;
use crate::engine::End;
use crate::limits;
use crate::stream::Error;
use crate::stream::event::{Event, Events, Made};
use crate::stream::json::Json;

/// A stream of events.
#[derive(Debug, Default)]
pub(super) struct Sse {
    events: Events,
    /// The event that is not finished.
    raw: Vec<u8>,
    /// Where its last line begins.
    line: usize,
    /// The last byte was a CR: an LF belongs to it.
    after_cr: bool,
    /// The first event was seen; before it a byte order mark may stand.
    begun: bool,
    /// An event was JSON.
    json: bool,
    /// How lines end, as last seen.
    newline: Vec<u8>,
}

/// One line of an event.
#[derive(Clone, Debug)]
struct Line {
    /// Without what ends it.
    content: Range<usize>,
    /// Where the next one begins.
    next: usize,
    /// Where the value of a `data` field stands.
    data: Option<Range<usize>>,
}

const MARK: &[u8] = b"\xEF\xBB\xBF";
const DONE: &[u8] = b"[DONE]";

impl Sse {
    /// Adds bytes.
    pub(super) fn push(
        &mut self,
        masker: &mut Masker<'_>,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut rest = chunk;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                // The event that it ended has left already.
                if self.raw.is_empty() { &mut *out } else { &mut self.raw }.push(first);
                self.line = self.raw.len();
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', rest);
            let (now, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            rest = after;
            self.raw.extend(now);
            if self.raw.len() > limits::MAX_STREAM_EVENT_BYTES {
                return Err(Error::TooLarge("server-sent event"));
            }
            if end.is_some() {
                self.after_cr = now.ends_with(b"\r");
                if self.line + 1 == self.raw.len() {
                    self.dispatch(masker, out)?;
                }
                self.line = self.raw.len();
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
        let open = !self.raw.is_empty() && end == End::Complete;
        if open {
            // Some readers take an event that no blank line ends.
            self.dispatch(masker, out)?;
        }
        let made = self.events.finish(masker, end)?;
        if open && !made.is_empty() {
            out.extend(self.newline().repeat(2));
        }
        self.write_made(&made, out);
        self.raw.clear();
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.raw.len() + self.events.held()
    }

    /// An event is whole.
    fn dispatch(&mut self, masker: &mut Masker<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let raw = std::mem::take(&mut self.raw);
        let lines = lines(&raw, !std::mem::replace(&mut self.begun, true));
        if let Some(line) = lines.first() {
            self.newline = raw.get(line.content.end..line.next).unwrap_or_default().to_vec();
        }
        let changed = self.payload(masker, &raw, &lines, out)?;
        let mut changed = changed.as_deref();
        let replaced = changed.is_some();
        for line in lines {
            let whole = raw.get(line.content.start..line.next).unwrap_or_default();
            match line.data {
                None => other(masker, &raw, &line, out)?,
                Some(_) if !replaced => out.extend(whole),
                Some(data) => {
                    if let Some(payload) = changed.take() {
                        let prefix = raw.get(line.content.start..data.start).unwrap_or_default();
                        let end = raw.get(line.content.end..line.next).unwrap_or_default();
                        data_lines(prefix, payload, end, out);
                    }
                }
            }
        }
        Ok(())
    }

    /// Masks the data of an event; what is to stand there now.
    fn payload(
        &mut self,
        masker: &mut Masker<'_>,
        raw: &[u8],
        lines: &[Line],
        out: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let data = lines.iter().filter_map(|line| raw.get(line.data.clone()?));
        let payload = data.collect::<Vec<_>>().join(&b'\n');
        if payload.is_empty() {
            return Ok(None);
        }
        let named = lines.iter().rfind(|line| field(raw, line) == b"event");
        let envelope = named.and_then(|line| raw.get(line.content.start..line.next));
        let envelope = envelope.unwrap_or_default();
        let name = named.map_or(&b""[..], |line| value(raw, line));
        if name.len() > MAX_NAME_BYTES {
            return Err(Error::TooLarge("name of a server-sent event"));
        }
        if payload == DONE {
            let made = self.events.finish(masker, End::Complete)?;
            self.write_made(&made, out);
            return Ok(None);
        }
        let event = Event { name, envelope, payload: &payload };
        if !self.is_json(name, &payload)? {
            return self.events.text(masker, event);
        }
        self.json = true;
        let made = self.events.end_text(masker, name)?;
        self.write_made(&made, out);
        let leaves = self.events.json(masker, event)?;
        self.write_made(&leaves.before, out);
        Ok(leaves.payload)
    }

    /// Whether data is a JSON event; else it is a piece of text.
    fn is_json(&self, name: &[u8], payload: &[u8]) -> Result<bool, Error> {
        let object = payload.trim_ascii_start().starts_with(b"{");
        let json = match Json::parse(payload) {
            Err(error) if self.json && object => return Err(error),
            Err(_) => return Ok(false),
            Ok(json) => json,
        };
        let has_members = json.root().is_some_and(|root| root.is_object() && !root.is_empty());
        let is_word = json.root().is_some_and(|root| root.is_word());
        // Text may have pieces like `{}`, `[1]`, `"a"` and `1`.
        Ok(has_members || !is_word && !self.events.is_text(name))
    }

    fn write_made(&self, made: &[Made], out: &mut Vec<u8>) {
        for event in made {
            out.extend(&event.envelope);
            data_lines(b"data: ", &event.payload, self.newline(), out);
            out.extend(self.newline());
        }
    }

    fn newline(&self) -> &[u8] {
        if self.newline.is_empty() { b"\n" } else { &self.newline }
    }
}

const MAX_NAME_BYTES: usize = 1024;

/// A line that is no data: comments, names, identifiers and what is not known.
fn other(masker: &mut Masker<'_>, raw: &[u8], line: &Line, out: &mut Vec<u8>) -> Result<(), Error> {
    let content = raw.get(line.content.clone()).unwrap_or_default();
    match masker.text(content)? {
        Some(mut masked) => {
            for byte in masked.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')) {
                *byte = b' ';
            }
            out.extend(masked);
        }
        None => out.extend(content),
    }
    out.extend(raw.get(line.content.end..line.next).unwrap_or_default());
    Ok(())
}

/// Writes data as lines that `prefix` begins.
fn data_lines(prefix: &[u8], payload: &[u8], newline: &[u8], out: &mut Vec<u8>) {
    // CR cannot stand in a line; CRLF is one end.
    let mut rest = payload;
    loop {
        let end = memchr::memchr2(b'\r', b'\n', rest);
        let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        out.extend(prefix);
        if line.starts_with(b" ") && !prefix.ends_with(b" ") {
            out.push(b' ');
        }
        out.extend(line);
        let Some(end) = end else { break };
        out.extend(if newline.is_empty() { b"\n" } else { newline });
        let ended = rest.get(end..).unwrap_or_default();
        rest = ended.strip_prefix(b"\r\n").or(ended.get(1..)).unwrap_or_default();
    }
    out.extend(newline);
}

/// The lines of an event, without the blank one's content; `first` may begin with a byte order mark.
fn lines(raw: &[u8], first: bool) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let rest = raw.get(at..).unwrap_or_default();
        let len = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let ended = rest.get(len..).unwrap_or_default();
        let end = if ended.starts_with(b"\r\n") { 2 } else { ended.len().min(1) };
        let mut line = Line { content: at..at + len, next: at + len + end, data: None };
        let mark = if first && at == 0 && rest.starts_with(MARK) { MARK.len() } else { 0 };
        let content = rest.get(mark..len).unwrap_or_default();
        let name = content.split(|byte| *byte == b':').next().unwrap_or_default();
        if name == b"data" {
            let after = content.get(name.len()..).unwrap_or_default();
            let skip = if after.starts_with(b": ") { 2 } else { after.len().min(1) };
            line.data = Some(at + mark + name.len() + skip..at + len);
        }
        at = line.next;
        lines.push(line);
    }
    lines
}

fn field<'a>(raw: &'a [u8], line: &Line) -> &'a [u8] {
    let content = raw.get(line.content.clone()).unwrap_or_default();
    let content = content.strip_prefix(MARK).unwrap_or(content);
    content.split(|byte| *byte == b':').next().unwrap_or_default()
}

fn value<'a>(raw: &'a [u8], line: &Line) -> &'a [u8] {
    let content = raw.get(line.content.clone()).unwrap_or_default();
    let at = memchr::memchr(b':', content).map_or(content.len(), |at| at + 1);
    let value = content.get(at..).unwrap_or_default();
    value.strip_prefix(b" ").unwrap_or(value)
}
