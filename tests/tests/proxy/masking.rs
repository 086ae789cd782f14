//! Secrets on their way to a model and back: what the origin gets, what the client gets, and that
//! nothing of them is recorded.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use weir_gateway::config::Config;
use weir_gateway::config::HostPattern;
use weir_gateway::config::inspect::{Mode, Route};
use weir_tests::client::{self, Connection, full};
use weir_tests::gateway::{NAME, Recorded, TestGateway};
use weir_tests::origin::{Origin, llm, routes};

use crate::wire::https_origin_with;

/// A token that a rule finds; put together here, so that no scanner takes the source for a leak.
pub(crate) fn token() -> String {
    format!("{}_{}", "ghp", "aZ3kQ9xW7mN1vB5tY8rL2pD6sF4gH0jKcUeo")
}

/// The test's host is treated as a model's.
pub(crate) fn masks(config: &mut Config) {
    config.inspect.routes.insert(0, route(Mode::Tokenise, Mode::Redact));
}

pub(crate) fn route(requests: Mode, responses: Mode) -> Route {
    let hosts = vec![HostPattern::parse(NAME).unwrap()];
    Route { hosts, requests, responses, restore: true, max_body_bytes: 1 << 20 }
}

async fn masking() -> (TestGateway, Origin) {
    https_origin_with(&["h2", "http/1.1"], masks).await
}

pub(crate) fn prompt(text: &str, stream: bool) -> String {
    json!({"model": "fake", "stream": stream, "messages": [{"role": "user", "content": text}]})
        .to_string()
}

pub(crate) async fn ask(connection: &mut Connection, body: impl Into<Bytes>) -> Response<Bytes> {
    let fields = [("content-type", "application/json")];
    ask_with(connection, "/v1/chat/completions", &fields, body).await
}

pub(crate) async fn ask_with(
    connection: &mut Connection,
    path: &str,
    fields: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let h2 = connection.is_h2();
    let mut request = client::request(h2, "POST", NAME, path, full(body.into())).unwrap();
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(HeaderName::from_static(name), value);
    }
    client::collect(connection.send(request).await.unwrap(), 64 << 20).await.unwrap()
}

/// No recorded byte of any table has any of these, not even in part.
pub(crate) fn nothing_recorded(recorded: &Recorded, secrets: &[&str]) {
    for secret in secrets {
        // a part that is long enough not to be there by chance
        let parts = secret.as_bytes().chunks_exact(12);
        for part in parts {
            let found = recorded.raw.windows(part.len()).any(|bytes| bytes == part);
            assert!(!found, "{:?} is recorded", String::from_utf8_lossy(part));
        }
    }
}

fn content(answer: &Response<Bytes>) -> String {
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn sent_content(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_secret_in_a_prompt_arrives_masked_and_comes_back() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, origin) = masking().await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let text = format!("my token is \"{}\", \\ keep it\n", token());
        let answer = ask(&mut connection, prompt(&text, false)).await;
        assert_eq!(answer.status(), 200);
        let sent = sent_content(&origin.seen().bodies()[0]);
        assert!(!sent.contains(&token()) && sent.contains("ghp_WEIR"), "{sent}");
        assert_eq!(sent.len(), text.len(), "a placeholder has the same shape: {sent}");
        assert_eq!(content(&answer), format!("You said: {text}"), "restored for the client");
        // the same again: a conversation is sent again with every turn
        ask(&mut connection, prompt(&text, false)).await;
        assert_eq!(sent_content(&origin.seen().bodies()[1]), sent, "placeholders are stable");
        drop(connection);
        let recorded = gateway.shutdown().await;
        nothing_recorded(&recorded, &[&token()]);
        let row = &recorded.exchanges[0];
        assert_eq!((row.text("outcome"), row.text("req_body")), ("ok", "full"));
        assert_eq!(recorded.body(row, "request"), origin.seen().bodies()[0]);
        let recorded_answer = String::from_utf8(recorded.body(row, "response").to_vec()).unwrap();
        assert!(recorded_answer.contains("ghp_WEIR"), "{recorded_answer}");
    }
}

#[tokio::test]
async fn placeholders_come_back_in_streams_and_inventions_are_masked_there() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, origin) = masking().await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let text = format!("invent something like {} please", token());
        let answer = ask(&mut connection, prompt(&text, true)).await;
        let sent = sent_content(&origin.seen().bodies()[0]);
        assert!(!sent.contains(&token()), "{sent}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
        let said = llm::text_of(answer.body());
        assert!(said.starts_with(&format!("You said: {text}\n")), "{said}");
        assert!(!said.contains(&llm::invented()), "{said}");
        assert!(said.ends_with(" and tell me."), "{said}");
        assert!(answer.body().ends_with(b"data: [DONE]\n\n"));
        drop(connection);
        let recorded = gateway.shutdown().await;
        nothing_recorded(&recorded, &[&token(), &llm::invented()]);
        let row = recorded.exchange();
        assert_eq!((row.text("outcome"), row.text("resp_body")), ("ok", "full"));
        let kept = llm::text_of(&recorded.body(row, "response"));
        assert!(kept.contains("ghp_WEIR"), "{kept}");
    }
}

