//! A fake language model: says what it was told, in the formats of OpenAI.
//!
//! - input: `POST /v1/chat/completions`, with `"stream": true` or not
//! - output: the last message, quoted; with the word `invent` in it, an invented token besides
//! - bound: requests of 64 MiB; deltas of [`STEP`] characters
//! - on failure: 400 for a request that is not JSON

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Context;
use super::body::Frames;
use super::routes::{json_response, plain, typed};
use crate::client::Body;

const MAX_REQUEST: usize = 64 << 20;
/// Characters of one streamed delta.
const STEP: usize = 3;

/// The token that the model invents: nobody ever sent it.
pub fn invented() -> String {
    // put together here, so that no scanner takes the source for a leak
    format!("{}_{}", "ghp", "R7mXq2Lw9TzK4vBn8YcHs5JdPf1GaUeC0oiE")
}

pub(super) async fn chat(context: &Context, request: Request<Incoming>) -> Response<Body> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let Ok(body) = body.map(http_body_util::Collected::to_bytes) else {
        return plain(StatusCode::BAD_REQUEST, "broken body\n");
    };
    context.seen.body(&body);
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return plain(StatusCode::BAD_REQUEST, "no JSON\n");
    };
    let last = request["messages"].as_array().and_then(|all| all.last());
    let prompt = last.and_then(|message| message["content"].as_str()).unwrap_or_default();
    let mut answer = format!("You said: {prompt}");
    if prompt.contains("invent") {
        answer.push_str(&format!("\nTry this: {} and tell me.", invented()));
    }
    if request["stream"] == true {
        return typed(
            "text/event-stream; charset=utf-8",
            Frames::new(events(&answer), None).boxed(),
        );
    }
    json_response(&json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": answer}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }))
}

/// One event for each delta, then the end as OpenAI sends it.
fn events(answer: &str) -> Vec<Bytes> {
    let characters: Vec<char> = answer.chars().collect();
    let chunk = |delta: Value, reason: Value, usage: Value| {
        let event = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": usage,
        });
        Bytes::from(format!("data: {event}\n\n"))
    };
    let mut all =
        vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null, Value::Null)];
    all.extend(characters.chunks(STEP).map(|piece| {
        let text: String = piece.iter().collect();
        chunk(json!({"content": text}), Value::Null, Value::Null)
    }));
    all.push(chunk(json!({}), json!("stop"), json!({"total_tokens": 3})));
    all.push(Bytes::from_static(b"data: [DONE]\n\n"));
    all
}

/// The text of a streamed answer, put together as a client does.
///
/// # Panics
/// When an event is no JSON.
pub fn text_of(stream: &[u8]) -> String {
    let stream = std::str::from_utf8(stream).expect("UTF-8");
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter(|data| *data != "[DONE]").map(|data| {
        serde_json::from_str::<Value>(data).unwrap_or_else(|e| panic!("{data:?} is no JSON: {e}"))
    });
    events
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}
