//! A whole body, text, header value or URL: decoded, searched in all its views, and put together again.
//!
//! - input: bytes and what their header says about them
//! - output: the same bytes with every secret judged; nothing else changes
//! - bound: `limits::MAX_DECODED_BYTES` for everything that one [`Masker`] decodes, `MAX_NESTING`
//! - on failure: [`Error`]; the caller passes nothing of such a body

mod bytes;
mod document;
pub mod encoding;
mod parts;
mod text;

use std::sync::Arc;

use crate::cache::Cache;
use crate::engine::{By, Engine, Match};
use crate::judge::{Found, Judge, Location, Verdict};
use crate::known::Known;
use crate::limits::{MAX_DECODED_BYTES, MAX_NESTING};
use crate::rule::Tier;
use crate::view::{Edit, Style, View, runs, splice};

use encoding::Decoded;
use text::{How, Outcome};

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
    /// What was clean before.
    cache: Option<&'a Cache>,
    /// Bytes that may still be decoded.
    left: usize,
    /// Encodings around what is searched now.
    depth: usize,
}

impl<'a> Masker<'a> {
    /// For one message, at its top.
    pub fn new(engine: &'a Engine, known: &'a Known, judge: &'a mut dyn Judge) -> Self {
        let (at, left) = (Location::default(), MAX_DECODED_BYTES);
        Self { engine, known, judge, at, cache: None, left, depth: 0 }
    }

    /// Skips long strings of JSON in which nothing was found before.
    #[must_use]
    pub fn with_cache(self, cache: &'a Cache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Masks a text of any kind, in all its views; JSON as such. None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn text(&mut self, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.accept(text)?;
        let outcome = self.bytes(text, false)?;
        Ok(changed(text, &outcome))
    }

    /// Masks a body as it is on the wire; the result has the same content encodings. None: nothing
    /// changes.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn body(&mut self, kind: &BodyKind<'_>, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let (decoded, masked, beside) = self.whole(kind, body)?;
        let masked = match masked {
            None if beside => decoded.body,
            None => return Ok(None),
            Some(masked) => masked,
        };
        encoding::encode(&decoded.codecs, masked).map(Some)
    }

    /// Masks a body for the record: without content encodings.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn plain(&mut self, kind: &BodyKind<'_>, body: &[u8]) -> Result<Vec<u8>, Error> {
        let (decoded, masked, _) = self.whole(kind, body)?;
        Ok(masked.unwrap_or(decoded.body))
    }

    /// The body, masked if it changes; and whether something is to go that stands beside it, in the
    /// headers of its encoding.
    fn whole(
        &mut self,
        kind: &BodyKind<'_>,
        body: &[u8],
    ) -> Result<(Decoded, Option<Vec<u8>>, bool), Error> {
        self.accept(body)?;
        let decoded = encoding::decode(kind.content_encoding, body, self.left)?;
        if decoded.codecs.is_empty() {
            let outcome = self.typed(kind.content_type, body)?;
            let masked = changed(body, &outcome);
            return Ok((decoded, masked, false));
        }
        self.spend(decoded.body.len())?;
        let steps: Vec<_> = decoded.codecs.iter().rev().map(ToString::to_string).collect();
        self.located(steps, |masker| {
            let outcome = masker.typed(kind.content_type, &decoded.body)?;
            let masked = changed(&decoded.body, &outcome);
            // What is encoded anew loses what stood in those headers.
            let beside = outcome.hits.is_empty() && {
                let how = How { binary: true, path: None };
                !masker.scan(body, how)?.edits.is_empty()
            };
            Ok((decoded, masked, beside))
        })
    }

    /// Masks the value of a header field, cookie field or trailer. None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn header(&mut self, name: &str, value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.accept(value)?;
        // Rules that want words before the value see the name.
        let start = name.len() + 2;
        let field = [name.as_bytes(), b": ", value].concat();
        self.located([name.to_owned()], |masker| {
            let mut outcome = masker.scan(&field, How::default())?;
            for edit in &mut outcome.edits {
                edit.span = edit.span.start.max(start)..edit.span.end.max(start);
                edit.with.iter_mut().filter(|b| b.is_ascii_control()).for_each(|b| *b = b'?');
            }
            outcome.edits.retain(|edit| !edit.span.is_empty());
            if outcome.hits.is_empty()
                && let Some(region) = runs::basic(value)
            {
                let inner = masker.nested("basic", |m| m.scan(&region.bytes, How::default()))?;
                if !inner.edits.is_empty() {
                    let new = region.encode(value, &splice(&region.bytes, &inner.edits));
                    let span = region.span.start + start..region.span.end + start;
                    outcome.edits.push(Edit { span, with: new });
                }
            }
            let masked = changed(&field, &outcome);
            Ok(masked.map(|field| field.get(start..).unwrap_or_default().to_vec()))
        })
    }

    /// Masks a URL or a part of one (path, query). None: nothing changes.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Refused`].
    pub fn url(&mut self, url: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.accept(url)?;
        let mut outcome = self.scan(url, How::default())?;
        for edit in &mut outcome.edits {
            // What URLs consist of stays, above all `%`: it may be encoded already.
            let legal = |b: u8| b.is_ascii_graphic() && !br##""#<>?&\^`{|}"##.contains(&b);
            let encode = |b: &u8| if legal(*b) { vec![*b] } else { Style::Percent.encode(&[*b]) };
            edit.with = edit.with.iter().flat_map(encode).collect();
        }
        Ok(changed(url, &outcome))
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

    /// Refuses what is larger than anything that is decoded.
    fn accept(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > MAX_DECODED_BYTES { Err(Error::OverBound) } else { Ok(()) }
    }

    /// Counts decoded bytes.
    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or(Error::OverBound)?;
        Ok(())
    }

    fn spend_view(&mut self, view: &View) -> Result<(), Error> {
        self.spend(view.weight())?;
        if view.is_whole() { Ok(()) } else { Err(Error::OverBound) }
    }

    /// Works on what stands somewhere.
    fn located<T>(
        &mut self,
        steps: impl IntoIterator<Item = String>,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let entered = steps.into_iter().map(|step| self.at.enter(step)).count();
        let result = work(self);
        (0..entered).for_each(|_| self.at.leave());
        result
    }

    /// Works on what is encoded inside of something.
    fn nested<T>(
        &mut self,
        step: &str,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.depth >= MAX_NESTING {
            return Err(Error::OverBound);
        }
        self.depth += 1;
        let result = self.located([step.to_owned()], work);
        self.depth -= 1;
        result
    }
}

fn changed(text: &[u8], outcome: &Outcome) -> Option<Vec<u8>> {
    (!outcome.edits.is_empty()).then(|| splice(text, &outcome.edits))
}

#[cfg(test)]
mod tests;
