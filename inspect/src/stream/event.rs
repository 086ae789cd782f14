//! Events whose texts are joined over all of them.
//!
//! - input: events, whole and in order, out of any framing
//! - output: what leaves in place of each, and events made anew for text that was held when it ended
//! - bound: `limits::MAX_STREAM_CHANNELS` texts, each with a template of at most
//!   `limits::MAX_STREAM_TEMPLATE_BYTES`
//! - on failure: [`Error`]
//!
//! Text that is held back of one delta leaves in the next one of the same text. A delta of which all
//! is held leaves with an empty string, so that order, numbers and usage stay as they were. When a text
//! ends while something is held and its last event has no room for it, a delta like the last one is
//! made and leaves before.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::body::{BodyKind, Masker};
use crate::engine::End;
use crate::limits;
use crate::stream::Error;
use crate::stream::channel::{Kind, Open};
use crate::stream::json::Json;
use crate::stream::shape::{self, Key, Step, Which};
use crate::stream::string;

/// The texts of a stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    open: BTreeMap<Key, Joined>,
    /// Whether a secret was replaced in a text.
    replaced: bool,
}

/// An event as its framing has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    /// What the framing calls it.
    pub(super) name: &'a [u8],
    /// What an event like it is put into.
    pub(super) envelope: &'a [u8],
    /// Its content.
    pub(super) payload: &'a [u8],
}

/// An event that was not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// Of the event that it is like.
    pub(super) envelope: Vec<u8>,
    /// Its content.
    pub(super) payload: Vec<u8>,
}

/// What leaves for one event.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// Before it.
    pub(super) before: Vec<Made>,
    /// In place of its payload; `None` where that stays.
    pub(super) payload: Option<Vec<u8>>,
}

/// One text and how to send what is held of it.
#[derive(Debug, Default)]
struct Joined {
    open: Open,
    /// An unfinished character.
    carry: Vec<u8>,
    template: Option<Template>,
}

#[derive(Debug)]
struct Template {
    envelope: Vec<u8>,
    before: Vec<u8>,
    after: Vec<u8>,
    /// Whether the text stands in a JSON string.
    json: bool,
}

/// A string of the event, and what stands there now.
struct Slot<'a> {
    key: Option<&'a Key>,
    /// As it came, with quotes.
    came: &'a [u8],
    text: Vec<u8>,
    /// Whether the text is what came.
    same: bool,
}

impl Joined {
    fn held(&self) -> usize {
        self.open.held() + self.carry.len()
    }
}

impl Events {
    /// Masks a JSON event.
    pub(super) fn json(
        &mut self,
        masker: &mut Masker<'_>,
        event: Event<'_>,
    ) -> Result<Leaves, Error> {
        let json = Json::parse(event.payload)?;
        let steps = shape::steps(&json, event.name)?;
        let mut before = Vec::new();
        let slots = self.walk(masker, event.payload, &steps, &mut before)?;
        let blank = cut(event.payload, holes(&steps).map(|hole| (hole, EMPTY)).collect());
        let masked = masker.body(&JSON, &blank)?;
        let tokens = self.replaced || masked.is_some() || slots.iter().any(|slot| !slot.same);
        let tokens = tokens && steps.iter().any(|step| matches!(step, Step::Tokens(..)));
        let same = masked.is_none() && !tokens && slots.iter().all(|slot| slot.same);
        let outer = masked.unwrap_or(blank);
        if !same || self.held() > 0 {
            let again = Json::parse(&outer)?;
            let steps = shape::steps(&again, event.name)?;
            if holes(&steps).count() != slots.len() {
                return Err(Error::Malformed("masking changed what an event is"));
            }
            self.templates(event, &outer, &steps)?;
            if !same {
                let payload = Some(fill(&outer, &steps, &slots, tokens));
                return Ok(Leaves { before, payload });
            }
        }
        Ok(Leaves { before, payload: None })
    }

    /// Masks an event whose payload is a piece of text, one text for each name.
    pub(super) fn text(
        &mut self,
        masker: &mut Masker<'_>,
        event: Event<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let key = text_key(event.name);
        let text = self.push(masker, &key, Kind::Text, event.payload)?;
        if let Some(joined) = self.open.get_mut(&key).filter(|joined| joined.held() > 0) {
            joined.template = Some(Template {
                envelope: event.envelope.to_vec(),
                before: Vec::new(),
                after: Vec::new(),
                json: false,
            });
        }
        Ok(Some(text).filter(|text| text != event.payload))
    }

