//! A text as its reader sees it, with the way back to the bytes that it was made of.
//!
//! - input: bytes, and stretches of them: as they are, or decoded
//! - output: [`View`]: the decoded text; where in the source each part of it came from
//! - bound: [`MAX_PIECES`] changes between verbatim and decoded
//! - on failure: [`View::is_whole`] says that the bound was passed

pub(crate) mod charset;
pub(crate) mod form;
pub(crate) mod joined;
pub(crate) mod json;
pub(crate) mod quoted;
pub(crate) mod runs;
pub(crate) mod style;
pub(crate) mod unescape;

use std::ops::Range;

pub(crate) use style::Style;

/// A part of a text is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) span: Range<usize>,
    pub(crate) with: Vec<u8>,
}

/// Applies edits, which are in order and do not overlap.
pub(crate) fn splice(text: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for edit in edits {
        out.extend_from_slice(text.get(from..edit.span.start).unwrap_or_default());
        out.extend_from_slice(&edit.with);
        from = edit.span.end;
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default());
    out
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) text: Vec<u8>,
    pieces: Vec<Piece>,
    overflow: bool,
}

/// `count` units one after the other, each of `unit` bytes in the text and `wide` bytes in the source.
#[derive(Clone, Copy, Debug)]
struct Piece {
    out: u32,
    wire: u32,
    count: u32,
    unit: u8,
    wide: u8,
    style: Style,
}

impl View {
    /// Adds what stands in the source at `span`, as it is.
    pub(crate) fn copy(&mut self, source: &[u8], span: Range<usize>) {
        let bytes = source.get(span.clone()).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        let count = narrow(bytes.len());
        self.piece(Piece {
            out: narrow(self.text.len()),
            wire: narrow(span.start),
            count,
            unit: 1,
            wide: 1,
            style: Style::Verbatim,
        });
        self.text.extend_from_slice(bytes);
    }

    /// Adds `out`, which is what the source means at `span`; with nothing in `out`, the span is skipped.
    pub(crate) fn put(&mut self, span: Range<usize>, out: &[u8], style: Style) {
        if out.is_empty() {
            return;
        }
        self.piece(Piece {
            out: narrow(self.text.len()),
            wire: narrow(span.start),
            count: 1,
            unit: u8::try_from(out.len()).unwrap_or(u8::MAX),
            wide: u8::try_from(span.len()).unwrap_or(u8::MAX),
            style,
        });
        self.text.extend_from_slice(out);
    }

    fn piece(&mut self, piece: Piece) {
        if let Some(last) = self.pieces.last_mut() {
            let same = (last.unit, last.wide, last.style) == (piece.unit, piece.wide, piece.style);
            if same && last.wire + last.count * u32::from(last.wide) == piece.wire {
                last.count += piece.count;
                return;
            }
        }
        if self.pieces.len() < MAX_PIECES {
            self.pieces.push(piece);
        } else {
            self.overflow = true;
        }
    }

    /// False if the way back is incomplete.
    pub(crate) fn is_whole(&self) -> bool {
        !self.overflow
    }

    /// Where in the source a part of the text stands; of decoded units the whole.
    pub(crate) fn span(&self, part: &Range<usize>) -> Range<usize> {
        let start = self.unit(part.start).map_or(0, |span| span.start);
        let end = self.unit(part.end.saturating_sub(1)).map_or(start, |span| span.end);
        start..end.max(start)
    }

    fn unit(&self, at: usize) -> Option<Range<usize>> {
        let piece = self.pieces.get(self.index(at)?)?;
        let nth = (narrow(at) - piece.out) / u32::from(piece.unit).max(1);
        let nth = nth.min(piece.count.saturating_sub(1));
        let start = piece.wire + nth * u32::from(piece.wide);
        Some(widen(start)..widen(start + u32::from(piece.wide)))
    }

    fn index(&self, at: usize) -> Option<usize> {
        self.pieces.partition_point(|piece| widen(piece.out) <= at).checked_sub(1)
    }

    /// How a part of the text, and else what stands beside it, is encoded in the source.
    pub(crate) fn style(&self, part: &Range<usize>) -> Style {
        let first = self.index(part.start).unwrap_or(0);
        let last = self.index(part.end.saturating_sub(1)).unwrap_or(first);
        let pieces = self.pieces.get(first.saturating_sub(1)..).unwrap_or_default();
        let beside = last + 3 - first;
        let mut found = pieces.iter().take(beside).filter(|piece| {
            let start = widen(piece.out);
            let end = start + widen(piece.count) * usize::from(piece.unit);
            end + BESIDE >= part.start && start <= part.end + BESIDE
        });
        found.find(|piece| piece.style != Style::Verbatim).map_or(Style::Verbatim, |p| p.style)
    }

    /// Memory that the way back takes.
    pub(crate) fn weight(&self) -> usize {
        self.text.len() + self.pieces.len() * size_of::<Piece>()
    }
}

/// Sources are below `limits::MAX_DECODED_BYTES`: [`crate::body::Masker`] refuses larger ones.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX / 512)
}

fn widen(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Each is 16 bytes.
const MAX_PIECES: usize = 4 * 1024 * 1024;
/// How far away something encoded tells how its surroundings are.
const BESIDE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_leads_back() {
        let source = br"one\ntwo\u0041\u0042 three";
        let mut view = View::default();
        view.copy(source, 0..3);
        view.put(3..5, b"\n", Style::Backslash);
        view.copy(source, 5..8);
        view.put(8..14, b"A", Style::Backslash);
        view.put(14..20, b"B", Style::Backslash);
        view.copy(source, 20..26);
        assert_eq!(view.text, b"one\ntwoAB three");
        assert_eq!(view.pieces.len(), 5, "equal units are one piece");
        assert_eq!(view.span(&(0..15)), 0..26);
        assert_eq!(view.span(&(8..9)), 14..20);
        assert_eq!(view.span(&(1..5)), 1..6);
        assert_eq!(view.style(&(5..6)), Style::Backslash);
        assert_eq!(splice(b"abc", &[Edit { span: 1..2, with: b"xyz".to_vec() }]), b"axyzc");
    }
}
