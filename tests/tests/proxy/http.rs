//! HTTP semantics: what must pass unchanged, and what must not be added.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use weir_tests::client::{self, empty, full};
use weir_tests::gateway::{NAME, PLAIN};
use weir_tests::origin::body::Frames;
use weir_tests::origin::raw::Step;
use weir_tests::origin::routes;
use weir_tests::pattern;

use crate::wire::{
    https_origin, plain_origin, raw_origin, raw_tls_origin, rest_text, say, talk, until,
};

#[tokio::test]
async fn get_and_post_over_every_pair_of_protocols() {
    let both = ["h2", "http/1.1"];
    let cases: [(&[&str], &[&str], &str, &str); 5] = [
        (&["http/1.1"], &both, "h1", "h1"),
        (&["http/1.1"], &["http/1.1"], "h1", "h1"),
        (&both, &both, "h2", "h2"),
        (&both, &["http/1.1"], "h1", "h1"),
        (&["h2"], &["http/1.1"], "h2", "h1"),
    ];
    for (client_alpn, origin_alpn, down, up) in cases {
        let (gateway, origin) = https_origin(origin_alpn).await;
        let mut connection = gateway.https(client_alpn).await.unwrap();
        assert_eq!(connection.is_h2(), down == "h2", "{client_alpn:?} {origin_alpn:?}");
        let got = connection.get(NAME, "/bytes/3000?a=1").await.unwrap();
        assert_eq!(got.status(), StatusCode::OK);
        assert_eq!(got.body(), &pattern::bytes(3000));
        let posted = connection.post(NAME, "/echo", full(pattern::bytes(5000))).await.unwrap();
        assert_eq!(posted.body(), &pattern::bytes(5000));
        let chunked = connection.get(NAME, "/bytes/5000?chunked=1&chunk=7").await.unwrap();
        assert_eq!(chunked.headers().get("content-length"), None);
        assert_eq!(chunked.body(), &pattern::bytes(5000));
        drop(connection);
        gateway.quiet().await;
        // one connection, opened before the handshake to learn the protocol, took all three
        assert_eq!(gateway.metrics().upstream_connections_total.value(), 1);
        assert_eq!(origin.seen().tls_connections(), 1);
        assert_eq!(origin.seen().requests(), 3);
        let recorded = gateway.shutdown().await;
        let flow = recorded.flow();
        assert_eq!((flow.text("mode"), flow.text("outcome")), ("terminated", "ok"));
        assert_eq!(flow.text("alpn"), if down == "h2" { "h2" } else { "http/1.1" });
        assert_eq!((flow.text("sni"), flow.number("exchanges")), (NAME, 3));
        assert_eq!(recorded.exchanges.len(), 3);
        for row in &recorded.exchanges {
            assert_eq!((row.text("proto"), row.text("upstream_proto")), (down, up));
            assert_eq!((row.text("outcome"), row.text("decision")), ("ok", "allow"));
            assert_eq!((row.text("scheme"), row.text("dst_host")), ("https", NAME));
            assert_eq!(row.text("flow_id"), flow.text("flow_id"));
            assert_eq!(row.number("status"), 200);
            assert_eq!(row.text("process"), "proxy-test");
        }
        let post = recorded.at("/echo");
        assert_eq!((post.text("method"), post.number("req_bytes")), ("POST", 5000));
        assert_eq!(post.text("req_sha256"), pattern::sha256(5000));
        assert_eq!(recorded.body(post, "request"), pattern::bytes(5000));
        let get = recorded.at("/bytes/3000");
        assert_eq!(get.text("query_masked"), "a=1");
        assert_eq!(recorded.body(get, "response"), pattern::bytes(3000));
        assert_eq!(recorded.counter("exchanges_total"), 3);
    }
}

