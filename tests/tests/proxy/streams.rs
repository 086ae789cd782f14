//! Streams that last: events, broken-off bodies, upgraded connections.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use weir_tests::ca::{Flaw, TestCa};
use weir_tests::client::{self, empty};
use weir_tests::gateway::{DST, NAME, PLAIN, TestGateway};
use weir_tests::origin::body::Pattern;

use crate::wire::{PATIENCE, https_origin, plain_origin, rest_text, say, talk, until};

/// A body that ends when its sender is dropped.
struct Fed(mpsc::Receiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// An HTTPS origin whose one answer is fed by hand.
async fn fed_origin(ca: &TestCa, alpn: &'static str) -> (SocketAddr, mpsc::Sender<Bytes>) {
    let tls = TlsAcceptor::from(ca.server_config(&[NAME], Flaw::None, &[alpn]));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (feed, fed) = mpsc::channel(1);
    let fed = Arc::new(Mutex::new(Some(Fed(fed))));
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let io = TokioIo::new(tls.accept(tcp).await.unwrap());
        let service = service_fn(move |_: Request<Incoming>| {
            let body = fed.lock().unwrap().take().expect("one request");
            let response = Response::builder().header("content-type", "text/event-stream");
            std::future::ready(response.body(body))
        });
        if alpn == "h2" {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(io, service).await);
        } else {
            drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
        }
    });
    (addr, feed)
}

#[tokio::test]
async fn events_pass_one_by_one() {
    for alpn in ["http/1.1", "h2"] {
        let ca = TestCa::new("weir test CA");
        let (addr, feed) = fed_origin(&ca, alpn).await;
        let gateway = TestGateway::start(ca, |_| {}, &[(DST, addr)]);
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let response = connection.request("GET", NAME, "/events", empty()).await.unwrap();
        let mut body = response.into_body();
        for i in 0..20 {
            let event = Bytes::from(format!("data: {i}\n\n"));
            feed.send(event.clone()).await.unwrap();
            // the next event is not sent before this one is here
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            assert_eq!(frame.unwrap().unwrap().unwrap().into_data().unwrap(), event, "{alpn}");
        }
        drop(feed);
        let end = body.collect().await.unwrap().to_bytes();
        assert!(end.is_empty(), "{end:?}");
        drop(connection);
        let recorded = gateway.shutdown().await;
        let row = recorded.exchange();
        assert_eq!(row.text("outcome"), "ok");
        let (us, bytes) = (row.numbers("chunk_us"), row.numbers("chunk_bytes"));
        assert_eq!((us.len(), bytes.len()), (20, 20));
        assert!(us.is_sorted());
        assert_eq!(bytes[..11], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 10]);
        assert_eq!(row.number("resp_bytes"), 10 * 9 + 10 * 10);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_stream_on_both_sides() {
    for alpn in ["http/1.1", "h2"] {
        let ca = TestCa::new("weir test CA");
        let (addr, feed) = fed_origin(&ca, alpn).await;
        let gateway = TestGateway::start(ca, |_| {}, &[(DST, addr)]);
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let response = connection.request("GET", NAME, "/events", empty()).await.unwrap();
        let mut body = response.into_body();
        // Where a body breaks off, a word could be the beginning of a secret; this cannot.
        feed.send(Bytes::from_static(b"data: !\n\n")).await.unwrap();
        body.frame().await.unwrap().unwrap();
        drop((body, connection));
        tokio::time::timeout(PATIENCE, feed.closed()).await.expect("upstream is told");
        gateway.quiet().await;
        assert_eq!(gateway.metrics().outcome_count("client_closed"), 1, "{alpn}");
        let recorded = gateway.shutdown().await;
        let row = recorded.exchange();
        assert_eq!((row.text("outcome"), row.text("fault")), ("client_closed", "downstream"));
        assert_eq!((row.number("status"), row.number("resp_bytes")), (200, 9));
        assert_eq!(row.text("resp_sha256"), "0".repeat(64), "no digest of a body that did not end");
        assert_eq!(recorded.body(row, "response"), "data: !\n\n");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_is_recorded_so() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, origin) = https_origin(&[alpn]).await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let hang = connection.request("GET", NAME, "/hang", empty());
        let asked = async {
            while origin.seen().requests() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = hang => panic!("answered"),
            () = asked => {}
        }
        drop(connection);
        gateway.quiet().await;
        let recorded = gateway.shutdown().await;
        let row = recorded.exchange();
        assert_eq!((row.text("outcome"), row.number("status")), ("client_closed", 0), "{alpn}");
        assert_eq!(recorded.metrics.outcome_count("client_closed"), 1);
    }
}