#[tokio::test]
async fn every_place_of_a_request_is_looked_into() {
    let (gateway, origin) = masking().await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let secret = token();
    let form = format!("a=1&token={secret}&b=2");
    let multipart = format!(
        "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\
         Content-Type: text/plain\r\n\r\nkey {secret} end\r\n--x--\r\n"
    );
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", form.as_str()),
        ("multipart/form-data; boundary=x", &multipart),
        ("text/plain", &format!("plain {secret} text")),
        ("application/json", &json!({"a": [{"b": secret}]}).to_string()),
    ] {
        let fields = [("content-type", content_type), ("content-md5", "x"), ("digest", "x=y")];
        let path = "/v1/chat/completions";
        let answer = ask_with(&mut connection, path, &fields, body.to_owned()).await;
        // the fake model reads JSON only
        assert!(matches!(answer.status().as_u16(), 200 | 400), "{content_type}");
        let got = origin.seen().bodies().pop().unwrap();
        let got = String::from_utf8(got.to_vec()).unwrap();
        assert!(!got.contains(&secret) && got.contains("ghp_WEIR"), "{content_type}: {got}");
        assert_eq!(got.len(), body.len(), "{content_type}: {got}");
        let head = origin.seen().heads().pop().unwrap();
        for absent in ["content-md5", "digest"] {
            assert!(!head.headers.contains_key(absent), "{content_type}: {absent}");
        }
        assert_eq!(head.headers["content-length"], body.len().to_string().as_str());
    }
    // compressed
    let packed = routes::gzip_encode(prompt(&secret, false).as_bytes());
    let fields = [("content-type", "application/json"), ("content-encoding", "gzip")];
    ask_with(&mut connection, "/v1/chat/completions", &fields, packed).await;
    let got = routes::gunzip(&origin.seen().bodies().pop().unwrap());
    let got = String::from_utf8(got).unwrap();
    assert!(!got.contains(&secret) && got.contains("ghp_WEIR"), "{got}");
    // heads
    let fields = [("x-note", &*format!("see {secret}")), ("cookie", &*format!("a={secret}; b=1"))];
    let answer = ask_with(&mut connection, &format!("/headers?q={secret}&z=1"), &fields, "").await;
    let head = origin.seen().heads().pop().unwrap();
    let all = format!("{} {:?}", head.uri, head.headers);
    assert!(!all.contains(&secret), "{all}");
    assert_eq!(all.matches("ghp_WEIR").count(), 3, "{all}");
    // not in an answer's head, but in its body
    assert_eq!(answer.status(), 200);
    drop(connection);
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&secret]);
}

#[tokio::test]
async fn trailers_pass_and_are_looked_into() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, _origin) = masking().await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-check", HeaderValue::from_str(&token()).unwrap());
        let pieces = [Bytes::from("one "), Bytes::from(token()), Bytes::from(" two")];
        let body = weir_tests::origin::body::Frames::new(pieces, Some(trailers)).boxed();
        let mut request = client::request(connection.is_h2(), "POST", NAME, "/echo", body).unwrap();
        for (name, value) in
            [("trailer", "x-check"), ("te", "trailers"), ("content-type", "text/plain")]
        {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let response = connection.send(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let check = trailers.get("x-check").unwrap().to_str().unwrap();
        assert!(check.starts_with("ghp_WEIR"), "{alpn}: {check}");
        assert_eq!(collected.to_bytes(), format!("one {} two", token()), "{alpn}");
        drop(connection);
        nothing_recorded(&gateway.shutdown().await, &[&token()]);
    }
}

#[tokio::test]
async fn a_body_without_secrets_passes_byte_for_byte() {
    let (gateway, _origin) = masking().await;
    let mut connection = gateway.https(&["h2"]).await.unwrap();
    for (content_type, body) in [
        (
            "application/json",
            " {\"a\" : 1.0e400, \"a\":\"\\u00e9\", \"n\": 12345678901234567890}\n",
        ),
        ("application/octet-stream", "\u{0}\u{1}\u{ff}\u{10ffff}"),
        ("text/plain", ""),
    ] {
        let fields = [("content-type", content_type)];
        let answer = ask_with(&mut connection, "/echo", &fields, body).await;
        assert_eq!(answer.body(), body, "{content_type}");
    }
    drop(connection);
    let recorded = gateway.shutdown().await;
    assert!(recorded.exchanges.iter().all(|row| row.text("outcome") == "ok"));
}