    /// Ends the text of this name, for an event of the same name that is not text.
    pub(super) fn end_text(
        &mut self,
        masker: &mut Masker<'_>,
        name: &[u8],
    ) -> Result<Vec<Made>, Error> {
        let (text, template) = self.end(masker, &text_key(name), End::Complete)?;
        let mut made = Vec::new();
        make(&text, template, &mut made)?;
        Ok(made)
    }

    /// Whether the events of this name are text.
    pub(super) fn is_text(&self, name: &[u8]) -> bool {
        self.open.contains_key(&text_key(name))
    }

    /// Ends all texts; what leaves of them is made into events.
    pub(super) fn finish(&mut self, masker: &mut Masker<'_>, end: End) -> Result<Vec<Made>, Error> {
        let mut made = Vec::new();
        for key in self.which(&Which::All) {
            let (text, template) = self.end(masker, &key, end)?;
            make(&text, template, &mut made)?;
        }
        Ok(made)
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.open.values().map(Joined::held).sum()
    }

    /// Takes the steps of an event in order; what stands in its strings then, in the order of `steps`.
    fn walk<'a>(
        &mut self,
        masker: &mut Masker<'_>,
        payload: &'a [u8],
        steps: &'a [Step],
        made: &mut Vec<Made>,
    ) -> Result<Vec<Slot<'a>>, Error> {
        let mut slots: Vec<Slot<'a>> = Vec::new();
        for step in steps {
            match step {
                Step::Delta(key, kind, span) => {
                    let came = payload.get(span.clone()).unwrap_or_default();
                    let content = came.get(1..came.len().saturating_sub(1)).unwrap_or_default();
                    let content = string::decode(content);
                    let text = self.push(masker, key, *kind, &content)?;
                    let same = text == *content;
                    slots.push(Slot { key: Some(key), came, text, same });
                }
                Step::Opaque(span) => {
                    let came = payload.get(span.clone()).unwrap_or_default();
                    slots.push(Slot { key: None, came, text: Vec::new(), same: true });
                }
                Step::Close(which) => self.close(masker, which, &mut slots, made)?,
                Step::Tokens(..) | Step::Once(..) => {}
            }
        }
        Ok(slots)
    }

    /// Ends texts: what is left of one goes into its last string of this event, or into an event before.
    fn close(
        &mut self,
        masker: &mut Masker<'_>,
        which: &Which,
        slots: &mut [Slot<'_>],
        made: &mut Vec<Made>,
    ) -> Result<(), Error> {
        for key in self.which(which) {
            let (text, template) = self.end(masker, &key, End::Complete)?;
            match slots.iter_mut().rfind(|slot| slot.key == Some(&key)) {
                Some(slot) => {
                    slot.same &= text.is_empty();
                    slot.text.extend(text);
                }
                None => make(&text, template, made)?,
            }
        }
        Ok(())
    }

    fn which(&self, which: &Which) -> Vec<Key> {
        self.open.keys().filter(|key| which.has(key)).cloned().collect()
    }

    /// Adds to a text; what may leave of it.
    fn push(
        &mut self,
        masker: &mut Masker<'_>,
        key: &Key,
        kind: Kind,
        text: &[u8],
    ) -> Result<Vec<u8>, Error> {
        if !self.open.contains_key(key) {
            if self.open.len() >= limits::MAX_STREAM_CHANNELS {
                return Err(Error::TooLarge("texts of a stream"));
            }
            let joined = Joined { open: Open::new(kind), ..Joined::default() };
            self.open.insert(key.clone(), joined);
        }
        let Some(joined) = self.open.get_mut(key) else { return Ok(Vec::new()) };
        let mut out = std::mem::take(&mut joined.carry);
        joined.template = None;
        masker.at.enter(key.to_string());
        let pushed = joined.open.push(masker, text, &mut out);
        masker.at.leave();
        pushed?;
        joined.carry = out.split_off(string::whole(&out));
        self.replaced |= joined.open.replaced();
        Ok(out)
    }

    /// Ends a text: what is left of it, and how to send it.
    fn end(
        &mut self,
        masker: &mut Masker<'_>,
        key: &Key,
        end: End,
    ) -> Result<(Vec<u8>, Option<Template>), Error> {
        let Some(mut joined) = self.open.remove(key) else { return Ok((Vec::new(), None)) };
        let mut out = joined.carry;
        masker.at.enter(key.to_string());
        let finished = joined.open.finish(masker, end, &mut out);
        masker.at.leave();
        finished?;
        self.replaced |= joined.open.replaced();
        Ok((out, joined.template))
    }

    /// Remembers how to send what is held of the texts of this event.
    fn templates(&mut self, event: Event<'_>, outer: &[u8], steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            let Step::Delta(key, _, hole) = step else { continue };
            let Some(joined) = self.open.get_mut(key).filter(|joined| joined.held() > 0) else {
                continue;
            };
            let part = |of: Range<usize>| {
                let once = steps.iter().filter_map(|step| match step {
                    Step::Once(span, with) if of.start <= span.start && span.end <= of.end => {
                        Some((span.start - of.start..span.end - of.start, with.as_bytes()))
                    }
                    _ => None,
                });
                cut(outer.get(of.clone()).unwrap_or_default(), once.collect())
            };
            let (before, after) = (part(0..hole.start), part(hole.end..outer.len()));
            let envelope = event.envelope.to_vec();
            if envelope.len() + before.len() + after.len() > limits::MAX_STREAM_TEMPLATE_BYTES {
                return Err(Error::TooLarge("event that a held text would be sent in"));
            }
            joined.template = Some(Template { envelope, before, after, json: true });
        }
        Ok(())
    }
}

