//! Anthropic's messages, and Bedrock's converse, which is made like them.
//!
//! - input: `content_block_start`, `content_block_delta`, `content_block_stop` and the rest
//! - output: one text for each content block; thinking is signed
//! - bound: the event
//! - on failure: [`Error`]

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, Which, count, leaves, opaque, path};

/// Whether the event is of this shape.
pub(super) fn steps(root: Value<'_>, kind: &[u8], steps: &mut Vec<Step>) -> Result<bool, Error> {
    match kind {
        b"content_block_start" => start(root, steps)?,
        b"content_block_delta" => {
            if let Some(delta) = root.get("delta")? {
                let signed = delta.get("thinking")?.is_some();
                leaves::steps(delta, &block(count(root, "index")?), signed, steps)?;
            }
        }
        b"content_block_stop" => steps.push(Step::Close(Which::Index(count(root, "index")?))),
        b"message_delta" | b"message_stop" => steps.push(Step::Close(Which::All)),
        b"message_start" | b"ping" => {}
        _ => return Ok(false),
    }
    Ok(true)
}

/// A block may begin with text. Results of tools come whole.
fn start(root: Value<'_>, steps: &mut Vec<Step>) -> Result<(), Error> {
    let Some(content) = root.get("content_block")? else { return Ok(()) };
    let key = block(count(root, "index")?);
    for (name, kind) in [("text", Kind::Text), ("thinking", Kind::Signed)] {
        if let Some(text) = content.get(name)?.filter(Value::is_string) {
            let key = Key { field: format!("{}.{name}", key.field), ..key.clone() };
            steps.push(Step::Delta(key, kind, text.span()));
        }
    }
    opaque(content, "signature", steps)?;
    let kind = content.get("type")?.and_then(|kind| kind.text());
    if kind.is_some_and(|kind| *kind == *b"redacted_thinking") {
        opaque(content, "data", steps)?;
    }
    for (_, result) in content.get("content")?.iter().flat_map(Value::children) {
        opaque(result, "encrypted_content", steps)?;
    }
    Ok(())
}

/// Whether the event is one of Bedrock's converse stream: its name stands in the frame, or, for
/// models that are invoked, around it.
pub(super) fn converse(root: Value<'_>, name: &[u8], steps: &mut Vec<Step>) -> Result<bool, Error> {
    for wrapped in ["contentBlockDelta", "contentBlockStop", "messageStop"] {
        if let Some(inner) = root.get(wrapped)? {
            return converse(inner, wrapped.as_bytes(), steps);
        }
    }
    let index = count(root, "contentBlockIndex")?;
    match name {
        b"contentBlockDelta" => {
            if let Some(input) = path(root, &["delta", "toolUse", "input"])?
                && input.is_string()
            {
                steps.push(Step::Delta(block(index), Kind::Json, input.span()));
            } else if let Some(delta) = root.get("delta")? {
                let signed = delta.get("reasoningContent")?.is_some();
                leaves::steps(delta, &block(index), signed, steps)?;
            }
        }
        b"contentBlockStop" => steps.push(Step::Close(Which::Index(index))),
        b"messageStop" => steps.push(Step::Close(Which::All)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn block(index: u64) -> Key {
    Key { index, field: "block".to_owned(), ..Key::default() }
}
