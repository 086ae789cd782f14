//! Writes the streams of providers as they document them, and reads them as their clients do.

use serde_json::{Value, json};

use crate::stream::Stream;

/// One way to send a text.
pub(in crate::stream) struct Shape {
    pub(in crate::stream) name: &'static str,
    pub(in crate::stream) stream: fn() -> Stream,
    pub(in crate::stream) write: fn(&[&str]) -> Vec<u8>,
    pub(in crate::stream) read: fn(&[u8]) -> String,
}

pub(in crate::stream) const TEXTS: &[Shape] = &[
    Shape { name: "chat", stream: Stream::sse, write: chat, read: read_chat },
    Shape {
        name: "chat, end in last delta",
        stream: Stream::sse,
        write: chat_short,
        read: read_chat,
    },
    Shape { name: "completions", stream: Stream::sse, write: completions, read: read_completions },
    Shape { name: "responses", stream: Stream::sse, write: responses, read: read_delta },
    Shape { name: "anthropic", stream: Stream::sse, write: anthropic, read: read_anthropic },
    Shape { name: "gemini", stream: Stream::sse, write: gemini, read: read_gemini },
    Shape { name: "unknown delta", stream: Stream::sse, write: unknown, read: read_delta },
    Shape { name: "text events", stream: Stream::sse, write: text_events, read: read_text_events },
    Shape { name: "text", stream: Stream::text, write: text, read: read_text },
];

pub(in crate::stream) const TOOLS: &[Shape] = &[
    Shape { name: "chat tool", stream: Stream::sse, write: chat_tool, read: read_chat },
    Shape { name: "responses tool", stream: Stream::sse, write: responses_tool, read: read_delta },
    Shape {
        name: "anthropic tool",
        stream: Stream::sse,
        write: anthropic_tool,
        read: read_anthropic,
    },
];

pub(in crate::stream) fn sse(named: bool, events: &[Value]) -> Vec<u8> {
    let mut out = String::new();
    for event in events {
        if let Some(kind) = event["type"].as_str().filter(|_| named) {
            out += &format!("event: {kind}\n");
        }
        out += &format!("data: {event}\n\n");
    }
    out.into_bytes()
}

/// Data of all events, as a client reads them.
pub(in crate::stream) fn events(wire: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(wire.to_vec()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

pub(in crate::stream) fn join(events: &[Value], pointers: &[&str]) -> String {
    let text = |event: &Value| {
        let found = pointers.iter().find_map(|pointer| event.pointer(pointer)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    events.iter().map(text).collect()
}

pub(in crate::stream) fn chat_chunk(delta: &Value, finish: &Value) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]})
}

fn chat(pieces: &[&str]) -> Vec<u8> {
    let mut events = vec![chat_chunk(&json!({"role": "assistant", "content": ""}), &Value::Null)];
    let piece = |piece: &&str| chat_chunk(&json!({"content": piece}), &Value::Null);
    events.extend(pieces.iter().map(piece));
    events.push(chat_chunk(&json!({}), &json!("stop")));
    events.push(json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
        "model": "m", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}));
    [sse(false, &events), b"data: [DONE]\n\n".to_vec()].concat()
}

fn chat_short(pieces: &[&str]) -> Vec<u8> {
    let (last, first) = pieces.split_last().unwrap();
    let piece = |piece: &&str| chat_chunk(&json!({"content": piece}), &Value::Null);
    let mut events: Vec<_> = first.iter().map(piece).collect();
    events.push(chat_chunk(&json!({"content": last}), &json!("stop")));
    sse(false, &events)
}

fn chat_tool(pieces: &[&str]) -> Vec<u8> {
    let call = |call: Value| chat_chunk(&json!({"tool_calls": [call]}), &Value::Null);
    let mut events = vec![call(json!({"index": 0, "id": "call_1", "type": "function",
        "function": {"name": "run", "arguments": ""}}))];
    let piece = |piece: &&str| call(json!({"index": 0, "function": {"arguments": piece}}));
    events.extend(pieces.iter().map(piece));
    events.push(chat_chunk(&json!({}), &json!("tool_calls")));
    sse(false, &events)
}

fn read_chat(wire: &[u8]) -> String {
    let delta = "/choices/0/delta";
    let arguments = format!("{delta}/tool_calls/0/function/arguments");
    join(&events(wire), &[&format!("{delta}/content"), &arguments])
}

fn completions(pieces: &[&str]) -> Vec<u8> {
    let piece = |piece: &&str| {
        json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{"text": piece, "index": 1, "logprobs": null, "finish_reason": null}]})
    };
    let events: Vec<_> = pieces.iter().map(piece).collect();
    [sse(false, &events), b"data: [DONE]\n\n".to_vec()].concat()
}

fn read_completions(wire: &[u8]) -> String {
    join(&events(wire), &["/choices/0/text"])
}