#[tokio::test]
async fn bodiless_answers_keep_their_fields() {
    let (gateway, _origin) = https_origin(&["h2", "http/1.1"]).await;
    for alpn in ["http/1.1", "h2"] {
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        for (method, path, status) in [
            ("HEAD", "/bytes/777", 200),
            ("GET", "/status/204", 204),
            ("GET", "/status/304", 304),
            ("GET", "/status/418", 418),
        ] {
            let response = connection.request(method, NAME, path, empty()).await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            if method == "HEAD" {
                assert_eq!(response.headers()["content-length"], "777");
            }
            if status == 204 {
                assert_eq!(response.headers().get("content-length"), None);
                assert_eq!(response.headers().get("transfer-encoding"), None);
            }
            for absent in ["via", "server", "x-weir-request"] {
                assert_eq!(response.headers().get(absent), None);
            }
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), 8);
    for row in &recorded.exchanges {
        assert_eq!(row.text("outcome"), "ok", "{row:?}");
    }
    assert!(recorded.exchanges.iter().all(|row| row.text("resp_body") == "none"));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for (client_alpn, origin_alpn) in
        [("http/1.1", "http/1.1"), ("h2", "h2"), ("h2", "http/1.1"), ("http/1.1", "http/1.1")]
    {
        let (gateway, _origin) = https_origin(&[origin_alpn]).await;
        let mut connection = gateway.https(&[client_alpn]).await.unwrap();
        let h2 = connection.is_h2();
        let mut request = client::request(h2, "GET", NAME, "/trailers", empty()).unwrap();
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let response = connection.send(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        assert_eq!(trailers.get("x-sum").unwrap(), "10", "{client_alpn} {origin_alpn}");
        assert_eq!(collected.to_bytes(), "0123456789");

        let mut sent = HeaderMap::new();
        sent.insert("x-check", HeaderValue::from_static("abc"));
        let body = Frames::new([Bytes::from("one"), Bytes::from("two")], Some(sent)).boxed();
        let mut request = client::request(h2, "POST", NAME, "/sink", body).unwrap();
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-check"));
        let response = connection.send(request).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let seen: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(seen["bytes"], 6);
        assert_eq!(seen["trailers"]["x-check"][0], "abc", "{client_alpn} {origin_alpn}");
        drop(connection);
        let recorded = gateway.shutdown().await;
        for row in &recorded.exchanges {
            assert_eq!(row.text("outcome"), "ok", "{row:?}");
        }
        assert_eq!(recorded.at("/sink").number("req_bytes"), 6);
    }
}

#[tokio::test]
async fn gzip_is_left_as_it_is_and_recorded_decoded() {
    let (gateway, _origin) = https_origin(&["http/1.1"]).await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let response = connection.get(NAME, "/gzip?size=10000").await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.body(), &routes::gzip_encode(&routes::gzip_text(10_000)));
    drop(connection);
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!(recorded.body(row, "response"), routes::gzip_text(10_000));
    let packed = routes::gzip_encode(&routes::gzip_text(10_000));
    assert_eq!(row.number("resp_bytes"), packed.len() as u64, "what passed");
    let body = &recorded.bodies[0];
    assert_eq!(body.text("content_encoding"), "");
    assert_eq!(body.text("content_type"), "text/plain");
}

#[tokio::test]
async fn heads_pass_with_their_case_and_repeats_and_nothing_is_added() {
    let answer = "HTTP/1.1 200 Fine\r\nX-CamelCase: 1\r\nSet-Cookie: a=1\r\nset-COOKIE: b=2\r\n\
                  Content-Length: 2\r\n\r\nok";
    let (gateway, origin) = raw_origin(vec![Step::ReadHead, Step::text(answer)]).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    let sent = "GET /p?x=%20 HTTP/1.1\r\nHost: raw.test\r\nX-MiXed: 1\r\nx-mixed: 2\r\n\
                User-Agent: t\r\n\r\n";
    say(&mut client, sent).await;
    let got = until(&mut client, "\r\n\r\nok").await;
    assert_eq!(got, answer, "the client's view");
    drop(client);
    let seen = String::from_utf8(origin.received()[0].clone()).unwrap();
    assert_eq!(seen, sent, "the origin's view");
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!(row.field("resp_headers", "set-cookie"), ["a=[masked]", "b=[masked]"]);
    assert_eq!(row.field("req_headers", "x-mixed"), ["1", "2"]);
    assert_eq!(row.text("dst_host"), "raw.test");
    assert_eq!(recorded.flow().text("mode"), "plain");
}

#[tokio::test]
async fn keep_alive_and_pipelining_use_one_upstream_connection() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    let one = "GET /bytes/3 HTTP/1.1\r\nHost: o.test\r\n\r\n";
    let last = "GET /status/418 HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";
    say(&mut client, &format!("{one}{one}{one}{last}")).await;
    let got = rest_text(&mut client).await;
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 3, "{got}");
    assert_eq!(got.matches("HTTP/1.1 418").count(), 1, "{got}");
    gateway.quiet().await;
    assert_eq!(origin.seen().tcp_connections(), 1);
    assert_eq!(gateway.metrics().upstream_reused_total.value(), 3);
    // another flow of the same destination finds it too
    let got = talk(&gateway, PLAIN, last.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 418"), "{got}");
    assert_eq!(origin.seen().tcp_connections(), 1);
    let recorded = gateway.shutdown().await;
    assert_eq!((recorded.flows.len(), recorded.exchanges.len()), (2, 5));
}

