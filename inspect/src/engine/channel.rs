//! Decides what may leave of a growing text.
//!
//! - input: a text piece by piece
//! - output: [`Piece`]s: put together they are the same however the text was cut
//! - bound: `limits::MAX_HELD_BYTES` of a value are held, and as much of released text is
//!   remembered as rules look back
//! - on failure: cannot fail; another engine than before begins anew at the remembered text

use std::cmp::Reverse;

use super::automaton::Swallow;
use super::compiled::Compiled;
use super::scan::{Memories, Ready, Scan};
use super::{By, End, Engine, Piece};
use crate::known::Known;
use crate::limits;
use crate::rule::Confidence;

/// In [`By::Known`]: a text was cut off where some known value may have begun.
pub const CUT_OFF: u32 = u32::MAX;

/// A text that grows piece by piece. For any cutting of a text into pieces, what leaves is, put
/// together, the same.
#[derive(Debug, Default)]
pub struct Channel {
    /// Remembered, then held.
    pub(super) text: Vec<u8>,
    /// What is remembered of `text`: it left, or was part of a secret.
    released: usize,
    scan: Option<Scan>,
    long: Option<Long>,
}

/// A value that is dropped because it is too long to be held.
#[derive(Debug)]
struct Long {
    rule: usize,
    swallow: Swallow,
    fed: usize,
}

/// The next secret.
enum Next {
    Known(std::ops::Range<usize>, u32),
    Rule(Ready),
}

impl Channel {
    /// Adds `text`; what may leave now is added to `out`, in order.
    pub fn push(&mut self, engine: &Engine, known: &Known, text: &[u8], out: &mut Vec<Piece>) {
        if !text.is_empty() {
            self.text.extend_from_slice(text);
            self.settle(engine, known, None, out);
        }
    }

    /// Ends the text: everything leaves.
    pub fn finish(mut self, engine: &Engine, known: &Known, end: End, out: &mut Vec<Piece>) {
        self.settle(engine, known, Some(end), out);
    }

    /// Bytes that are held back now.
    pub fn held(&self) -> usize {
        self.text.len().saturating_sub(self.released)
    }

    fn settle(&mut self, engine: &Engine, known: &Known, end: Option<End>, out: &mut Vec<Piece>) {
        let mut memories = engine.memories.get();
        let mut scan = match self.scan.take() {
            Some(scan) if scan.is_of(engine) => scan,
            _ => {
                self.long = None;
                Scan::new(engine)
            }
        };
        let is_complete = end == Some(End::Complete);
        scan.advance(engine, &mut memories, &self.text, is_complete);
        scan.ready.sort_by_key(|ready| Reverse(ready.order()));
        let mut value = known.find(&self.text, self.released);
        let mut hold: Option<Hold> = None;
        while self.swallow(engine, end) {
            while scan.ready.pop_if(|ready| ready.span.start < self.released).is_some() {}
            if value.as_ref().is_some_and(|(span, _)| span.start < self.released) {
                value = known.find(&self.text, self.released);
            }
            if !is_complete && hold.is_none_or(|hold| hold.at < self.released) {
                hold = Some(self.hold(engine, known, &scan, &mut memories));
            }
            let held = hold.map_or(self.text.len(), |hold| hold.at);
            let first = scan.ready.last().map(|ready| ready.span.start);
            let next = match value.clone() {
                Some((span, number)) if first.is_none_or(|first| span.start <= first) => {
                    (span.start < held).then_some(Next::Known(span, number))
                }
                _ => scan.ready.pop_if(|ready| ready.span.start < held).map(Next::Rule),
            };
            let Some(next) = next else {
                self.release(held, out);
                if let Some(hold) = hold.filter(|_| end.is_some()) {
                    self.cut_off(hold, out);
                }
                break;
            };
            self.take(engine, next, out);
        }
        scan.forget(engine, self.released);
        let gone = self.released.saturating_sub(engine.look_behind);
        self.text.drain(..gone);
        self.released = self.released.saturating_sub(gone);
        self.long.iter_mut().for_each(|long| long.fed = long.fed.saturating_sub(gone));
        scan.cut(gone);
        self.scan = Some(scan);
    }

    /// Goes on with a long value; whether text follows that does not belong to it.
    fn swallow(&mut self, engine: &Engine, end: Option<End>) -> bool {
        let Some(mut long) = self.long.take() else { return true };
        let Some(dfa) = engine.rules.get(long.rule).map(Compiled::value) else { return true };
        let length = self.text.len();
        if let Some(end) = long.swallow.feed(dfa, &self.text, long.fed) {
            self.released = self.released.max(end);
            return true;
        }
        match end {
            None => {
                self.released = self.released.max(length.saturating_sub(long.swallow.pending()));
                self.long = Some(Long { fed: length, ..long });
                false
            }
            Some(End::Cut) => {
                self.released = length;
                false
            }
            Some(End::Complete) => {
                self.released = self.released.max(length.saturating_sub(long.swallow.finish(dfa)));
                true
            }
        }
    }

    fn hold(&self, engine: &Engine, known: &Known, scan: &Scan, memories: &mut Memories) -> Hold {
        let nothing = Hold { at: self.text.len(), by: By::Known(CUT_OFF) };
        let value = known.alive(&self.text, self.released);
        let value = value.map_or(nothing, |at| Hold { at, ..nothing });
        let rule = scan.hold(engine, memories, &self.text, self.released);
        let rule = rule.map_or(nothing, |(at, rule)| Hold { at, by: By::Rule(rule) });
        if rule.at < value.at { rule } else { value }
    }

    fn release(&mut self, to: usize, out: &mut Vec<Piece>) {
        if let Some(text) = self.text.get(self.released..to).filter(|text| !text.is_empty()) {
            out.push(Piece::Text(text.to_vec()));
        }
        self.released = self.released.max(to);
    }

    fn take(&mut self, engine: &Engine, next: Next, out: &mut Vec<Piece>) {
        let (span, by, confidence) = match &next {
            Next::Known(span, number) => (span, By::Known(*number), Confidence::High),
            Next::Rule(ready) => (&ready.span, By::Rule(ready.rule), ready.confidence),
        };
        self.release(span.start, out);
        let value = self.text.get(span.clone()).unwrap_or_default().to_vec();
        out.push(Piece::Secret { by, confidence, value });
        self.released = span.end.max(span.start.saturating_add(1));
        if let Next::Rule(ready) = next
            && ready.is_long
            && let Some(dfa) = engine.rules.get(ready.rule).map(Compiled::value)
        {
            let swallow = Swallow::new(dfa, &self.text, ready.span.start);
            self.long = Some(Long { rule: ready.rule, swallow, fed: ready.span.start });
        }
    }

    /// What may be the beginning of a secret counts as one.
    fn cut_off(&mut self, hold: Hold, out: &mut Vec<Piece>) {
        let held = self.text.get(hold.at..).unwrap_or_default();
        if !held.is_empty() {
            let value = held.get(..limits::MAX_HELD_BYTES).unwrap_or(held).to_vec();
            out.push(Piece::Secret { by: hold.by, confidence: Confidence::Low, value });
        }
        self.released = self.text.len();
    }
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    at: usize,
    by: By,
}
