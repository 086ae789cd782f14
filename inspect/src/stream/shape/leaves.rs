//! Strings of a delta whose members are not fixed.
//!
//! - input: the `delta` of an event
//! - output: a text for each string member, keyed by its path; names and identifiers are none
//! - bound: the event
//! - on failure: [`Error`], for an object with a key twice

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, count, text};

/// Members that name something: clients that join deltas may join these too.
const NAMES: [&[u8]; 3] = [b"id", b"role", b"name"];
/// Members that come whole, and say what the event is or carry no text.
const WHOLE: [&[u8]; 6] = [b"type", b"object", b"model", b"format", b"status", b"data"];
/// Members that their sender sealed.
const SEALED: [&[u8]; 7] = [
    b"signature",
    b"encrypted_content",
    b"encrypted_index",
    b"reasoning_opaque",
    b"reasoning_encrypted_content",
    b"redactedContent",
    b"thoughtSignature",
];
/// Members that carry fragments of a JSON text.
const FRAGMENTS: [&[u8]; 2] = [b"arguments", b"partial_json"];

/// Adds the texts of `value`. With `signed`, none of them may be altered.
pub(super) fn steps(
    value: Value<'_>,
    base: &Key,
    signed: bool,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    leaf(value, b"", base, signed, steps)
}

fn leaf(
    value: Value<'_>,
    name: &[u8],
    base: &Key,
    signed: bool,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    if value.is_object() {
        for (name, member) in value.children() {
            // Finds a key that stands twice.
            value.get(&text(&name))?;
            let field = format!("{}.{}", base.field, text(&name));
            let base = Key { field, ..base.clone() };
            leaf(member, &name, &base, signed, steps)?;
        }
    } else if value.is_array() {
        for (position, (_, element)) in value.children().enumerate() {
            let given = element.get("index")?.and_then(|index| index.count());
            let part = given.unwrap_or(u64::try_from(position).unwrap_or(u64::MAX));
            leaf(element, name, &Key { part, ..base.clone() }, signed, steps)?;
        }
    } else if value.is_string() && SEALED.contains(&name) {
        steps.extend([Step::Opaque(value.span()), Step::Once(value.span(), "null")]);
    } else if value.is_string() && NAMES.contains(&name) {
        steps.push(Step::Once(value.span(), "null"));
    } else if value.is_string() && !WHOLE.contains(&name) {
        let kind = match name {
            _ if signed => Kind::Signed,
            name if FRAGMENTS.contains(&name) => Kind::Json,
            _ => Kind::Text,
        };
        steps.push(Step::Delta(base.clone(), kind, value.span()));
    }
    Ok(())
}

/// Like [`count`], of an element that may go without a number.
pub(super) fn position(element: Value<'_>, position: usize) -> Result<u64, Error> {
    if element.get("index")?.is_some() {
        return count(element, "index");
    }
    Ok(u64::try_from(position).unwrap_or(u64::MAX))
}
