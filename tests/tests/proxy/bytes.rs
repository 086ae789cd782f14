//! Every byte arrives, in any size and any chunking, and the record says so.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use weir_tests::client::{Connection, empty};
use weir_tests::gateway::{NAME, TestGateway};
use weir_tests::origin::body::{Frames, Pattern};
use weir_tests::pattern::{self, Checker};

use crate::wire::{https_origin, https_origin_with};

const SIZES: [u64; 7] = [0, 1, 16_383, 16_384, 16_385, 1 << 20, 64 << 20];
const CAP: u64 = 1 << 20;

/// xorshift, so that every run has the same chunks.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

async fn download(connection: &mut Connection, size: u64, chunked: u8, chunk: u64) {
    let path = format!("/bytes/{size}?chunked={chunked}&chunk={chunk}");
    let response = connection.request("GET", NAME, &path, empty()).await.unwrap();
    let mut body = response.into_body();
    let mut checker = Checker::default();
    while let Some(frame) = body.frame().await {
        checker.update(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!((checker.length(), checker.first_wrong()), (size, None), "{path}");
}

async fn upload(connection: &mut Connection, size: u64, known: bool, chunk: u64) {
    let body = Pattern::new(size, chunk, known).boxed();
    let answer = connection.post(NAME, "/sink", body).await.unwrap();
    let seen: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(
        (seen["bytes"].as_u64(), &seen["sha256"]),
        (Some(size), &pattern::sha256(size).into())
    );
}

async fn check(gateway: TestGateway, protocol: &str) {
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), SIZES.len() * 4);
    for (four, size) in recorded.exchanges.chunks(4).zip(SIZES) {
        let state = match size {
            0 => "none",
            1..=CAP => "full",
            _ => "truncated",
        };
        let kept = usize::try_from(size.min(CAP)).unwrap();
        for row in four {
            let (bytes, sha, body, dir) = match row.text("method") {
                "GET" => ("resp_bytes", "resp_sha256", "resp_body", "response"),
                _ => ("req_bytes", "req_sha256", "req_body", "request"),
            };
            assert_eq!((row.text("outcome"), row.text("proto")), ("ok", protocol));
            assert_eq!((row.number(bytes), row.text(body)), (size, state), "{row:?}");
            assert_eq!(row.text(sha), pattern::sha256(size));
            assert_eq!(recorded.body(row, dir), pattern::bytes(kept));
        }
    }
    assert_eq!(recorded.counter("record_bodies_dropped"), 0);
}

async fn all_sizes(alpn: &'static str, protocol: &str) {
    let (gateway, _origin) = https_origin(&[alpn]).await;
    let mut connection = gateway.https(&[alpn]).await.unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for size in SIZES {
        // at most some 30,000 chunks per body
        let least = size / 30_000;
        let mut chunk = || 1 + least + random.below(100_000);
        download(&mut connection, size, 0, chunk()).await;
        download(&mut connection, size, 1, chunk()).await;
        upload(&mut connection, size, true, chunk()).await;
        upload(&mut connection, size, false, chunk()).await;
    }
    drop(connection);
    check(gateway, protocol).await;
}

#[tokio::test]
async fn every_size_over_http1() {
    all_sizes("http/1.1", "h1").await;
}

#[tokio::test]
async fn every_size_over_http2() {
    all_sizes("h2", "h2").await;
}

#[tokio::test]
async fn any_chunking_is_one_stream() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, _origin) = https_origin(&[alpn]).await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let mut random = Random(0x9e37_79b9);
        for round in 0..40 {
            let size = random.below(60_000);
            let (mut chunks, mut at) = (Vec::new(), 0);
            while at < size {
                let most = if round % 2 == 0 { 40 } else { 20_000 };
                let piece = pattern::slice(at, (1 + random.below(most)).min(size - at));
                at += piece.len() as u64;
                chunks.push(piece);
            }
            let answer = connection.post(NAME, "/echo", Frames::new(chunks, None).boxed()).await;
            let whole = pattern::bytes(usize::try_from(size).unwrap());
            assert_eq!(answer.unwrap().body(), &whole, "round {round} over {alpn}");
        }
        drop(connection);
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.exchanges.len(), 40);
        for row in &recorded.exchanges {
            assert_eq!(row.text("outcome"), "ok");
            assert_eq!(row.text("req_sha256"), row.text("resp_sha256"));
            assert_eq!(row.text("req_sha256"), pattern::sha256(row.number("req_bytes")));
            assert_eq!(recorded.body(row, "request"), recorded.body(row, "response"));
        }
    }
}

#[tokio::test]
async fn bodies_are_not_kept_when_told_so() {
    let (gateway, _origin) = https_origin_with(&["h2"], |c| c.record.max_body_bytes = 0).await;
    let mut connection = gateway.https(&["h2"]).await.unwrap();
    upload(&mut connection, 5000, true, 1000).await;
    drop(connection);
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!((row.text("req_body"), row.number("req_bytes")), ("none", 5000));
    assert_eq!(row.text("req_sha256"), pattern::sha256(5000));
    assert!(recorded.bodies.is_empty());
}

#[tokio::test]
async fn bodies_beyond_the_memory_budget_are_dropped_and_still_forwarded() {
    let (gateway, _origin) =
        https_origin_with(&["h2"], |c| c.record.max_memory_bytes = 10_000).await;
    let mut connection = gateway.https(&["h2"]).await.unwrap();
    download(&mut connection, 100_000, 0, 4000).await;
    drop(connection);
    let recorded = gateway.shutdown().await;
    let row = recorded.exchange();
    assert_eq!((row.text("resp_body"), row.number("resp_bytes")), ("dropped", 100_000));
    assert_eq!(row.text("resp_sha256"), pattern::sha256(100_000));
    assert_eq!(recorded.body(row, "response"), Bytes::new());
}
