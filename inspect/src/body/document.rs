//! JSON and forms: searched as one text in which the strings stand without escapes, between the bytes
//! that stand between them, so that a rule sees names before values as in any file. Strings that hold
//! JSON again are searched on their own.
//!
//! - input: a document, and where its strings stand
//! - output: [`Outcome`]: edits inside of strings; a number that is replaced becomes a string
//! - bound: `MAX_NESTING` documents inside of each other; the caller's budget of decoded bytes
//! - on failure: [`Error`]

use std::cell::RefCell;
use std::ops::Range;

use super::text::{How, Outcome};
use super::{Error, Masker};
use crate::view::json::{self, Kind, Paths, Token};
use crate::view::{Edit, Style, View, form};

/// A string that holds a document, without escapes.
struct Inner {
    view: View,
    tokens: Vec<Token>,
}

impl Masker<'_> {
    /// Searches JSON.
    pub(super) fn document(&mut self, text: &[u8], tokens: &[Token]) -> Result<Outcome, Error> {
        let mut view = View::default();
        let mut inner = Vec::new();
        let mut shown = Vec::with_capacity(tokens.len());
        let mut fresh = Vec::new();
        let mut from = 0;
        for (nth, token) in tokens.iter().enumerate() {
            let span = token.span();
            view.copy(text, from..span.start);
            from = span.end;
            let before = nth.checked_sub(1).and_then(|nth| tokens.get(nth));
            if let Some(cache) = self.cache
                && let Some(name) = cache.name(self.engine, self.known, named(text, before, &span))
            {
                if cache.is_clean(&name) {
                    continue;
                }
                fresh.push((span.clone(), name));
            }
            if let Some(document) = document_in(text, *token) {
                inner.push(document);
                continue;
            }
            json::unescape(text, *token, &mut view);
            shown.push(Slot { span, number: token.kind == Kind::Number });
        }
        view.copy(text, from..text.len());
        self.spend_view(&view)?;
        let paths = RefCell::new(Paths::new(text));
        let path = |at: usize| paths.borrow_mut().path(view.span(&(at..at + 1)).start);
        let outcome = self.scan(&view.text, How { binary: false, path: Some(&path) })?;
        let mut outcome = in_slots(outcome, &view, &shown, Style::Backslash);
        for Inner { view, tokens } in inner {
            self.spend_view(&view)?;
            let path = paths.borrow_mut().path(view.span(&(0..1)).start);
            let found = self.nested(&path, |masker| masker.document(&view.text, &tokens))?;
            outcome.add(found.through_as(&view, Style::Backslash));
        }
        outcome.merge();
        if let Some(cache) = self.cache {
            let clean = outcome.misses(fresh);
            clean.iter().for_each(|name| cache.note_clean(name));
        }
        Ok(outcome)
    }

    /// Searches a form.
    pub(super) fn form(&mut self, text: &[u8]) -> Result<Outcome, Error> {
        let mut view = View::default();
        let mut inner = Vec::new();
        let mut shown = Vec::new();
        let mut from = 0;
        for (name, value) in form::pairs(text) {
            view.copy(text, from..name.start);
            form::decode(text, name.clone(), &mut view);
            from = value.end;
            let mut content = View::default();
            form::decode(text, value.clone(), &mut content);
            shown.push(Slot { span: name, number: false });
            match json::begins(&content.text).then(|| json::tokens(&content.text)).flatten() {
                Some(tokens) => inner.push(Inner { view: content, tokens }),
                None => {
                    form::decode(text, value.clone(), &mut view);
                    shown.push(Slot { span: value, number: false });
                }
            }
        }
        view.copy(text, from..text.len());
        self.spend_view(&view)?;
        let outcome = self.scan(&view.text, How::default())?;
        let mut outcome = in_slots(outcome, &view, &shown, Style::Percent);
        for Inner { view, tokens } in inner {
            self.spend_view(&view)?;
            let found = self.nested("form", |masker| masker.document(&view.text, &tokens))?;
            outcome.add(found.through_as(&view, Style::Percent));
        }
        outcome.merge();
        Ok(outcome)
    }
}

/// A string with the one just before it, which is its name: a word in it may be what a rule wants.
fn named<'t>(text: &'t [u8], before: Option<&Token>, span: &Range<usize>) -> &'t [u8] {
    const MAX_NAME_BYTES: usize = 64;
    const MAX_BETWEEN_BYTES: usize = 8;
    let before = before.map(|token| token.span());
    let name = before
        .filter(|name| name.len() <= MAX_NAME_BYTES && name.end + MAX_BETWEEN_BYTES > span.start);
    text.get(name.map_or(span.start, |name| name.start)..span.end).unwrap_or_default()
}

fn document_in(text: &[u8], token: Token) -> Option<Inner> {
    let content = text.get(token.span())?.trim_ascii_start();
    // Escapes may stand before the first bracket: `\n{`.
    if token.kind == Kind::Number || !matches!(content, [b'{' | b'[' | b'\\', ..]) {
        return None;
    }
    let mut view = View::default();
    json::unescape(text, token, &mut view);
    let tokens = json::begins(&view.text).then(|| json::tokens(&view.text)).flatten()?;
    (!tokens.is_empty()).then_some(Inner { view, tokens })
}

/// Where something may be replaced.
struct Slot {
    span: Range<usize>,
    number: bool,
}

/// The same in the source of `view`: cut to what may be replaced. A replacement stands in the first of
/// the places that a match covers; in the others, nothing is left.
fn in_slots(found: Outcome, view: &View, slots: &[Slot], style: Style) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.hits.extend(found.hits.iter().map(|hit| view.span(hit)));
    for edit in found.edits {
        let mut with = style.encode(&edit.with);
        let wire = view.span(&edit.span);
        let first = slots.partition_point(|slot| slot.span.end <= wire.start);
        let covered = slots.iter().skip(first).take_while(|slot| slot.span.start < wire.end);
        for slot in covered {
            let with = std::mem::take(&mut with);
            outcome.edits.push(if slot.number {
                let with = [b"\"", with.as_slice(), b"\""].concat();
                Edit { span: slot.span.clone(), with }
            } else {
                let start = slot.span.start.max(wire.start);
                Edit { span: start..slot.span.end.min(wire.end), with }
            });
        }
    }
    outcome
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.edits.extend(other.edits);
        self.hits.extend(other.hits);
    }

    /// Those in whose span nothing was found.
    fn misses<T>(&mut self, all: Vec<(Range<usize>, T)>) -> Vec<T> {
        self.hits.sort_by_key(|hit| hit.end);
        let mut starts: Vec<_> = self.hits.iter().map(|hit| hit.start).collect();
        // Of each hit and those that end later.
        let mut first = usize::MAX;
        for start in starts.iter_mut().rev() {
            first = first.min(*start);
            *start = first;
        }
        let missed = |span: &Range<usize>| {
            let after = self.hits.partition_point(|hit| hit.end <= span.start);
            starts.get(after).is_none_or(|start| *start >= span.end)
        };
        all.into_iter().filter(|(span, _)| missed(span)).map(|(_, found)| found).collect()
    }

    fn through_as(self, view: &View, style: Style) -> Self {
        let edits = self
            .edits
            .into_iter()
            .map(|edit| Edit { with: style.encode(&edit.with), span: view.span(&edit.span) });
        Self { edits: edits.collect(), hits: self.hits.iter().map(|hit| view.span(hit)).collect() }
    }
}
