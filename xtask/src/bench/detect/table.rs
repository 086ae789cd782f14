//! The same secrets in every encoding they travel in, cut at every place that matters.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use weir_inspect::body::{BodyKind, Masker};
use weir_inspect::engine::{End, Engine};
use weir_inspect::judge::{Found, Judge, Verdict};
use weir_inspect::known::Known;
use weir_inspect::own;
use weir_inspect::sample::{self, Random, Sample, Surroundings};
use weir_inspect::stream::Stream;

/// Characters of a text delta; of a delta of a tool call's arguments.
const TEXT_DELTA: usize = 3;
const TOOL_DELTA: usize = 5;
const LINE: usize = 76;
const SEED: u64 = 5;

/// How a text is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Plain,
    ChatJson,
    JsonInJson,
    Escaped,
    Base64,
    Base64Wrapped,
    Url,
    Hex,
    CatN,
    Diff,
    SseText,
    SseTool,
    Gzip,
}

pub(super) const ROWS: [Row; 13] = [
    Row::Plain,
    Row::ChatJson,
    Row::JsonInJson,
    Row::Escaped,
    Row::Base64,
    Row::Base64Wrapped,
    Row::Url,
    Row::Hex,
    Row::CatN,
    Row::Diff,
    Row::SseText,
    Row::SseTool,
    Row::Gzip,
];

impl Row {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ChatJson => "in chat JSON",
            Self::JsonInJson => "JSON in JSON (tool result)",
            Self::Escaped => "\\uXXXX-escaped",
            Self::Base64 => "base64, one line",
            Self::Base64Wrapped => "base64, wrapped at 76",
            Self::Url => "URL-encoded",
            Self::Hex => "hex",
            Self::CatN => "cat -n",
            Self::Diff => "diff",
            Self::SseText => "SSE text deltas, 3 characters",
            Self::SseTool => "SSE tool-call arguments, 5 characters",
            Self::Gzip => "gzip body",
        }
    }

    /// Places at which a text begins in a line, a group of base64 or a delta.
    pub(super) fn shifts(self) -> usize {
        match self {
            Self::Base64 | Self::SseText => TEXT_DELTA,
            Self::Base64Wrapped => LINE,
            Self::SseTool => TOOL_DELTA,
            _ => 1,
        }
    }

    pub(super) fn encode(self, text: &str, shift: usize) -> Result<Vec<u8>> {
        let padding = "-".repeat(shift);
        let shifted = format!("config{padding}\n{text}");
        let bytes = match self {
            Self::Plain => text.to_owned(),
            Self::ChatJson => chat(text),
            Self::JsonInJson => chat(&json!({"tool_result": {"stdout": text}}).to_string()),
            Self::Escaped => {
                let mut escaped = String::new();
                for unit in text.encode_utf16() {
                    write!(escaped, "\\u{unit:04x}")?;
                }
                format!(r#"{{"messages":[{{"role":"user","content":"{escaped}"}}]}}"#)
            }
            Self::Base64 => STANDARD.encode(shifted) + "\n",
            Self::Base64Wrapped => {
                let one = STANDARD.encode(format!("{}{shifted}", "config file:\n".repeat(3)));
                let lines = one.as_bytes().chunks(LINE);
                lines.map(|line| String::from_utf8_lossy(line).into_owned() + "\n").collect()
            }
            Self::Url => format!("payload={}", percent(text)),
            Self::Hex => hex::encode(text) + "\n",
            Self::CatN => {
                let lines = text.lines().enumerate();
                lines.map(|(index, line)| format!("{:6}\t{line}\n", index + 1)).collect()
            }
            Self::Diff => text.lines().map(|line| format!("+{line}\n")).collect(),
            Self::SseText => events(&shifted, TEXT_DELTA, "text_delta", "text"),
            Self::SseTool => {
                let command = json!({"command": format!("cat > f <<E{padding}\n{text}\nE")});
                events(&command.to_string(), TOOL_DELTA, "input_json_delta", "partial_json")
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(chat(text).as_bytes())?;
                return Ok(encoder.finish()?);
            }
        };
        Ok(bytes.into_bytes())
    }

    fn kind(self) -> BodyKind<'static> {
        let (kind, encoding): (&[u8], Option<&[u8]>) = match self {
            Self::ChatJson | Self::JsonInJson | Self::Escaped => (b"application/json", None),
            Self::Gzip => (b"application/json", Some(b"gzip")),
            Self::Url => (b"application/x-www-form-urlencoded", None),
            _ => (b"text/plain", None),
        };
        BodyKind { content_type: Some(kind), content_encoding: encoding }
    }

    /// Whether weir finds and replaces the value.
    pub(super) fn is_masked(self, engine: &Engine, bytes: &[u8], value: &str) -> bool {
        let is_stream = matches!(self, Self::SseText | Self::SseTool);
        if !is_stream {
            let mut spy = Spy::new(value);
            let known = Known::default();
            let mut masker = Masker::new(engine, &known, &mut spy);
            let masked = masker.body(&self.kind(), bytes);
            return masked.is_ok_and(|masked| masked.is_some()) && spy.seen;
        }
        [bytes.len(), 1, 7].into_iter().all(|chunk| {
            let mut spy = Spy::new(value);
            let known = Known::default();
            let mut masker = Masker::new(engine, &known, &mut spy);
            let mut out = Vec::new();
            let mut stream = Stream::sse();
            let pushed = bytes
                .chunks(chunk.max(1))
                .all(|chunk| stream.push(&mut masker, chunk, &mut out).is_ok());
            let is_done = stream.finish(&mut masker, End::Complete, &mut out).is_ok();
            pushed && is_done && spy.seen && joined(&out).is_some_and(|text| !text.contains(value))
        })
    }
}