pub(in crate::stream) fn responses(pieces: &[&str]) -> Vec<u8> {
    let text = pieces.concat();
    let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let item = json!({"id": "msg_1", "type": "message", "role": "assistant",
        "status": "completed", "content": [part]});
    let at = |mut event: Value| {
        event["item_id"] = json!("msg_1");
        event["output_index"] = json!(0);
        event["content_index"] = json!(0);
        event
    };
    let mut events = vec![
        json!({"type": "response.created", "response": {"id": "resp_1", "output": []}}),
        json!({"type": "response.output_item.added", "output_index": 0,
            "item": {"id": "msg_1", "type": "message", "content": []}}),
        at(json!({"type": "response.content_part.added",
            "part": {"type": "output_text", "text": ""}})),
    ];
    events.extend(pieces.iter().map(|piece| {
        at(json!({"type": "response.output_text.delta", "delta": piece, "logprobs": []}))
    }));
    events.extend([
        at(json!({"type": "response.output_text.done", "text": text, "logprobs": []})),
        at(json!({"type": "response.content_part.done", "part": part})),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": {"id": "resp_1", "output": [item],
            "usage": {"input_tokens": 1, "output_tokens": 2}}}),
    ]);
    number(&mut events);
    sse(true, &events)
}

fn responses_tool(pieces: &[&str]) -> Vec<u8> {
    let arguments = pieces.concat();
    let item = json!({"id": "fc_1", "type": "function_call", "name": "run", "call_id": "call_1",
        "arguments": arguments});
    let mut events = vec![json!({"type": "response.output_item.added", "output_index": 0,
        "item": {"id": "fc_1", "type": "function_call", "name": "run", "arguments": ""}})];
    events.extend(pieces.iter().map(|piece| {
        json!({"type": "response.function_call_arguments.delta", "item_id": "fc_1",
            "output_index": 0, "delta": piece})
    }));
    events.extend([
        json!({"type": "response.function_call_arguments.done", "item_id": "fc_1",
            "output_index": 0, "arguments": arguments}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
    ]);
    number(&mut events);
    sse(true, &events)
}

fn number(events: &mut [Value]) {
    for (at, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(at);
    }
}

fn read_delta(wire: &[u8]) -> String {
    join(&events(wire), &["/delta", "/delta/message/content/text"])
}

pub(in crate::stream) fn block(
    kind: &str,
    delta: impl Fn(&str) -> Value,
    pieces: &[&str],
) -> Vec<u8> {
    let mut events = vec![
        json!({"type": "message_start", "message": {"id": "msg_1", "role": "assistant",
            "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": kind}}),
        json!({"type": "ping"}),
    ];
    events.extend(
        pieces
            .iter()
            .map(|piece| json!({"type": "content_block_delta", "index": 0, "delta": delta(piece)})),
    );
    events.extend([
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop"}),
    ]);
    sse(true, &events)
}

pub(in crate::stream) fn anthropic(pieces: &[&str]) -> Vec<u8> {
    block("text", |piece| json!({"type": "text_delta", "text": piece}), pieces)
}

pub(in crate::stream) fn anthropic_tool(pieces: &[&str]) -> Vec<u8> {
    let delta = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
    block("tool_use", delta, pieces)
}

fn read_anthropic(wire: &[u8]) -> String {
    join(&events(wire), &["/delta/text", "/delta/partial_json"])
}

pub(in crate::stream) fn gemini_chunk(piece: &str, finish: &Value) -> Value {
    json!({"candidates": [{"content": {"parts": [{"text": piece}], "role": "model"}, "index": 0,
        "finishReason": finish}], "usageMetadata": {"totalTokenCount": 3}, "modelVersion": "m"})
}

fn gemini(pieces: &[&str]) -> Vec<u8> {
    let mut events: Vec<_> = pieces.iter().map(|piece| gemini_chunk(piece, &Value::Null)).collect();
    events.push(json!({"candidates": [{"content": {"parts": [], "role": "model"}, "index": 0,
        "finishReason": "STOP"}], "usageMetadata": {"totalTokenCount": 4}}));
    sse(false, &events)
}

fn read_gemini(wire: &[u8]) -> String {
    join(&events(wire), &["/candidates/0/content/parts/0/text"])
}

fn unknown(pieces: &[&str]) -> Vec<u8> {
    let delta = |piece: &&str| {
        json!({"type": "content-delta", "index": 0,
            "delta": {"message": {"content": {"text": piece}}}})
    };
    sse(true, &pieces.iter().map(delta).collect::<Vec<_>>())
}

fn text_events(pieces: &[&str]) -> Vec<u8> {
    let mut out = String::from(": hello\n\n");
    for piece in pieces {
        out += "event: token\n";
        for line in piece.split('\n') {
            out += &format!("data: {line}\n");
        }
        out += "\n";
    }
    out.into_bytes()
}

fn read_text_events(wire: &[u8]) -> String {
    let text = String::from_utf8(wire.to_vec()).unwrap();
    let data = |event: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.collect::<Vec<_>>().join("\n")
    };
    text.split("\n\n").map(data).collect()
}

fn text(pieces: &[&str]) -> Vec<u8> {
    pieces.concat().into_bytes()
}

fn read_text(wire: &[u8]) -> String {
    String::from_utf8(wire.to_vec()).unwrap()
}
