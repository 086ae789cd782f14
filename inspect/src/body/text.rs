//! One text: what the engine finds in it and in what it means, judged once; then what is encoded inside.
//!
//! - input: a text
//! - output: [`Outcome`]
//! - bound: `MAX_NESTING` layers of escapes; the caller's budget of decoded bytes
//! - on failure: [`Error`]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Error, Masker};
use crate::engine::{By, Match};
use crate::limits::MAX_NESTING;
use crate::rule::Tier;
use crate::view::{Edit, Style, View, joined, quoted, runs, splice, unescape};

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In order, not overlapping.
    pub(super) edits: Vec<Edit>,
    /// Where something was found, also if it stays.
    pub(super) hits: Vec<Range<usize>>,
}

/// How a text is searched.
#[derive(Clone, Copy, Default)]
pub(super) struct How<'h> {
    /// It is no text: only what has a prefix or is known counts.
    pub(super) binary: bool,
    /// Names a place in the text.
    pub(super) path: Option<&'h dyn Fn(usize) -> String>,
}

/// The text, or what a part of another layer means.
struct Layer {
    /// None: the text itself.
    view: Option<View>,
    parent: usize,
    rounds: usize,
    step: &'static str,
}

/// Where a layer's part stands in the text, and how it is written there.
struct Place {
    span: Range<usize>,
    styles: Vec<Style>,
}

struct Layers<'t> {
    text: &'t [u8],
    all: Vec<Layer>,
}

/// A match, with where it stands in the text.
struct Candidate {
    layer: usize,
    place: Place,
    found: Match,
    tier: Tier,
}

impl Masker<'_> {
    /// Searches a text in all its views.
    pub(super) fn scan(&mut self, text: &[u8], how: How<'_>) -> Result<Outcome, Error> {
        let layers = self.layers(text, how)?;
        let mut candidates = Vec::new();
        for layer in 0..layers.all.len() {
            for found in self.engine.find(layers.text(layer), self.known) {
                let tier = match found.by {
                    By::Known(_) => Tier::Known,
                    By::Rule(index) => self.engine.rule(index).map_or(Tier::Known, |r| r.tier),
                };
                if !(how.binary && tier == Tier::Contextual) {
                    let place = layers.place(layer, found.span.clone());
                    candidates.push(Candidate { layer, place, found, tier });
                }
            }
        }
        let mut outcome = Outcome::default();
        candidates.sort_by_key(|candidate| candidate.place.span.start);
        let mut rest = candidates.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut end = first.place.span.end;
            let mut together = Vec::from([first]);
            while let Some(next) = rest.next_if(|next| next.place.span.start < end) {
                end = end.max(next.place.span.end);
                together.push(next);
            }
            self.settle(&layers, together, how, &mut outcome)?;
        }
        self.descend(&layers, how, &mut outcome)?;
        Ok(outcome)
    }

    fn layers<'t>(&mut self, text: &'t [u8], how: How<'_>) -> Result<Layers<'t>, Error> {
        let all = Vec::from([Layer { view: None, parent: 0, rounds: 0, step: "" }]);
        let mut layers = Layers { text, all };
        let mut parent = 0;
        while let Some(layer) = layers.all.get(parent)
            && !how.binary
        {
            let (rounds, step) = (layer.rounds + 1, layer.step);
            let text = layers.text(parent);
            let mut add = Vec::new();
            if rounds <= MAX_NESTING {
                add.extend(unescape::lines(text).map(|view| (view, "escapes")));
                if step != "lines" {
                    add.extend(joined::blocks(text).map(|view| (view, "lines")));
                }
                if parent == 0 {
                    add.extend(quoted::view(text).map(|view| (view, "quoted-printable")));
                }
            }
            for (view, step) in add {
                self.spend_view(&view)?;
                layers.all.push(Layer { view: Some(view), parent, rounds, step });
            }
            parent += 1;
        }
        Ok(layers)
    }

    /// Judges matches that overlap: the longest, and if it stays, the others. What is replaced is all
    /// that they cover.
    fn settle(
        &mut self,
        layers: &Layers<'_>,
        mut together: Vec<Candidate>,
        how: How<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let lost = overreaching(layers.text, &together);
        let mut nth = 0;
        together.retain(|_| {
            nth += 1;
            !lost.contains(&(nth - 1))
        });
        let start = together.iter().map(|c| c.place.span.start).min().unwrap_or(0);
        let end = together.iter().map(|c| c.place.span.end).max().unwrap_or(0);
        together.sort_by_key(|c| (Reverse(c.place.span.len()), c.tier, c.layer));
        let mut judged = BTreeSet::new();
        for candidate in together {
            let Candidate { layer, place, found, .. } = candidate;
            if !judged.insert((place.span.start, place.span.end)) {
                continue;
            }
            let value = layers.text(layer).get(found.span.clone()).unwrap_or_default();
            let path = how.path.map(|path| path(place.span.start));
            let steps = path.into_iter().chain(layers.steps(layer).map(str::to_owned));
            let new = self.located(steps, |masker| masker.judge(&found, value))?;
            outcome.hits.push(place.span.clone());
            if let Some(new) = new {
                let with = place.encode(new);
                outcome.edits.push(Edit { span: start..end, with });
                break;
            }
        }
        Ok(())
    }

    /// Searches what is encoded inside the text.
    fn descend(
        &mut self,
        layers: &Layers<'_>,
        how: How<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let mut regions = Vec::new();
        for layer in 0..layers.all.len() {
            for region in runs::regions(layers.text(layer)) {
                let place = layers.place(layer, region.span.clone());
                regions.push((place, layer, region));
            }
        }
        // Of those that overlap, first the one that explains most: a layer may show only pieces.
        regions.sort_by_key(|(place, ..)| place.span.start);
        let mut end = 0;
        for together in regions.chunk_by_mut(|(one, ..), (next, ..)| {
            end = one.span.end.max(end);
            next.span.start < end
        }) {
            together.sort_by_key(|(place, layer, _)| (Reverse(place.span.len()), *layer));
        }
        let mut inner_edits = Vec::new();
        let mut seen = BTreeMap::new();
        for (place, layer, region) in regions {
            let text = layers.text(layer);
            let Range { start, end } = place.span;
            let before = outcome.edits.partition_point(|edit| edit.span.start <= start);
            let before = before.checked_sub(1).and_then(|at| outcome.edits.get(at));
            let replaced = before.is_some_and(|edit| end <= edit.span.end);
            if replaced || seen.range(..end).next_back().is_some_and(|(_, e)| *e > start) {
                continue;
            }
            self.spend(region.bytes.len())?;
            let path = how.path.map(|path| path(start));
            let steps = path.into_iter().chain(layers.steps(layer).map(str::to_owned));
            let inner = self.located(steps, |masker| {
                masker.nested(region.code.name(), |masker| masker.bytes(&region.bytes, true))
            })?;
            if inner.hits.is_empty() {
                continue;
            }
            seen.insert(start, end);
            if !inner.edits.is_empty() {
                let with = region.encode(text, &splice(&region.bytes, &inner.edits));
                inner_edits.push(Edit { span: start..end, with: place.encode(with) });
            }
        }
        outcome.hits.extend(seen.into_iter().map(|(start, end)| start..end));
        outcome.edits.append(&mut inner_edits);
        outcome.merge();
        Ok(())
    }
}

