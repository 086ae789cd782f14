//! One text, joined from the pieces that carry it.
//!
//! - input: text of deltas, in order
//! - output: text that may leave, with every secret judged
//! - bound: what [`Channel`] holds, and one escape sequence
//! - on failure: [`Error`], when the judge refuses

use crate::body::Masker;
use crate::engine::{By, Channel, End, Match, Piece};
use crate::limits;
use crate::rule::Confidence;
use crate::stream::Error;
use crate::stream::fragment::Lexer;
use crate::stream::unit::{Class, Fate, Units};

/// What the pieces of a text are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    #[default]
    Text,
    /// Fragments of a JSON text.
    Json,
    /// Text that its sender signed: a secret in it is judged, but never replaced.
    Signed,
}

/// A text that is still open.
#[derive(Debug, Default)]
pub(super) struct Open {
    kind: Kind,
    channel: Channel,
    lexer: Lexer,
    units: Units,
    /// Whether anything was replaced.
    replaced: bool,
    /// What befalls the rest of a long value.
    rest: Fate,
    /// Nothing has left since the beginning of a long value.
    in_long: bool,
}

/// Bytes given to the channel at a time: so few that at most one long value begins among them.
const STEP_BYTES: usize = 256;

impl Open {
    /// A text of this kind.
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Adds text; what may leave is added to `out`.
    pub(super) fn push(
        &mut self,
        masker: &mut Masker<'_>,
        text: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut pieces = Vec::new();
        for part in text.chunks(STEP_BYTES) {
            let mut view = Vec::with_capacity(part.len());
            match self.kind {
                Kind::Json => self.lexer.push(part, &mut self.units, &mut view),
                Kind::Text | Kind::Signed => {
                    self.units.add(Class::Plain, part);
                    view.extend(part);
                }
            }
            self.channel.push(masker.engine, masker.known, &view, &mut pieces);
            let held = self.channel.held();
            self.settle(masker, &mut pieces, held, out)?;
        }
        Ok(())
    }

    /// Ends the text.
    pub(super) fn finish(
        &mut self,
        masker: &mut Masker<'_>,
        end: End,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut pieces = Vec::new();
        let mut view = Vec::new();
        self.lexer.finish(&mut self.units, &mut view);
        self.channel.push(masker.engine, masker.known, &view, &mut pieces);
        std::mem::take(&mut self.channel).finish(masker.engine, masker.known, end, &mut pieces);
        let before = out.len();
        self.settle(masker, &mut pieces, 0, out)?;
        if self.kind == Kind::Signed && end == End::Cut {
            // What may be a secret would leave, because it is never replaced here.
            out.truncate(before);
        }
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.units.raw_len() + self.lexer.held()
    }

    /// Whether a secret was replaced in this text.
    pub(super) fn replaced(&self) -> bool {
        self.replaced
    }

    /// Lets the pieces go and judges their secrets. Bytes of the view that are neither in a piece nor
    /// held are the rest of a long value.
    fn settle(
        &mut self,
        masker: &mut Masker<'_>,
        pieces: &mut Vec<Piece>,
        held: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let in_pieces: usize = pieces.iter().map(piece_len).sum();
        let mut swallowed = self.units.len().saturating_sub(held + in_pieces);
        // A step is too short for two long values, unless far more was held for a known value. Whose rest
        // was swallowed cannot be told then.
        let long = pieces.iter().filter(|piece| is_long(piece)).count();
        if swallowed > 0 && long + usize::from(self.in_long && long > 0) > 1 {
            return Err(Error::TooLarge("long values in one text"));
        }
        if !pieces.iter().any(is_long) {
            self.units.replace(std::mem::take(&mut swallowed), &self.rest, out);
        }
        for piece in pieces.drain(..) {
            let is_long = is_long(&piece);
            self.in_long = is_long;
            match piece {
                Piece::Text(text) => self.units.keep(text.len(), out),
                Piece::Secret { by, confidence, value } => {
                    let fate = self.fate(judge(masker, by, confidence, &value)?);
                    self.units.replace(value.len(), &fate, out);
                    self.rest = fate.rest();
                }
            }
            if is_long {
                self.units.replace(std::mem::take(&mut swallowed), &self.rest, out);
            }
        }
        Ok(())
    }

    fn fate(&mut self, fate: Fate) -> Fate {
        match (self.kind, fate) {
            (Kind::Text | Kind::Json, Fate::Replace(with)) => {
                self.replaced = true;
                Fate::Replace(with)
            }
            _ => Fate::Keep,
        }
    }
}

fn piece_len(piece: &Piece) -> usize {
    match piece {
        Piece::Text(text) => text.len(),
        Piece::Secret { value, .. } => value.len(),
    }
}

/// Whether this is the beginning of a value that was too long to be held.
fn is_long(piece: &Piece) -> bool {
    matches!(piece, Piece::Secret { value, .. } if value.len() >= limits::MAX_HELD_BYTES)
}

fn judge(
    masker: &mut Masker<'_>,
    by: By,
    confidence: Confidence,
    value: &[u8],
) -> Result<Fate, Error> {
    let found = Match { span: 0..value.len(), by, confidence };
    Ok(masker.judge(&found, value)?.map_or(Fate::Keep, Fate::Replace))
}
