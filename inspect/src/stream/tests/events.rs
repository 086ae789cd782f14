//! What single formats promise.

use serde_json::{Value, json};

use super::*;
use wire::{chat_chunk, events, sse};

const SECRET: &str = "AKIAQ2W3E4R5T6Y7U8I9";
const MASKED: &str = "<\"aws\">";

fn text_of(wire: &[u8]) -> String {
    String::from_utf8(wire.to_vec()).unwrap()
}

#[test]
fn events_that_repeat_a_text_say_the_same() {
    let out = whole(Stream::sse(), &wire::responses(&["x AKIAQ2W3E4", "R5T6Y7U8I9 y"]));
    let wanted = format!("x {MASKED} y");
    let events = events(&out);
    for pointer in
        ["/text", "/part/text", "/item/content/0/text", "/response/output/0/content/0/text"]
    {
        let texts: Vec<_> = events.iter().filter_map(|event| event.pointer(pointer)).collect();
        assert!(texts.last().is_some_and(|text| *text == &wanted), "{pointer} {texts:?}");
    }
    assert!(!text_of(&out).contains("R5T6"));
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[2..7],
        [
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done"
        ]
    );
}

#[test]
fn choices_and_blocks_are_texts_of_their_own() {
    let event =
        |index: u64, text: &str| json!({"choices": [{"index": index, "delta": {"content": text}}]});
    let wire = sse(
        false,
        &[
            event(0, "a AKIAQ2W3E4"),
            event(1, "b AKIAQ2W3E4"),
            event(0, "R5T6Y7U8I9 a"),
            event(1, " b"),
        ],
    );
    let out = events(&whole(Stream::sse(), &wire));
    let joined = |index: u64| -> String {
        let of = out.iter().filter(|event| event["choices"][0]["index"] == index);
        of.map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap()).collect()
    };
    assert_eq!(joined(0), format!("a {MASKED} a"));
    assert_eq!(joined(1), "b AKIAQ2W3E4 b");
}

