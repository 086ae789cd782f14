//! Ways to write a text, and to read it again without the code under test.

use std::io::{Read, Write};

use ::base64::Engine as _;
use ::base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};
use serde_json::{Value, json};

/// One way.
pub(super) struct Lens {
    pub(super) name: &'static str,
    pub(super) wrap: fn(&[u8]) -> Vec<u8>,
    pub(super) unwrap: fn(&[u8]) -> Vec<u8>,
    /// What it makes is no text.
    pub(super) makes_bytes: bool,
    /// It can be around what is no text.
    pub(super) takes_bytes: bool,
}

const fn lens(
    name: &'static str,
    wrap: fn(&[u8]) -> Vec<u8>,
    unwrap: fn(&[u8]) -> Vec<u8>,
    makes_bytes: bool,
    takes_bytes: bool,
) -> Lens {
    Lens { name, wrap, unwrap, makes_bytes, takes_bytes }
}

pub(super) const LENSES: &[Lens] = &[
    lens("chat", chat, unchat, false, false),
    lens("tool result", tool, untool, false, false),
    lens("\\u", unicode, unchat, false, false),
    lens("base64", base64, unbase64, false, true),
    lens("base64 url", |t| URL_SAFE_NO_PAD.encode(t).into(), unurl, false, true),
    lens("base64 lines", base64_lines, unbase64, false, true),
    lens("percent", percent, unpercent, false, false),
    lens("hex", |t| hex::encode(t).into(), |t| hex::decode(t).unwrap(), false, true),
    lens("entities", entities, unentities, false, false),
    lens("escapes", escapes, unescapes, false, false),
    lens("cat -n", numbered, unnumbered, false, false),
    lens("diff", |t| lines(t, |_| "+".into()), |t| unlines(t, 1), false, false),
    lens("mail quote", |t| lines(t, |_| "> ".into()), |t| unlines(t, 2), false, false),
    lens("gzip", gzip, ungzip, true, true),
    lens("utf-16", utf16, unutf16, true, false),
];

fn string(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap()
}

fn chat(text: &[u8]) -> Vec<u8> {
    let content = string(text);
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }] }).to_string().into()
}

fn unchat(text: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(text).unwrap();
    value["messages"][0]["content"].as_str().unwrap().into()
}

fn tool(text: &[u8]) -> Vec<u8> {
    chat(json!({ "tool_result": { "stdout": string(text) } }).to_string().as_bytes())
}

fn untool(text: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(&unchat(text)).unwrap();
    value["tool_result"]["stdout"].as_str().unwrap().into()
}

fn unicode(text: &[u8]) -> Vec<u8> {
    let units: Vec<_> = string(text).encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("{{\"messages\":[{{\"content\":\"{}\"}}]}}", units.concat()).into()
}

pub(super) fn base64(text: &[u8]) -> Vec<u8> {
    STANDARD.encode(text).into()
}

pub(super) fn base64_lines(text: &[u8]) -> Vec<u8> {
    let digits = base64(text);
    let lines: Vec<_> = digits.chunks(76).map(string).collect();
    lines.join("\n").into()
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    STANDARD.decode(string(text).replace('\n', "")).unwrap()
}

fn unurl(text: &[u8]) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(string(text).trim_end_matches('=')).unwrap()
}

fn percent(text: &[u8]) -> Vec<u8> {
    format!("payload={}", percent_encode(text, NON_ALPHANUMERIC)).into()
}

fn unpercent(text: &[u8]) -> Vec<u8> {
    percent_decode(text.strip_prefix(b"payload=").unwrap()).collect()
}

fn entities(text: &[u8]) -> Vec<u8> {
    let text = string(text).replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#39;");
    text.replace('<', "&lt;").replace('>', "&#x3e;").replace('_', "&#95;").into()
}

fn unentities(text: &[u8]) -> Vec<u8> {
    let text = string(text).replace("&#95;", "_").replace("&#x3e;", ">").replace("&lt;", "<");
    text.replace("&#39;", "'").replace("&quot;", "\"").replace("&amp;", "&").into()
}

/// A string in a program, not in JSON.
fn escapes(text: &[u8]) -> Vec<u8> {
    let quoted = Value::from(string(text)).to_string().replace('_', "\\x5f");
    format!("let text = {quoted};").into()
}

fn unescapes(text: &[u8]) -> Vec<u8> {
    let text = string(text).replace("\\x5f", "_");
    let quoted = text.strip_prefix("let text = ").unwrap().strip_suffix(';').unwrap();
    let value: Value = serde_json::from_str(quoted).unwrap();
    value.as_str().unwrap().into()
}

fn lines(text: &[u8], prefix: fn(usize) -> String) -> Vec<u8> {
    let text = string(text);
    let lines = text.split('\n').enumerate().map(|(n, line)| prefix(n) + line);
    lines.collect::<Vec<_>>().join("\n").into()
}

fn unlines(text: &[u8], prefix: usize) -> Vec<u8> {
    let text = string(text);
    let lines: Vec<_> = text.split('\n').map(|line| line.get(prefix..).unwrap()).collect();
    lines.join("\n").into()
}

fn numbered(text: &[u8]) -> Vec<u8> {
    lines(text, |n| format!("{:6}\t", n + 1))
}

fn unnumbered(text: &[u8]) -> Vec<u8> {
    unlines(text, 7)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn ungzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

fn utf16(text: &[u8]) -> Vec<u8> {
    format!("\u{feff}{}", string(text)).encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn unutf16(bytes: &[u8]) -> Vec<u8> {
    let units: Vec<_> =
        bytes.chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).unwrap().strip_prefix('\u{feff}').unwrap().into()
}
