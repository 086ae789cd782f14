//! The wire bytes of what is held in a channel.
//!
//! - input: bytes of a view, each with the wire bytes that it stands for
//! - output: wire bytes, as they were or with a span replaced
//! - bound: what the channel holds
//! - on failure: cannot fail

use std::collections::VecDeque;

/// A queue of view bytes and their wire bytes.
#[derive(Debug, Default)]
pub(super) struct Units {
    units: VecDeque<Unit>,
    raw: VecDeque<u8>,
}

/// One byte of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    /// Wire bytes: 1 for a plain byte; of an escape sequence the first view byte has all of them.
    raw: u8,
}

/// What befalls bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// They stay.
    #[default]
    Keep,
    /// This stands in their place.
    Replace(Vec<u8>),
}

impl Fate {
    /// What befalls the rest of a value whose beginning had this fate.
    pub(super) fn rest(&self) -> Self {
        match self {
            Self::Keep => Self::Keep,
            Self::Replace(_) => Self::Replace(Vec::new()),
        }
    }
}

impl Units {
    /// Adds bytes that stand for themselves.
    pub(super) fn plain(&mut self, bytes: &[u8]) {
        self.units.extend(bytes.iter().map(|_| Unit { raw: 1 }));
        self.raw.extend(bytes);
    }

    /// View bytes.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Wire bytes.
    pub(super) fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// Lets the first `count` view bytes go as they are.
    pub(super) fn keep(&mut self, count: usize, out: &mut Vec<u8>) {
        let raw = self.units.drain(..count.min(self.units.len())).map(|u| usize::from(u.raw)).sum();
        out.extend(self.raw.drain(..self.raw.len().min(raw)));
    }

    /// Lets the first `count` view bytes meet their fate.
    pub(super) fn replace(&mut self, count: usize, fate: &Fate, out: &mut Vec<u8>) {
        match fate {
            Fate::Keep => self.keep(count, out),
            Fate::Replace(with) => {
                self.keep(count, &mut Vec::new());
                out.extend_from_slice(with);
            }
        }
    }
}