#[tokio::test]
async fn http10_clients_get_a_body_that_ends_with_the_connection() {
    let (gateway, _origin) = plain_origin(|_| {}).await;
    let request = b"GET /bytes/500?chunked=1 HTTP/1.0\r\nHost: o.test\r\n\r\n";
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, std::str::from_utf8(request).unwrap()).await;
    let got = crate::wire::rest(&mut client).await;
    let head = String::from_utf8_lossy(&got[..got.len() - 500]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(got[got.len() - 500..], pattern::bytes(500));
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("outcome"), "ok");
}

#[tokio::test]
async fn expect_100_continue_gets_its_100() {
    let (gateway, _origin) = plain_origin(|_| {}).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(
        &mut client,
        "POST /sink HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
         Connection: close\r\n\r\n",
    )
    .await;
    let interim = until(&mut client, "\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    say(&mut client, "hello").await;
    let got = rest_text(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 200") && got.contains("\"bytes\":5"), "{got}");
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().number("req_bytes"), 5);
}

#[tokio::test]
async fn interim_answers_do_not_disturb_the_final_one() {
    let script = vec![
        Step::ReadHead,
        Step::text("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        Step::text("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let (gateway, _origin) = raw_origin(script).await;
    let got =
        talk(&gateway, PLAIN, b"GET / HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n").await;
    assert!(got.contains("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nok"), "{got}");
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().number("status"), 200);
}

#[tokio::test]
async fn absolute_form_becomes_origin_form() {
    let (gateway, origin) =
        raw_origin(vec![Step::ReadHead, Step::text("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let request = b"GET http://o.test/a?b HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";
    let got = talk(&gateway, PLAIN, request).await;
    assert!(got.starts_with("HTTP/1.1 204"), "{got}");
    let seen = String::from_utf8(origin.received()[0].clone()).unwrap();
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\nHost: o.test\r\n"), "{seen}");
    let differs = b"GET http://evil.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";
    let got = talk(&gateway, PLAIN, differs).await;
    assert!(got.starts_with("HTTP/1.1 400"), "{got}");
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.at("/").text("outcome"), "bad_authority");
    assert_eq!(recorded.at("/").text("fault"), "downstream");
    assert_eq!(recorded.metrics.outcome_count("bad_authority"), 1);
}

#[tokio::test]
async fn large_heads_and_many_fields_are_431() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let large = format!("GET / HTTP/1.1\r\nHost: o.test\r\nX: {}\r\n\r\n", "a".repeat(200_000));
    let fields: String = (0..120).map(|i| format!("X-{i}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n");
    for request in [large, many] {
        let mut client = gateway.tcp(PLAIN).await.unwrap();
        // the gateway may answer and close before all of it is written
        drop(tokio::io::AsyncWriteExt::write_all(&mut client, request.as_bytes()).await);
        let got = rest_text(&mut client).await;
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 431"), "{got}");
    }
    gateway.quiet().await;
    assert_eq!(origin.seen().requests(), 0);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flows.len(), 2);
    assert!(recorded.flows.iter().all(|row| row.text("outcome") == "malformed_http"));
    assert_eq!(recorded.metrics.outcome_count("malformed_http"), 2);
}

#[tokio::test]
async fn a_head_of_60_kib_and_99_fields_pass() {
    let (gateway, origin) = https_origin(&["h2", "http/1.1"]).await;
    for alpn in ["http/1.1", "h2"] {
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let mut request =
            client::request(connection.is_h2(), "GET", NAME, "/status/200", empty()).unwrap();
        for i in 0..90 {
            let name = http::HeaderName::try_from(format!("x-{i}")).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_static("1"));
        }
        let long = HeaderValue::try_from("a".repeat(10_000)).unwrap();
        request.headers_mut().insert("x-long", long);
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), 200, "{alpn}");
    }
    assert!(origin.seen().heads().iter().all(|head| head.headers["x-long"].len() == 10_000));
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), 2);
}

#[tokio::test]
async fn an_upstream_that_closes_between_requests_is_dialled_again() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (gateway, origin) = raw_tls_origin(vec![Step::ReadHead, Step::text(answer)]).await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    for _ in 0..4 {
        assert_eq!(connection.get(NAME, "/x").await.unwrap().body(), "ok");
    }
    drop(connection);
    assert!(origin.received().len() >= 4);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), 4);
    for row in &recorded.exchanges {
        assert_eq!(row.text("outcome"), "ok", "{row:?}");
    }
}
