//! OpenAI's responses and realtime events.
//!
//! - input: `{"type": "response.….delta", "item_id", "content_index", "delta": "…"}` and the events
//!   that end such a text and repeat it
//! - output: one text for each type, item and part; repeated texts are no deltas: they are masked
//!   as a whole
//! - bound: the event
//! - on failure: [`Error`]

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, Which, count, id, opaque, path, text, tokens};

/// Whether the event is of this shape.
pub(super) fn steps(root: Value<'_>, kind: &[u8], steps: &mut Vec<Step>) -> Result<bool, Error> {
    if let Some(stem) = kind.strip_suffix(b".delta") {
        let Some(delta) = root.get("delta")?.filter(Value::is_string) else { return Ok(false) };
        let fragments = text(stem).contains("arguments");
        // Sound in base64 is no text.
        if !stem.ends_with(b"audio") {
            let kind = if fragments { Kind::Json } else { Kind::Text };
            steps.push(Step::Delta(key(root, stem)?, kind, delta.span()));
        }
        tokens(root, "[]", steps)?;
        return Ok(true);
    }
    match kind {
        b"response.output_item.added" | b"response.output_item.done" => {
            if let Some(item) = root.get("item")? {
                repeated(item, steps)?;
                if let Some(id) = id(item, "id")?.filter(|_| kind.ends_with(b"done")) {
                    steps.push(Step::Close(Which::Item(id)));
                }
            }
        }
        b"response.completed"
        | b"response.incomplete"
        | b"response.failed"
        | b"response.cancelled"
        | b"response.done" => {
            for (_, item) in path(root, &["response", "output"])?.iter().flat_map(Value::children) {
                repeated(item, steps)?;
            }
            steps.push(Step::Close(Which::All));
        }
        b"error" => steps.push(Step::Close(Which::All)),
        _ => match kind.strip_suffix(b".done").or(kind.strip_suffix(b".completed")) {
            Some(stem) => {
                tokens(root, "[]", steps)?;
                if let Some(part) = root.get("part")? {
                    tokens(part, "[]", steps)?;
                }
                steps.push(Step::Close(Which::One(key(root, stem)?)));
            }
            None => return Ok(kind.starts_with(b"response.")),
        },
    }
    Ok(true)
}

/// A whole item.
fn repeated(item: Value<'_>, steps: &mut Vec<Step>) -> Result<(), Error> {
    opaque(item, "encrypted_content", steps)?;
    for (_, part) in item.get("content")?.iter().flat_map(Value::children) {
        tokens(part, "[]", steps)?;
    }
    Ok(())
}

/// The text that an event belongs to; `stem` is its type without the last word.
fn key(root: Value<'_>, stem: &[u8]) -> Result<Key, Error> {
    let summary = count(root, "summary_index")?;
    let part = if summary > 0 { summary } else { count(root, "content_index")? };
    let id = id(root, "item_id")?.unwrap_or_default();
    Ok(Key { index: count(root, "output_index")?, id, part, field: text(stem) })
}
