//! Streams that are not server-sent events: written and read by hand, as the formats are documented.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::wire::{self, Shape};
use crate::stream::{Sender, Stream};

pub(in crate::stream) const TEXTS: &[Shape] = &[
    Shape {
        name: "gemini array",
        stream: Stream::json_array,
        write: gemini_array,
        read: read_gemini_array,
    },
    Shape { name: "ollama", stream: Stream::json_lines, write: ollama, read: read_ollama },
    Shape { name: "websocket, server", stream: server, write: from_server, read: read_server },
    Shape { name: "websocket, client", stream: client, write: from_client, read: read_client },
    Shape { name: "bedrock", stream: Stream::event_stream, write: chunks, read: read_chunks },
    Shape { name: "converse", stream: Stream::event_stream, write: converse, read: read_converse },
    Shape { name: "nova", stream: Stream::event_stream, write: nova, read: read_chunks },
];

pub(in crate::stream) const TOOLS: &[Shape] = &[
    Shape {
        name: "bedrock tool",
        stream: Stream::event_stream,
        write: chunks_tool,
        read: read_chunks,
    },
    Shape {
        name: "converse tool",
        stream: Stream::event_stream,
        write: converse_tool,
        read: read_converse,
    },
];

fn gemini_array(pieces: &[&str]) -> Vec<u8> {
    let chunk = |piece: &&str| wire::gemini_chunk(piece, &Value::Null).to_string();
    let elements: Vec<_> = pieces.iter().map(chunk).collect();
    format!("[{}\n]\n", elements.join("\n,\r\n")).into_bytes()
}

fn read_gemini_array(wire: &[u8]) -> String {
    let elements: Vec<Value> = match serde_json::from_slice(wire) {
        Ok(elements) => elements,
        // It was cut.
        Err(_) => return String::new(),
    };
    wire::join(&elements, &["/candidates/0/content/parts/0/text"])
}

fn ollama(pieces: &[&str]) -> Vec<u8> {
    let piece = |piece: &&str| json!({"model": "m", "message": {"role": "assistant", "content": piece}, "done": false});
    let done = json!({"model": "m", "message": {"role": "assistant", "content": ""},
        "done": true, "eval_count": 3});
    let lines = pieces.iter().map(piece).chain([done]);
    lines.map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

fn read_ollama(wire: &[u8]) -> String {
    let lines = wire.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<_> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    wire::join(&events, &["/message/content"])
}

fn server() -> Stream {
    Stream::websocket(Sender::Server, 1 << 20)
}

fn client() -> Stream {
    Stream::websocket(Sender::Client(|| [9, 8, 7, 6]), 1 << 20)
}

/// One frame with a payload of any length, masked by `key`.
pub(in crate::stream) fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![first];
    let mask = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ ..126 => out.push(mask | u8::try_from(len).unwrap()),
        len @ ..65536 => {
            out.push(mask | 126);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            out.push(mask | 127);
            out.extend(u64::try_from(len).unwrap().to_be_bytes());
        }
    }
    out.extend(key.into_iter().flatten());
    let key = key.unwrap_or_default();
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// First byte and payload of each frame.
pub(in crate::stream) fn frames(mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = wire {
        let (len, rest) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => {
                (u64::from_be_bytes(rest[..8].try_into().unwrap()).try_into().unwrap(), &rest[8..])
            }
            len => (usize::from(len), rest),
        };
        let (key, rest) = if second & 0x80 != 0 { rest.split_at(4) } else { (&[0; 4][..], rest) };
        let payload = rest[..len].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        frames.push((*first, payload.collect()));
        wire = &rest[len..];
    }
    frames
}

fn messages(pieces: &[&str], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::new();
    for event in wire::events(&wire::responses(pieces)) {
        out.extend(frame(0x81, event.to_string().as_bytes(), key));
    }
    out
}

fn from_server(pieces: &[&str]) -> Vec<u8> {
    messages(pieces, None)
}

fn from_client(pieces: &[&str]) -> Vec<u8> {
    messages(pieces, Some([9, 8, 7, 6]))
}

