//! Gemini's answers, as events or as elements of an array.
//!
//! - input: `{"candidates": [{"content": {"parts": [{"text"}]}, "finishReason"}]}`, also wrapped in
//!   `response`
//! - output: one text for each candidate, one for its thoughts; calls come whole, or their string
//!   arguments in pieces
//! - bound: the event
//! - on failure: [`Error`]

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, Which, id, leaves, opaque, path, text};

/// Stands in the place of a part that may not be sent twice.
const NO_PART: &str = r#"{"text":""}"#;

/// Whether the event is of this shape.
pub(super) fn steps(root: Value<'_>, steps: &mut Vec<Step>) -> Result<bool, Error> {
    let root = root.get("response")?.filter(Value::is_object).unwrap_or(root);
    let Some(candidates) = root.get("candidates")?.filter(Value::is_array) else {
        return Ok(false);
    };
    for (at, (_, candidate)) in candidates.children().enumerate() {
        let index = leaves::position(candidate, at)?;
        for (_, part) in path(candidate, &["content", "parts"])?.iter().flat_map(Value::children) {
            parts(part, index, steps)?;
        }
        if candidate.get("finishReason")?.is_some_and(|reason| !reason.is_null()) {
            steps.push(Step::Close(Which::Index(index)));
        }
    }
    Ok(true)
}

fn parts(part: Value<'_>, index: u64, steps: &mut Vec<Step>) -> Result<(), Error> {
    let thought = part.get("thought")?.is_some_and(|thought| thought.is_true());
    let field = if thought { "candidates.thought" } else { "candidates.text" };
    let key = Key { index, field: field.to_owned(), ..Key::default() };
    opaque(part, "thoughtSignature", steps)?;
    if let Some(text) = part.get("text")?.filter(Value::is_string) {
        steps.push(Step::Delta(key, Kind::Text, text.span()));
        return Ok(());
    }
    // Another part ends the text before it.
    steps.push(Step::Close(Which::One(key)));
    let arguments = path(part, &["functionCall", "partialArgs"])?;
    if arguments.is_none() {
        steps.push(Step::Once(part.span(), NO_PART));
    }
    for (_, argument) in arguments.iter().flat_map(Value::children) {
        let name = id(argument, "jsonPath")?.unwrap_or_default();
        let key = Key { index, field: format!("partialArgs.{}", text(&name)), ..Key::default() };
        if let Some(value) = argument.get("stringValue")?.filter(Value::is_string) {
            steps.push(Step::Delta(key.clone(), Kind::Text, value.span()));
        }
        let more = path(argument, &["willContinue"])?.is_some_and(|more| more.is_true());
        if !more {
            steps.push(Step::Close(Which::One(key)));
        }
    }
    Ok(())
}
