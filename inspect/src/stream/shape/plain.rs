//! Events with one text in a known member.
//!
//! - input: Ollama's lines; Titan, Llama, Mistral and Cohere as Bedrock invokes them
//! - output: that text
//! - bound: the event
//! - on failure: [`Error`]

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, Which, leaves};

/// The member with the text, and the one that says that it ends.
const TEXTS: [(&str, &str); 4] = [
    ("response", "done"),
    ("outputText", "completionReason"),
    ("generation", "stop_reason"),
    ("text", "is_finished"),
];

/// Whether the event is of this shape.
pub(super) fn steps(root: Value<'_>, steps: &mut Vec<Step>) -> Result<bool, Error> {
    for (name, end) in TEXTS {
        let Some(text) = root.get(name)?.filter(Value::is_string) else { continue };
        let Some(ends) = root.get(end)? else { continue };
        steps.push(Step::Delta(key(0, name), Kind::Text, text.span()));
        close(Some(ends), 0, steps);
        return Ok(true);
    }
    if let (Some(message), Some(done)) = (root.get("message")?, root.get("done")?) {
        for name in ["content", "thinking"] {
            if let Some(text) = message.get(name)?.filter(Value::is_string) {
                steps.push(Step::Delta(key(0, name), Kind::Text, text.span()));
            }
        }
        if let Some(calls) = message.get("tool_calls")? {
            steps.push(Step::Once(calls.span(), "[]"));
        }
        close(Some(done), 0, steps);
        return Ok(true);
    }
    let Some(outputs) = root.get("outputs")?.filter(Value::is_array) else { return Ok(false) };
    for (at, (_, output)) in outputs.children().enumerate() {
        let index = leaves::position(output, at)?;
        if let Some(text) = output.get("text")?.filter(Value::is_string) {
            steps.push(Step::Delta(key(index, "outputs.text"), Kind::Text, text.span()));
        }
        close(output.get("stop_reason")?, index, steps);
    }
    Ok(true)
}

fn key(index: u64, field: &str) -> Key {
    Key { index, field: field.to_owned(), ..Key::default() }
}

/// Anything but `null`, `false` and nothing says that the text ends.
fn close(value: Option<Value<'_>>, index: u64, steps: &mut Vec<Step>) {
    if value.is_some_and(|value| !value.is_null() && !value.is_false()) {
        steps.push(Step::Close(Which::Index(index)));
    }
}
