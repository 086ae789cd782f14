//! What providers send as events, known by its shape and not by the host.
//!
//! - input: one JSON event
//! - output: [`Step`]s: where pieces of a text stand, and which texts end
//! - bound: the event
//! - on failure: [`Error`], for an event with a key twice
//!
//! ```text
//! chat        OpenAI chat completions and what imitates them; legacy completions
//! responses   OpenAI responses and realtime
//! anthropic   Anthropic messages; Bedrock's converse
//! gemini      Gemini, also wrapped in `response`
//! plain       one text in a known member: Ollama, Titan, Llama, Mistral on Bedrock
//! ```

use std::fmt;
use std::ops::Range;

use crate::stream::Error;
use crate::stream::channel::Kind;
use crate::stream::json::{Json, Value};

mod anthropic;
mod chat;
mod gemini;
mod leaves;
mod plain;
mod responses;

/// Which text of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Choice, content block or candidate.
    pub(super) index: u64,
    /// Item.
    pub(super) id: Vec<u8>,
    /// Part of an item, tool call.
    pub(super) part: u64,
    /// Member that carries it: `choices.delta.content`.
    pub(super) field: String,
}

/// What an event does. Spans are of whole JSON values.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A string with a piece of a text.
    Delta(Key, Kind, Range<usize>),
    /// A string that may not be altered.
    Opaque(Range<usize>),
    /// The text again, token by token; the second stands in its place when it may not leave.
    Tokens(Range<usize>, &'static str),
    /// What may not be sent twice; the second stands in its place then.
    Once(Range<usize>, &'static str),
    /// These texts end with this event.
    Close(Which),
}

/// Which texts end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All.
    All,
    /// This one.
    One(Key),
    /// All of a choice, block or candidate.
    Index(u64),
    /// All of an item.
    Item(Vec<u8>),
}

impl Which {
    pub(super) fn has(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == key,
            Self::Index(index) => *index == key.index,
            Self::Item(id) => *id == key.id,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.field, self.index)
    }
}

/// What this event does; `name` is what the framing calls it.
pub(super) fn steps(json: &Json<'_>, name: &[u8]) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let Some(root) = json.root() else { return Ok(steps) };
    if root.is_string() {
        let key = Key { id: name.to_vec(), field: "string".to_owned(), ..Key::default() };
        steps.push(Step::Delta(key, Kind::Text, root.span()));
    }
    if !root.is_object() {
        return Ok(steps);
    }
    let kind = root.get("type")?.and_then(|value| value.text()).unwrap_or_default();
    let known = chat::steps(root, &mut steps)?
        || gemini::steps(root, &mut steps)?
        || anthropic::steps(root, &kind, &mut steps)?
        || anthropic::converse(root, name, &mut steps)?
        || responses::steps(root, &kind, &mut steps)?
        || plain::steps(root, &mut steps)?;
    if !known && let Some(delta) = root.get("delta")? {
        let base = Key { index: count(root, "index")?, field: text(&kind), ..Key::default() };
        leaves::steps(delta, &base, false, &mut steps)?;
    }
    Ok(steps)
}

/// The member of a path.
fn path<'j>(value: Value<'j>, keys: &[&str]) -> Result<Option<Value<'j>>, Error> {
    let mut at = Some(value);
    for key in keys {
        at = match at {
            Some(value) => value.get(key)?,
            None => None,
        };
    }
    Ok(at)
}

/// A member that counts, else 0.
fn count(value: Value<'_>, key: &str) -> Result<u64, Error> {
    Ok(value.get(key)?.and_then(|number| number.count()).unwrap_or(0))
}

/// A member that is a string and identifies something.
fn id(value: Value<'_>, key: &str) -> Result<Option<Vec<u8>>, Error> {
    const MAX_ID_BYTES: usize = 1024;
    match value.get(key)?.and_then(|id| id.text()) {
        Some(id) if id.len() > MAX_ID_BYTES => Err(Error::TooLarge("identifier in an event")),
        id => Ok(id.map(std::borrow::Cow::into_owned)),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Adds what holds for a string member that is not the model's text but sealed.
fn opaque(value: Value<'_>, key: &str, steps: &mut Vec<Step>) -> Result<(), Error> {
    if let Some(sealed) = value.get(key)?.filter(Value::is_string) {
        steps.push(Step::Opaque(sealed.span()));
        steps.push(Step::Once(sealed.span(), "null"));
    }
    Ok(())
}

/// Adds the tokens of a text, where it has any.
fn tokens(value: Value<'_>, empty: &'static str, steps: &mut Vec<Step>) -> Result<(), Error> {
    if let Some(list) = value.get("logprobs")?
        && (list.is_object() || list.children().next().is_some())
    {
        steps.push(Step::Tokens(list.span(), empty));
        steps.push(Step::Once(list.span(), empty));
    }
    Ok(())
}