#[test]
fn what_is_held_at_the_end_of_a_block_leaves_before_its_stop() {
    let delta = |piece: &str| json!({"type": "text_delta", "text": piece});
    let out = events(&whole(Stream::sse(), &wire::block("text", delta, &["x ", "AKIAQ2"])));
    let kinds: Vec<_> = out.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[2..],
        [
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(out[4]["delta"]["text"], "");
    assert_eq!(
        out[5],
        json!({"type": "content_block_delta", "index": 0,
        "delta": {"type": "text_delta", "text": "AKIAQ2"}})
    );
}

#[test]
fn a_made_delta_of_a_tool_call_does_not_repeat_its_name() {
    let call = json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
        "function": {"name": "run", "arguments": "AKIAQ2"}}]});
    let end = chat_chunk(&json!({}), &json!("tool_calls"));
    let out = events(&whole(Stream::sse(), &sse(false, &[chat_chunk(&call, &Value::Null), end])));
    let call = &out[1]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(
        *call,
        json!({"index": 0, "id": null, "type": "function",
        "function": {"name": null, "arguments": "AKIAQ2"}})
    );
    assert_eq!(out[2]["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn signed_thinking_is_reported_and_never_altered() {
    let delta = |piece: &str| json!({"type": "thinking_delta", "thinking": piece});
    let mut wire = text_of(&wire::block("thinking", delta, &["x AKIAQ2W3E4", "R5T6Y7U8I9 y"]));
    let signature = format!(
        "event: content_block_delta\ndata: {}\n\n",
        json!({
        "type": "content_block_delta", "index": 0,
        "delta": {"type": "signature_delta", "signature": format!("Eq{SECRET}")}})
    );
    let at = wire.find("event: content_block_stop").unwrap();
    wire.insert_str(at, &signature);
    let mut judge = Names::default();
    let known = Known::default();
    let out = run(Stream::sse(), &mut judge, &known, &[wire.as_bytes()], End::Complete).unwrap();
    assert_eq!(wire::join(&events(&out), &["/delta/thinking"]), format!("x {SECRET} y"));
    assert!(text_of(&out).contains(&signature));
    assert_eq!(judge.seen.len(), 1, "{:?}", judge.seen);
    assert!(judge.seen[0].starts_with("aws at "));
}

#[test]
fn tokens_leave_only_with_a_text_that_is_not_changed() {
    let event = |text: &str| {
        json!({"choices": [{"index": 0, "delta": {"content": text},
        "logprobs": {"content": [{"token": text, "logprob": -0.1}]}, "finish_reason": null}]})
    };
    let out = events(&whole(
        Stream::sse(),
        &sse(false, &[event("hello "), event("AKIAQ2W3E4"), event("R5T6Y7U8I9 x")]),
    ));
    let tokens = |at: usize| out[at]["choices"][0]["logprobs"].clone();
    assert_eq!(tokens(0)["content"][0]["token"], "hello ");
    assert_eq!((tokens(1), tokens(2)), (Value::Null, Value::Null));
}

#[test]
fn json_that_is_no_delta_is_masked_as_a_whole() {
    let event = format!(
        r#"{{"jsonrpc":"2.0", "id":1.50,"result":{{"content":[{{"type":"text","text":"a\u0020{SECRET}"}}]}}}}"#
    );
    let wire = format!("id: 7\nretry: 10\nevent: message\ndata: {event}\n\n");
    let wanted = wire.replace(SECRET, r#"<\"aws\">"#);
    assert_eq!(text_of(&whole(Stream::sse(), wire.as_bytes())), wanted);
}

#[test]
fn lines_end_in_every_way_and_data_may_have_several() {
    for newline in ["\n", "\r", "\r\n"] {
        let event = format!(
            "\u{FEFF}: hello {SECRET}\nevent:message\nid: 3\ndata: {{\"a\":\ndata: \"{SECRET}\"}}\nfoo: bar\n\ndata\n\n:\n\n"
        );
        let wire = event.replace('\n', newline);
        let wanted = event
            .replace(&format!("hello {SECRET}"), &format!("hello {MASKED}"))
            .replace(SECRET, r#"<\"aws\">"#)
            .replace('\n', newline);
        let one = whole(Stream::sse(), wire.as_bytes());
        assert_eq!(text_of(&one), wanted);
        let mut judge = Names::default();
        let chunks: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
        let known = Known::default();
        let many = run(Stream::sse(), &mut judge, &known, &chunks, End::Complete).unwrap();
        assert_eq!(many, one);
    }
}

#[test]
fn an_event_that_is_not_ended_is_masked_or_dropped() {
    let wire = format!("data: {{\"a\":\"{SECRET}\"}}");
    let end = |end| {
        let known = Known::default();
        run(Stream::sse(), &mut Names::default(), &known, &[wire.as_bytes()], end).unwrap()
    };
    assert_eq!(text_of(&end(End::Complete)), wire.replace(SECRET, r#"<\"aws\">"#));
    assert_eq!(end(End::Cut), b"");
}

#[test]
fn what_is_malformed_fails() {
    let known = Known::default();
    let fails = |stream: Stream, wire: &[u8]| {
        run(stream, &mut Names::default(), &known, &[wire], End::Complete).unwrap_err()
    };
    let malformed = |error: Error| assert!(matches!(error, Error::Malformed(_)), "{error:?}");
    malformed(fails(Stream::sse(), b"data: {\"a\":1}\n\ndata: {\"a\":\n\n"));
    malformed(fails(Stream::sse(), b"data: {\"choices\":[],\"choices\":[]}\n\n"));
    malformed(fails(Stream::json_lines(), b"{}\nx\n"));
    malformed(fails(Stream::json_array(), b"[{},,{}]"));
    malformed(fails(Stream::json_array(), b"[{}"));
    let mut frame = framed::event("messageStart", "{}");
    frame[3] ^= 1;
    malformed(fails(Stream::event_stream(), &frame));
    let mut frame = framed::event("messageStart", "{}");
    *frame.last_mut().unwrap() ^= 1;
    malformed(fails(Stream::event_stream(), &frame));
}

#[test]
fn text_and_json_of_one_name_keep_their_order() {
    let wire = "data: x AKIAQ2\n\ndata: {}\n\ndata: {\"a\":1}\n\ndata: W3E4\n\n";
    let wanted = "data: x \n\ndata: AKIAQ2{}\n\ndata: {\"a\":1}\n\ndata: W3E4\n\n";
    assert_eq!(text_of(&whole(Stream::sse(), wire.as_bytes())), wanted);
    let wire = "data: x AKIAQ2\n\ndata: {\"a\":1}\n\n";
    let wanted = "data: x \n\ndata: AKIAQ2\n\ndata: {\"a\":1}\n\n";
    assert_eq!(text_of(&whole(Stream::sse(), wire.as_bytes())), wanted);
}

#[test]
fn nothing_of_signed_text_leaves_that_is_not_proven_when_it_is_cut() {
    let delta = |piece: &str| json!({"type": "thinking_delta", "thinking": piece});
    let wire = wire::block("thinking", delta, &["x AKIAQ2W3E4"]);
    let at = text_of(&wire).find("event: content_block_stop").unwrap();
    let known = Known::default();
    let out = run(Stream::sse(), &mut Names::default(), &known, &[&wire[..at]], End::Cut).unwrap();
    assert_eq!(wire::join(&events(&out), &["/delta/thinking"]), "x ");
}

#[test]
fn strings_and_gemini_arguments_are_texts() {
    let wire = "data: \"x AKIAQ2W3E4\"\n\ndata: \"R5T6Y7U8I9 y\"\n\n";
    let out = text_of(&whole(Stream::sse(), wire.as_bytes()));
    assert_eq!(out, "data: \"x \"\n\ndata: \"<\\\"aws\\\"> y\"\n\n");
    let call = |value: &str, more: bool| {
        let argument = json!({"jsonPath": "$.cmd", "stringValue": value, "willContinue": more});
        let part = json!({"functionCall": {"partialArgs": [argument], "willContinue": more}});
        json!({"response": {"candidates": [{"content": {"parts": [part]}}]}})
    };
    let wire = sse(false, &[call("x AKIAQ2W3E4", true), call("R5T6Y7U8I9 y", false)]);
    let pointer = "/response/candidates/0/content/parts/0/functionCall/partialArgs/0/stringValue";
    let joined = wire::join(&events(&whole(Stream::sse(), &wire)), &[pointer]);
    assert_eq!(joined, format!("x {MASKED} y"));
}

#[test]
fn a_sequence_of_json_keeps_its_separators() {
    let line = |text: &str| format!("\u{1e}{}\n", json!({"response": text, "done": false}));
    let out =
        whole(Stream::json_lines(), (line("x AKIAQ2W3") + &line("E4R5T6Y7U8I9 y")).as_bytes());
    assert_eq!(text_of(&out), line("x ") + &line(&format!("{MASKED} y")));
    let out = whole(Stream::json_lines(), line("x AKIAQ2").as_bytes());
    assert_eq!(text_of(&out), line("x ") + &line("AKIAQ2"));
}

#[test]
fn nothing_is_held_where_nothing_may_begin() {
    let wire = text_of(&wire::responses(&["hello ", "world AKIA", "x."]));
    let known = Known::default();
    let mut judge = Names::default();
    let mut masker = Masker::new(engine(), &known, &mut judge);
    let (mut stream, mut out) = (Stream::sse(), Vec::new());
    let mut held = Vec::new();
    for event in wire.split_inclusive("\n\n").skip(3).take(3) {
        stream.push(&mut masker, event.as_bytes(), &mut out).unwrap();
        held.push(stream.held_bytes());
    }
    assert_eq!(held, [0, 4, 0]);
}

#[test]
fn bounds_hold() {
    let known = Known::default();
    let mut judge = Names::default();
    let long = vec![b'x'; limits::MAX_STREAM_EVENT_BYTES + 1];
    let error = run(Stream::sse(), &mut judge, &known, &[&long], End::Complete).unwrap_err();
    assert_eq!(error, Error::TooLarge("server-sent event"));
    let many: Vec<_> = (0..=limits::MAX_STREAM_CHANNELS)
        .map(|index| json!({"choices": [{"index": index, "delta": {"content": "a"}}]}))
        .collect();
    let wire = sse(false, &many);
    let error = run(Stream::sse(), &mut judge, &known, &[&wire], End::Complete).unwrap_err();
    assert_eq!(error, Error::TooLarge("texts of a stream"));
}

#[test]
fn websocket_messages_may_be_fragmented_around_control_frames() {
    let wire = [
        framed::frame(0x01, b"x AKIAQ2W3E4", None),
        framed::frame(0x89, b"ping", None),
        framed::frame(0x80, b"R5T6Y7U8I9 y", None),
        framed::frame(0x82, &[0, 255, 1], None),
        framed::frame(0x88, &[3, 232], None),
        framed::frame(0x81, b"after", None),
    ];
    let out = whole(Stream::websocket(Sender::Server, 1000), &wire.concat());
    let wanted: [(u8, &[u8]); 4] =
        [(0x89, b"ping"), (0x81, b"x <\"aws\"> y"), (0x82, &[0, 255, 1]), (0x88, &[3, 232])];
    let got = framed::frames(&out);
    assert_eq!(
        got.iter().map(|(first, payload)| (*first, &payload[..])).collect::<Vec<_>>(),
        wanted
    );
}

#[test]
fn a_client_masks_anew() {
    let stream = Stream::websocket(Sender::Client(|| [1, 2, 3, 4]), 1000);
    let out = whole(stream, &framed::frame(0x81, b"hello", Some([5, 5, 5, 5])));
    assert_eq!(out, framed::frame(0x81, b"hello", Some([1, 2, 3, 4])));
}

#[test]
fn what_violates_the_websocket_protocol_is_told_with_its_code() {
    let server = |wire: &[u8]| {
        let known = Known::default();
        let mut judge = Names { refuse: true, ..Names::default() };
        let mut masker = Masker::new(engine(), &known, &mut judge);
        let mut stream = Stream::websocket(Sender::Server, 1000);
        let mut out = Vec::new();
        let error = stream.push(&mut masker, wire, &mut out).unwrap_err();
        stream.abort(&error, &mut out);
        let frames = framed::frames(&out);
        assert_eq!(frames[0].0, 0x88);
        u16::from_be_bytes([frames[0].1[0], frames[0].1[1]])
    };
    assert_eq!(server(&framed::frame(0xC1, b"deflated", None)), 1002);
    assert_eq!(server(&framed::frame(0x81, b"masked", Some([1; 4]))), 1002);
    assert_eq!(server(&framed::frame(0x80, b"of nothing", None)), 1002);
    assert_eq!(server(&framed::frame(0x09, b"ping in pieces", None)), 1002);
    assert_eq!(server(&framed::frame(0x83, b"opcode", None)), 1002);
    assert_eq!(server(&framed::frame(0x82, &[0; 1001], None)), 1009);
    assert_eq!(server(&framed::frame(0x81, &[0xFF], None)), 1007);
    assert_eq!(server(&framed::frame(0x81, SECRET.as_bytes(), None)), 1008);
}