fn read_messages(wire: &[u8]) -> String {
    let events = frames(wire).into_iter().filter(|(first, _)| first & 0x0F == 1);
    let events: Vec<_> =
        events.map(|(_, payload)| serde_json::from_slice(&payload).unwrap()).collect();
    wire::join(&events, &["/delta"])
}

fn read_server(wire: &[u8]) -> String {
    read_messages(wire)
}

fn read_client(wire: &[u8]) -> String {
    read_messages(wire)
}

/// One frame of an event stream.
pub(in crate::stream) fn event(kind: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in
        [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")]
    {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend(name.bytes());
        headers.push(7);
        headers.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend(value.bytes());
    }
    let mut frame = number(16 + headers.len() + payload.len()).to_vec();
    frame.extend(number(headers.len()));
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame.extend(headers);
    frame.extend(payload.bytes());
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame
}

fn number(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_be_bytes()
}

/// Payloads of all frames, whose checksums must be right.
pub(in crate::stream) fn payloads(mut wire: &[u8]) -> Vec<Value> {
    let mut payloads = Vec::new();
    while !wire.is_empty() {
        let number = |at: usize| u32::from_be_bytes(wire[at..at + 4].try_into().unwrap());
        let (total, headers) =
            (usize::try_from(number(0)).unwrap(), usize::try_from(number(4)).unwrap());
        assert_eq!(number(8), crc32fast::hash(&wire[..8]));
        assert_eq!(number(total - 4), crc32fast::hash(&wire[..total - 4]));
        payloads.push(serde_json::from_slice(&wire[12 + headers..total - 4]).unwrap());
        wire = &wire[total..];
    }
    payloads
}

fn chunk(inner: &Value) -> Vec<u8> {
    let bytes = STANDARD.encode(inner.to_string());
    event("chunk", &json!({"bytes": bytes, "p": "abcdefgh"}).to_string())
}

fn chunks(pieces: &[&str]) -> Vec<u8> {
    wire::events(&wire::anthropic(pieces)).iter().flat_map(chunk).collect()
}

fn chunks_tool(pieces: &[&str]) -> Vec<u8> {
    wire::events(&wire::anthropic_tool(pieces)).iter().flat_map(chunk).collect()
}

fn nova(pieces: &[&str]) -> Vec<u8> {
    let piece = |piece: &&str| {
        chunk(&json!({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": piece}}}))
    };
    let stop = chunk(&json!({"contentBlockStop": {"contentBlockIndex": 0}}));
    pieces.iter().map(piece).chain([stop]).flatten().collect()
}

fn read_chunks(wire: &[u8]) -> String {
    let inner = |payload: &Value| {
        let bytes = STANDARD.decode(payload["bytes"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let events: Vec<_> = payloads(wire).iter().map(inner).collect();
    wire::join(&events, &["/delta/text", "/delta/partial_json", "/contentBlockDelta/delta/text"])
}

fn blocks(delta: impl Fn(&str) -> Value, pieces: &[&str]) -> Vec<u8> {
    let piece = |piece: &&str| {
        let payload = json!({"contentBlockIndex": 0, "delta": delta(piece), "p": "abc"});
        event("contentBlockDelta", &payload.to_string())
    };
    let mut frames = vec![event("messageStart", r#"{"role":"assistant"}"#)];
    frames.extend(pieces.iter().map(piece));
    frames.push(event("contentBlockStop", r#"{"contentBlockIndex":0}"#));
    frames.push(event("messageStop", r#"{"stopReason":"end_turn"}"#));
    frames.push(event("metadata", r#"{"usage":{"inputTokens":3,"outputTokens":4}}"#));
    frames.concat()
}

fn converse(pieces: &[&str]) -> Vec<u8> {
    blocks(|piece| json!({"text": piece}), pieces)
}

fn converse_tool(pieces: &[&str]) -> Vec<u8> {
    blocks(|piece| json!({"toolUse": {"input": piece}}), pieces)
}

fn read_converse(wire: &[u8]) -> String {
    wire::join(&payloads(wire), &["/delta/text", "/delta/toolUse/input"])
}
