//! OpenAI's chat completions and legacy completions, and the many that imitate them.
//!
//! - input: `{"choices": [{"index", "delta": {…}, "finish_reason"}]}`, or `text` in place of `delta`
//! - output: a text for each string of the delta of each choice
//! - bound: the event
//! - on failure: [`Error`]

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::Value;
use crate::stream::shape::{Key, Step, Which, leaves, tokens};

/// Whether the event is of this shape.
pub(super) fn steps(root: Value<'_>, steps: &mut Vec<Step>) -> Result<bool, Error> {
    let Some(choices) = root.get("choices")?.filter(Value::is_array) else { return Ok(false) };
    for (at, (_, choice)) in choices.children().enumerate() {
        let index = leaves::position(choice, at)?;
        let base = |field: &str| Key { index, field: field.to_owned(), ..Key::default() };
        if let Some(delta) = choice.get("delta")? {
            leaves::steps(delta, &base("choices.delta"), false, steps)?;
        }
        if let Some(text) = choice.get("text")?.filter(Value::is_string) {
            steps.push(Step::Delta(base("choices.text"), Kind::Text, text.span()));
        }
        tokens(choice, "null", steps)?;
        if choice.get("finish_reason")?.is_some_and(|reason| !reason.is_null()) {
            steps.push(Step::Close(Which::Index(index)));
        }
    }
    Ok(true)
}