/// Adds an event for the rest of a text.
fn make(text: &[u8], template: Option<Template>, made: &mut Vec<Made>) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    // A text that holds something came in an event.
    let template = template.ok_or(Error::Malformed("text without an event"))?;
    let mut payload = template.before;
    if template.json {
        payload.extend(quoted(text));
    } else {
        payload.extend(text);
    }
    payload.extend(template.after);
    made.push(Made { envelope: template.envelope, payload });
    Ok(())
}

/// Puts the strings of the slots into the holes of `outer`.
fn fill(outer: &[u8], steps: &[Step], slots: &[Slot<'_>], drop_tokens: bool) -> Vec<u8> {
    let strings: Vec<_> = slots
        .iter()
        .map(|slot| if slot.same { slot.came.to_vec() } else { quoted(&slot.text) })
        .collect();
    let mut puts: Vec<_> = holes(steps).zip(strings.iter().map(Vec::as_slice)).collect();
    puts.extend(steps.iter().filter_map(|step| match step {
        Step::Tokens(span, with) if drop_tokens => Some((span.clone(), with.as_bytes())),
        _ => None,
    }));
    cut(outer, puts)
}

fn quoted(text: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    string::encode(text, &mut out);
    out.push(b'"');
    out
}

/// The strings that are not masked with the whole, in the order of `steps`.
fn holes(steps: &[Step]) -> impl Iterator<Item = Range<usize>> {
    steps.iter().filter_map(|step| match step {
        Step::Delta(_, _, span) | Step::Opaque(span) => Some(span.clone()),
        _ => None,
    })
}

/// `bytes` with spans replaced; a span inside another one goes with it.
pub(super) fn cut(bytes: &[u8], mut puts: Vec<(Range<usize>, &[u8])>) -> Vec<u8> {
    puts.sort_by_key(|(span, _)| span.start);
    let mut out = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for (span, with) in puts.into_iter() {
        if span.start >= from {
            out.extend(bytes.get(from..span.start).unwrap_or_default());
            out.extend(with);
            from = span.end;
        }
    }
    out.extend(bytes.get(from..).unwrap_or_default());
    out
}

fn text_key(name: &[u8]) -> Key {
    Key { id: name.to_vec(), field: "text".to_owned(), ..Key::default() }
}

const EMPTY: &[u8] = b"\"\"";
/// What a payload is to a [`Masker`].
pub(super) const JSON: BodyKind<'static> =
    BodyKind { content_type: Some(b"application/json"), content_encoding: None };