#[tokio::test]
async fn a_body_that_upstream_cuts_never_looks_complete() {
    for (down, up) in [("http/1.1", "http/1.1"), ("h2", "h2"), ("h2", "http/1.1")] {
        let (gateway, _origin) = https_origin(&[up]).await;
        let mut connection = gateway.https(&[down]).await.unwrap();
        connection.get(NAME, "/abort/2000?of=9000").await.unwrap_err();
        drop(connection);
        gateway.quiet().await;
        let recorded = gateway.shutdown().await;
        let row = recorded.exchange();
        assert_eq!(
            (row.text("outcome"), row.text("fault")),
            ("response_cut", "upstream"),
            "{down} {up}"
        );
        assert_eq!((row.number("status"), row.number("resp_bytes")), (200, 2000));
        assert_eq!(row.text("resp_sha256"), "0".repeat(64));
        assert_eq!(recorded.metrics.outcome_count("response_cut"), 1);
    }
}

#[tokio::test]
async fn upgraded_connections_are_tunnelled_and_counted() {
    let (gateway, _origin) = https_origin(&["http/1.1"]).await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let mut request = client::request(false, "GET", NAME, "/upgrade", empty()).unwrap();
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "echo")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = connection.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "echo");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for round in 1..=50_usize {
        let sent = weir_tests::pattern::bytes(round * 100);
        io.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(back, sent);
    }
    // the tunnel keeps its place among the open flows
    assert_eq!(gateway.metrics().flows_active.value(), 1);
    io.shutdown().await.unwrap();
    assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0, "the half-close came through");
    drop((io, connection));
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!((row.text("class"), row.text("proto"), row.text("outcome")), ("tunnel", "ws", "ok"));
    assert_eq!((row.number("status"), row.text("upstream_proto")), (101, "h1"));
    assert_eq!((row.number("req_bytes"), row.number("resp_bytes")), (127_500, 127_500));
    let flow = recorded.flow();
    assert!(flow.number("up_bytes") > 127_500 && flow.number("down_bytes") > 127_500, "{flow:?}");
}

#[tokio::test]
async fn an_upgrade_that_upstream_declines_is_an_exchange() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    let ask =
        "GET /status/200 HTTP/1.1\r\nHost: o.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    say(&mut client, ask).await;
    let got = until(&mut client, "\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    assert_eq!(origin.seen().heads()[0].headers["upgrade"], "echo");
    drop(client);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("class"), "http");
}

#[tokio::test]
async fn h2c_is_not_offered_to_upstream() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let ask = "GET /headers HTTP/1.1\r\nHost: o.test\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let got = talk(&gateway, PLAIN, ask.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    let seen = &origin.seen().heads()[0].headers;
    for absent in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.get(absent), None);
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("class"), "http");
}

#[tokio::test]
async fn connect_is_405() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let ask = "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, ask).await;
    client.shutdown().await.unwrap();
    let got = rest_text(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 405") && got.contains("x-weir-request: "), "{got}");
    assert_eq!(origin.seen().tcp_connections(), 0);
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!((row.text("outcome"), row.number("status")), ("connect_refused", 405));
    assert_eq!((row.text("method"), row.text("dst_host")), ("CONNECT", "evil.test"));
    assert_eq!(recorded.metrics.outcome_count("connect_refused"), 1);
}

