//! The harness must be right before it can judge anything.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::body::Frames;
use super::raw::{RawOrigin, Step};
use super::{ALPN, Options, Origin, git, routes};
use crate::ca::{Flaw, TestCa};
use crate::client::{self, Connection, empty, full};
use crate::pattern;

const NAME: &str = "api.origin.test";

async fn connect(ca: &TestCa, origin: &Origin, alpn: &str) -> Connection {
    Connection::https(origin.addr(), NAME, ca.client_config(&[alpn])).await.unwrap()
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn both_protocols_serve_every_kind_of_body() {
    let ca = TestCa::new("weir test CA");
    let origin = Origin::start(&ca, &[NAME]).await;
    for alpn in ALPN {
        let mut connection = connect(&ca, &origin, alpn).await;
        assert_eq!(connection.is_h2(), alpn == "h2");
        let plain = connection.get(NAME, "/bytes/1000000").await.unwrap();
        assert_eq!(plain.body(), &pattern::bytes(1_000_000));
        let chunked = connection.get(NAME, "/bytes/5000?chunked=1&chunk=7").await.unwrap();
        assert_eq!(chunked.headers().get("content-length"), None);
        assert_eq!(chunked.body(), &pattern::bytes(5000));
        let echoed = connection.post(NAME, "/echo", full(pattern::bytes(70_000))).await.unwrap();
        assert_eq!(echoed.body(), &pattern::bytes(70_000));
        let pieces = [pattern::slice(0, 1000), pattern::slice(1000, 1000)];
        let body = Frames::new(pieces, None).boxed();
        let sunk = connection.post(NAME, "/sink", body).await.unwrap();
        assert_eq!(json(sunk.body())["sha256"], pattern::sha256(2000));
        let gzip = connection.get(NAME, "/gzip?size=300").await.unwrap();
        let mut text = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&gzip.body()[..]);
        std::io::Read::read_to_end(&mut decoder, &mut text).unwrap();
        assert_eq!(text, routes::gzip_text(300));
        let status = connection.get(NAME, "/status/418").await.unwrap();
        assert_eq!(status.status(), StatusCode::IM_A_TEAPOT);
        let events = connection.get(NAME, "/sse?events=3&gap_ms=1").await.unwrap();
        assert_eq!(events.body().windows(5).filter(|five| five == b"data:").count(), 3);
        let mut request =
            client::request(connection.is_h2(), "GET", NAME, "/trailers", empty()).unwrap();
        // without it hyper sends no trailers in HTTP/1
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let response = connection.send(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let sum = collected.trailers().and_then(|trailers| trailers.get("x-sum"));
        assert_eq!(sum.unwrap(), "10");
        connection.get(NAME, "/abort/2000?of=9000").await.unwrap_err();
    }
    assert_eq!(origin.seen().tls_connections(), 2);
    assert_eq!(origin.seen().heads().first().unwrap().sni.as_deref(), Some(NAME));
}

#[tokio::test]
async fn flawed_leaves_are_refused_by_a_client_that_verifies() {
    let ca = TestCa::new("weir test CA");
    let flaws =
        [Flaw::Expired, Flaw::NotYetValid, Flaw::SelfSigned, Flaw::WrongName, Flaw::UnknownCa];
    for flaw in flaws {
        let origin = Origin::flawed(&ca, &[NAME], flaw).await;
        let result = client::tls(origin.addr(), NAME, ca.client_config(&[])).await;
        assert!(result.is_err(), "{flaw:?} was accepted");
    }
}

#[tokio::test]
async fn upgraded_connections_echo() {
    let ca = TestCa::new("weir test CA");
    let origin = Origin::start(&ca, &[NAME]).await;
    let upgrades = [
        ("echo", &b"hello"[..], &b"hello"[..]),
        (
            "websocket",
            // "Hi" under the mask 1, 2, 3, 4
            &[0x81, 0x82, 1, 2, 3, 4, b'H' ^ 1, b'i' ^ 2],
            &[0x81, 2, b'H', b'i'],
        ),
    ];
    for (protocol, sent, expected) in upgrades {
        let mut connection = connect(&ca, &origin, "http/1.1").await;
        let request = Request::get(if protocol == "echo" { "/upgrade" } else { "/ws" })
            .header("host", NAME)
            .header("connection", "upgrade")
            .header("upgrade", protocol)
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(empty())
            .unwrap();
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        if protocol == "websocket" {
            // the example of RFC 6455 section 1.3
            assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        }
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let mut io = hyper_util::rt::TokioIo::new(upgraded);
        io.write_all(sent).await.unwrap();
        let mut back = vec![0; expected.len()];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(back, expected);
    }
}

#[tokio::test]
async fn raw_origin_follows_its_script() {
    let script = vec![Step::ReadHead, Step::text("HTTP/1.1 200 OK\r\n\r\nuntil close")];
    let origin = RawOrigin::start(None, script).await;
    let mut connection = Connection::http(origin.addr()).await.unwrap();
    let response = connection.get("raw.test", "/x").await.unwrap();
    assert_eq!(response.body(), &Bytes::from("until close"));
    assert!(origin.received()[0].starts_with(b"GET /x HTTP/1.1\r\n"));
}

fn git(directory: &Path, home: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
        // libcurl 7.88.1 (Debian 12) stalls in chunked uploads over HTTP/2
        .args(["-c", "http.version=HTTP/1.1"])
        .args(arguments)
        .env("HOME", home)
        .env("GIT_SSL_CAINFO", home.join("ca.pem"))
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_pushes() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let ca = TestCa::new("weir test CA");
    ca.write(home, "ca");
    let root = home.join("repositories");
    std::fs::create_dir(&root).unwrap();
    git::create_repository(&root, "demo.git").unwrap();
    let tls = Some(ca.server_config(&["localhost"], Flaw::None, &ALPN));
    let options = Options { tls, git_root: Some(root.clone()), ..Options::default() };
    let origin = Origin::with(options).await.unwrap();
    let url = format!("https://localhost:{}/git/demo.git", origin.addr().port());
    git(home, home, &["clone", "--quiet", &url, "work"]);
    let work = home.join("work");
    // above 1 MiB git sends the pack in chunks
    std::fs::write(work.join("large"), pattern::bytes(3 << 20)).unwrap();
    git(&work, home, &["add", "large"]);
    git(&work, home, &["commit", "--quiet", "-m", "add a file"]);
    git(&work, home, &["push", "--quiet", "origin", "HEAD:main"]);
    git(home, home, &["clone", "--quiet", "--branch=main", &url, "again"]);
    let again = std::fs::read(home.join("again/large")).unwrap();
    assert_eq!(again, pattern::bytes(3 << 20));
}