/// One secret of each of `count` different rules.
pub(super) fn secrets(count: usize) -> Result<Vec<Sample>> {
    let mut random = Random::new(SEED);
    let mut places = Surroundings::ALL.into_iter().cycle();
    let mut samples = Vec::new();
    for definition in own::definitions()?.iter().filter(|definition| definition.value.is_some()) {
        let place = places.next().unwrap_or(Surroundings::Code);
        let sample = sample::secret(definition, &mut random, place);
        samples.extend(sample.filter(|sample| !sample.value().contains('\n')));
    }
    // Of all kinds: evenly from the list, which is ordered by kind.
    let all = samples.len();
    let wanted = count.min(all);
    let chosen = samples.into_iter().enumerate();
    Ok(chosen.filter(|(i, _)| i * wanted / all != (i + 1) * wanted / all).map(|(_, s)| s).collect())
}

/// Replaces everything; notes whether the value was among it.
struct Spy<'a> {
    value: &'a [u8],
    seen: bool,
}

impl<'a> Spy<'a> {
    fn new(value: &'a str) -> Self {
        Self { value: value.as_bytes(), seen: false }
    }
}

impl Judge for Spy<'_> {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        // Of a long value only the beginning is shown.
        let shown = self.value.get(..found.value.len()).unwrap_or(self.value);
        self.seen |= found.value.windows(shown.len().max(1)).any(|window| window == shown)
            && shown.len() >= self.value.len().min(500);
        Verdict::Replace(b"MASKED".to_vec())
    }
}

/// The text of all deltas.
fn joined(stream: &[u8]) -> Option<String> {
    let mut text = String::new();
    for line in std::str::from_utf8(stream).ok()?.lines() {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: serde_json::Value = serde_json::from_str(data).ok()?;
        let delta = event.get("delta")?;
        let part = delta.get("text").or_else(|| delta.get("partial_json"));
        text.push_str(part.and_then(serde_json::Value::as_str).unwrap_or_default());
    }
    Some(text)
}

fn chat(text: &str) -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string()
}

fn events(text: &str, size: usize, kind: &str, field: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let events = characters.chunks(size).map(|delta| {
        let delta: String = delta.iter().collect();
        let data = json!({
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": kind, field: delta},
        });
        format!("event: content_block_delta\ndata: {data}\n\n")
    });
    events.collect()
}

fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
