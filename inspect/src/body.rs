//! A whole body, text, header value or URL: decoded, searched in all its views, and put together again.
//!
//! - input: bytes and what their header says about them
//! - output: the same bytes with every secret judged; nothing else changes
//! - bound: `limits::MAX_DECODED_BYTES` for everything that one [`Masker`] decodes, `MAX_NESTING`
//! - on failure: [`Error`]; the caller passes nothing of such a body

pub mod encoding;

use std::sync::Arc;

use crate::engine::{By, Engine, Match};
use crate::judge::{Found, Judge, Location, Verdict};
use crate::known::Known;
use crate::limits::MAX_DECODED_BYTES;
use crate::rule::Tier;

/// Why a body may not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `content-encoding` names one that weir cannot decode.
    #[error("unknown content encoding")]
    UnknownEncoding,
    /// The charset does not contain ASCII, and weir cannot decode it.
    #[error("unknown charset")]
    UnknownCharset,
    /// It decodes to too much, or is nested too deeply.
    #[error("over the bound of decoding")]
    OverBound,
    /// It is not what its header says.
    #[error("malformed encoding")]
    Malformed,
    /// The judge refused a match of this rule.
    #[error("refused: {rule}")]
    Refused {
        /// Its name.
        rule: Arc<str>,
    },
}

/// What the header says about a body.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyKind<'a> {
    /// Value of `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// Values of `content-encoding`, joined by commas.
    pub content_encoding: Option<&'a [u8]>,
}

/// Masks the parts of one message. Made for each message: what it decodes is counted.
pub struct Masker<'a> {
    /// What secrets look like.
    pub engine: &'a Engine,
    /// What is matched exactly.
    pub known: &'a Known,
    /// Who decides.
    pub judge: &'a mut dyn Judge,
    /// Where the bytes stand.
    pub at: Location,
    /// Bytes that may still be decoded.
    left: usize,
}

impl<'a> Masker<'a> {
    /// For one message, at its top.
    pub fn new(engine: &'a Engine, known: &'a Known, judge: &'a mut dyn Judge) -> Self {
        Self { engine, known, judge, at: Location::default(), left: MAX_DECODED_BYTES }
    }

    /// Masks a text of any kind, in all its views. None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn text(&mut self, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut out = Vec::new();
        let mut from = 0;
        for found in self.engine.find(text, self.known) {
            let value = text.get(found.span.clone()).unwrap_or_default();
            if let Some(new) = self.judge(&found, value)? {
                out.extend_from_slice(text.get(from..found.span.start).unwrap_or_default());
                out.extend_from_slice(&new);
                from = found.span.end;
            }
        }
        if from == 0 {
            return Ok(None);
        }
        out.extend_from_slice(text.get(from..).unwrap_or_default());
        Ok(Some(out))
    }

    /// Masks a body as it is on the wire; the result has the same content encodings. None: nothing
    /// changes.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn body(&mut self, kind: &BodyKind<'_>, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let decoded = encoding::decode(kind.content_encoding, body, self.left)?;
        self.spend(decoded.body.len())?;
        let masked = self.text(&decoded.body)?;
        masked.map(|masked| encoding::encode(&decoded.codecs, masked)).transpose()
    }

    /// Masks a body for the record: without content encodings.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn plain(&mut self, kind: &BodyKind<'_>, body: &[u8]) -> Result<Vec<u8>, Error> {
        let decoded = encoding::decode(kind.content_encoding, body, self.left)?;
        self.spend(decoded.body.len())?;
        let masked = self.text(&decoded.body)?;
        Ok(masked.unwrap_or(decoded.body))
    }

    /// Masks the value of a header field, cookie field or trailer. None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn header(&mut self, name: &str, value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.at.enter(name);
        let masked = self.text(value);
        self.at.leave();
        masked
    }

    /// Masks a URL or a part of one (path, query). None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn url(&mut self, url: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.text(url)
    }

    /// Asks the judge. Some: this stands in place of the value, before it is encoded.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn judge(&mut self, found: &Match, value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let (rule, known) = match found.by {
            By::Rule(index) => (self.engine.rule(index), None),
            By::Known(number) => (None, Some(number)),
        };
        let name = rule.map_or_else(|| Arc::from("known-value"), |rule| Arc::clone(&rule.id));
        let verdict = self.judge.judge(&Found {
            rule: &name,
            tier: rule.map_or(Tier::Known, |rule| rule.tier),
            confidence: found.confidence,
            known,
            hosts: rule.map_or(&[], |rule| &rule.hosts),
            value,
            at: &self.at,
        });
        match verdict {
            Verdict::Keep => Ok(None),
            Verdict::Replace(new) => Ok(Some(new)),
            Verdict::Refuse => Err(Error::Refused { rule: name }),
        }
    }

    /// Counts decoded bytes.
    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or(Error::OverBound)?;
        Ok(())
    }
}
