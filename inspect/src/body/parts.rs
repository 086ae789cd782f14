//! Multipart bodies: every part by its own type; boundaries and heads of parts keep their bytes.
//!
//! - input: the boundary, a body
//! - output: [`Outcome`]
//! - bound: `MAX_NESTING` multiparts inside of each other
//! - on failure: [`Error`]; what stands outside of parts is searched as text

use std::ops::Range;

use memchr::memmem;

use super::text::{How, Outcome};
use super::{Error, Masker};
use crate::view::Edit;

impl Masker<'_> {
    /// Searches a multipart body.
    pub(super) fn parts(&mut self, boundary: &[u8], body: &[u8]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut from = 0;
        for part in split(boundary, body) {
            let head = body.get(from..part.start).unwrap_or_default();
            let found = self.scan(head, How::default())?;
            outcome.shift(found, from);
            let content = body.get(part.clone()).unwrap_or_default();
            let kind = field(head, b"content-type");
            let name = field(head, b"content-disposition").unwrap_or_default();
            let step = format!("part {}", String::from_utf8_lossy(name));
            let found = self.nested(&step, |masker| masker.typed(kind, content))?;
            outcome.shift(found, part.start);
            from = part.end;
        }
        let found = self.scan(body.get(from..).unwrap_or_default(), How::default())?;
        outcome.shift(found, from);
        Ok(outcome)
    }
}

impl Outcome {
    /// Adds what was found in a part that stands at `by`.
    fn shift(&mut self, found: Self, by: usize) {
        let moved = |span: Range<usize>| span.start + by..span.end + by;
        self.hits.extend(found.hits.into_iter().map(moved));
        let edits = found.edits.into_iter();
        self.edits.extend(edits.map(|edit| Edit { span: moved(edit.span), with: edit.with }));
    }
}

/// The contents of the parts: from behind the empty line to before the line break of the next boundary.
fn split(boundary: &[u8], body: &[u8]) -> Vec<Range<usize>> {
    let delimiter = [b"--", boundary].concat();
    let mut parts = Vec::new();
    let mut last: Option<usize> = None;
    for at in memmem::find_iter(body, &delimiter) {
        let before = body.get(..at).unwrap_or_default();
        if !(before.is_empty() || before.ends_with(b"\n")) {
            continue;
        }
        if let Some(start) = last {
            let end = before.strip_suffix(b"\n").unwrap_or(before);
            let end = end.strip_suffix(b"\r").unwrap_or(end).len();
            parts.extend(content(body, start, end));
        }
        last = Some(at + delimiter.len());
    }
    // Broken off.
    parts.extend(last.and_then(|start| content(body, start, body.len())));
    parts
}

fn content(body: &[u8], start: usize, end: usize) -> Option<Range<usize>> {
    let part = body.get(start..end)?;
    let wide = memmem::find(part, b"\r\n\r\n").map(|at| at + 4);
    let narrow = memmem::find(part, b"\n\n").map(|at| at + 2);
    let head = wide.into_iter().chain(narrow).min()?;
    Some(start + head..end)
}

/// A field of a part's head, which ends `head`.
fn field<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.rsplit(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (found, value) = line.split_at_checked(colon)?;
        found
            .trim_ascii()
            .eq_ignore_ascii_case(name)
            .then(|| value.get(1..))?
            .map(<[u8]>::trim_ascii)
    })
}
