//! Takes a pattern apart: what comes before the secret, the secret, what comes after it, and the
//! literals by which a match is noticed.
//!
//! - input: the pattern of a rule
//! - output: [`Parts`]
//! - bound: `MAX_CONTEXT_BYTES` before a secret, `MAX_LITERALS` for one rule
//! - on failure: the parser's reason

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Capture, Class, Hir, HirKind, Repetition};

use super::literal::{self, Anchor};
use crate::limits;

/// Bytes that a match may have before its secret; with more it is none.
const MAX_CONTEXT_BYTES: usize = 384;

/// A pattern, taken apart. `context`, `value` and `tail` put together are `whole`.
pub(super) struct Parts {
    pub(super) whole: Hir,
    /// Before the secret. `None`: it has no bytes, or the secret is not at one place of the
    /// pattern, and the whole match counts as the value.
    pub(super) context: Option<Hir>,
    /// The secret and what follows it.
    pub(super) value: Hir,
    /// The secret alone, if something follows it.
    pub(super) alone: Option<Hir>,
    /// Whether the whole match is the secret.
    pub(super) is_plain: bool,
    /// Bytes that `context` may have.
    pub(super) context_max: usize,
    /// What was taken off the front, because a match is complete without it.
    pub(super) lead: Vec<Lead>,
    pub(super) anchor: Option<Anchor>,
}

/// At most so many bytes of a class.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) bytes: Vec<bool>,
    pub(super) max: usize,
}

/// See [`Parts`].
pub(super) fn take_apart(pattern: &str) -> Result<Parts, String> {
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    let hir = parser.parse(pattern).map_err(|error| error.to_string())?;
    let groups = hir.properties().explicit_captures_len();
    let mut items = Vec::new();
    flatten(hir, &mut items);
    let lead = strip_lead(&mut items);
    let at = items.iter().position(|item| matches!(item.kind(), HirKind::Capture(_)));
    let secret = at.filter(|_| groups == 1).and_then(|at| {
        let sub = capture(items.get(at)?)?.sub.clone();
        (sub.properties().minimum_len() > Some(0)).then_some((at, *sub))
    });
    let Some((at, secret)) = secret else {
        let whole = Hir::concat(items.clone());
        // The secret may begin anywhere in the match.
        let longest = whole.properties().maximum_len().unwrap_or(limits::MAX_HELD_BYTES);
        let context_max = if groups == 0 { 0 } else { longest.min(limits::MAX_HELD_BYTES) };
        return Ok(Parts {
            context: None,
            value: whole.clone(),
            alone: None,
            is_plain: groups == 0,
            context_max,
            lead,
            anchor: literal::anchor(&items, 0),
            whole,
        });
    };
    let tail = items.split_off(at.saturating_add(1));
    let captured = items.pop().unwrap_or_else(Hir::empty);
    let before = items;
    let context = Hir::concat(before.clone());
    let context_max = context.properties().maximum_len().unwrap_or(MAX_CONTEXT_BYTES);
    let context_max = context_max.min(MAX_CONTEXT_BYTES);
    let has_tail = tail.iter().any(|item| item.properties().maximum_len() != Some(0));
    let zero_width = context_max == 0;
    let with = |items: &[Hir], middle: Hir, rest: &[Hir]| {
        Hir::concat(items.iter().cloned().chain([middle]).chain(rest.iter().cloned()).collect())
    };
    let whole = with(&before, captured.clone(), &tail);
    let value = if zero_width { whole.clone() } else { with(&[], secret.clone(), &tail) };
    let mut items = before;
    let context_items = items.len();
    flatten(secret.clone(), &mut items);
    items.extend(tail.iter().cloned());
    Ok(Parts {
        context: (!zero_width).then_some(context),
        value,
        alone: has_tail.then_some(secret),
        is_plain: false,
        context_max,
        lead,
        anchor: literal::anchor(&items, context_items),
        whole,
    })
}

fn capture(hir: &Hir) -> Option<&Capture> {
    match hir.kind() {
        HirKind::Capture(capture) => Some(capture),
        _ => None,
    }
}

/// The items of a sequence, sequences inside sequences included.
fn flatten(hir: Hir, items: &mut Vec<Hir>) {
    if matches!(hir.kind(), HirKind::Concat(_)) {
        if let HirKind::Concat(subs) = hir.into_kind() {
            subs.into_iter().for_each(|sub| flatten(sub, items));
        }
    } else {
        items.push(hir);
    }
}

/// Takes off repetitions of a class that may be empty: a match without them is a match too, and
/// the secret in it is the same.
fn strip_lead(items: &mut Vec<Hir>) -> Vec<Lead> {
    let lead: Vec<Lead> = items.iter().map_while(lead).collect();
    if lead.len() >= items.len() {
        return Vec::new();
    }
    items.drain(..lead.len());
    lead
}

fn lead(item: &Hir) -> Option<Lead> {
    let HirKind::Repetition(Repetition { min: 0, max, sub, .. }) = item.kind() else { return None };
    let HirKind::Class(Class::Bytes(class)) = sub.kind() else { return None };
    let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let is_in = |byte: u8| class.ranges().iter().any(|r| (r.start()..=r.end()).contains(&byte));
    let bytes = (0..=u8::MAX).map(is_in).collect();
    Some(Lead { bytes, max: max.min(limits::LOOK_BEHIND_BYTES) })
}