/// Matches that took escapes for a part of the value: the same rule, where they are decoded, stops
/// before one.
fn overreaching(text: &[u8], together: &[Candidate]) -> BTreeSet<usize> {
    let mut lost = BTreeSet::new();
    if (2..=MAX_TOGETHER).contains(&together.len()) {
        for (nth, one) in together.iter().enumerate() {
            let stops = |other: &Candidate| {
                let (outer, inner) = (&one.place.span, &other.place.span);
                one.layer < other.layer
                    && one.found.by == other.found.by
                    && outer.start <= inner.start
                    && inner.end < outer.end
                    && matches!(text.get(inner.end), Some(b'\\' | b'&'))
            };
            if together.iter().any(stops) {
                lost.insert(nth);
            }
        }
    }
    lost
}

/// Matches that are compared with each other.
const MAX_TOGETHER: usize = 64;

impl Outcome {
    /// Puts edits in order. Of those that overlap, all that they cover is replaced by the first.
    pub(super) fn merge(&mut self) {
        self.edits.sort_by_key(|edit| (edit.span.start, Reverse(edit.span.end)));
        self.edits.dedup_by(|next, last| {
            let meets = next.span.start < last.span.end;
            if meets {
                last.span.end = last.span.end.max(next.span.end);
            }
            meets
        });
    }

    /// The same in the source of `view`, where every replacement is written in its style.
    pub(super) fn through(self, view: &View) -> Self {
        let edits = self.edits.into_iter().map(|edit| Edit {
            with: view.style(&edit.span).encode(&edit.with),
            span: view.span(&edit.span),
        });
        Self { edits: edits.collect(), hits: self.hits.iter().map(|hit| view.span(hit)).collect() }
    }
}

impl Layers<'_> {
    fn text(&self, layer: usize) -> &[u8] {
        self.all.get(layer).and_then(|layer| layer.view.as_ref()).map_or(self.text, |v| &v.text)
    }

    fn place(&self, layer: usize, mut span: Range<usize>) -> Place {
        let mut styles = Vec::new();
        for view in self.up(layer).filter_map(|layer| layer.view.as_ref()) {
            styles.push(view.style(&span));
            span = view.span(&span);
        }
        Place { span, styles }
    }

    /// What the layer is seen through, outermost first.
    fn steps(&self, layer: usize) -> impl Iterator<Item = &'static str> {
        let steps: Vec<_> = self.up(layer).map(|layer| layer.step).collect();
        steps.into_iter().rev().filter(|step| !step.is_empty())
    }

    /// A layer and those that it came from.
    fn up(&self, layer: usize) -> impl Iterator<Item = &Layer> {
        let mut next = self.all.get(layer);
        std::iter::from_fn(move || {
            let layer = next?;
            next = layer.view.as_ref().and_then(|_| self.all.get(layer.parent));
            Some(layer)
        })
    }
}

impl Place {
    fn encode(&self, new: Vec<u8>) -> Vec<u8> {
        self.styles.iter().fold(new, |new, style| style.encode(&new))
    }
}