#[tokio::test]
async fn answers_before_the_end_of_the_request_pass() {
    for (down, up) in [("http/1.1", "http/1.1"), ("h2", "h2"), ("h2", "http/1.1")] {
        let (gateway, _origin) = https_origin(&[up]).await;
        let mut expected = Vec::new();
        for (path, status) in [("/early", 200), ("/refuse-body", 417)] {
            let mut connection = gateway.https(&[down]).await.unwrap();
            let body = Pattern::new(300_000, 10_000, true).boxed();
            let ask = connection.request("POST", NAME, path, body);
            let response = tokio::time::timeout(PATIENCE, ask).await.unwrap().unwrap();
            // An HTTP/1 origin that closes with the body unread resets the connection, which may
            // overtake its answer: then upstream is to blame, in words.
            let overtaken = (status, up, response.status().as_u16()) == (417, "http/1.1", 502);
            let got = response.status().as_u16();
            assert!(got == status || overtaken, "{path} {down} {up}: {got}");
            expected.push((u64::from(got), if overtaken { "upstream_http" } else { "" }));
            let text = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!text.is_empty());
        }
        gateway.quiet().await;
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.exchanges.len(), 2);
        for (row, (status, outcome)) in recorded.exchanges.iter().zip(expected) {
            assert_eq!(row.number("status"), status);
            let usual = ["ok", "request_cut"].contains(&row.text("outcome"));
            assert!(usual || row.text("outcome") == outcome, "{row:?}");
        }
    }
}

#[tokio::test]
async fn a_cancelled_http2_stream_leaves_the_others_alone() {
    for up in ["h2", "http/1.1"] {
        let (gateway, _origin) = https_origin(&[up]).await;
        let mut connection = gateway.https(&["h2"]).await.unwrap();
        let path = "/bytes/100000000?gap_ms=1";
        let response = connection.request("GET", NAME, path, empty()).await.unwrap();
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        for _ in 0..5 {
            assert_eq!(connection.get(NAME, "/bytes/7").await.unwrap().body().len(), 7);
        }
        gateway.until("the cancel", |m| m.outcome_count("client_closed") == 1).await;
        drop(connection);
        let recorded = gateway.shutdown().await;
        let row = recorded.at("/bytes/100000000");
        assert_eq!(row.text("outcome"), "client_closed");
        assert!(row.number("resp_bytes") < 100_000_000);
        // dropping the connection with unread data resets it
        assert!(["ok", "client_connection"].contains(&recorded.flow().text("outcome")), "{up}");
    }
}

#[tokio::test]
async fn a_hundred_streams_at_once_are_a_hundred_rows() {
    for up in ["h2", "http/1.1"] {
        let (gateway, origin) = https_origin(&[up]).await;
        let connection = gateway.https(&["h2"]).await.unwrap();
        let client::Sender::H2(sender) = &connection.sender else { panic!("not HTTP/2") };
        let mut asking = tokio::task::JoinSet::new();
        for i in 0..100 {
            let mut sender = sender.clone();
            let path = format!("/bytes/{}", 1000 + i);
            let request = client::request(true, "GET", NAME, &path, empty()).unwrap();
            asking.spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, weir_tests::pattern::bytes(1000 + i));
            });
        }
        while let Some(done) = asking.join_next().await {
            done.unwrap();
        }
        drop(connection);
        assert_eq!(origin.seen().requests(), 100);
        if up == "h2" {
            assert_eq!(origin.seen().tls_connections(), 1, "streams share one connection");
        }
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.exchanges.len(), 100);
        assert_eq!(recorded.flow().number("exchanges"), 100);
        assert!(recorded.exchanges.iter().all(|row| row.text("outcome") == "ok"));
    }
}
