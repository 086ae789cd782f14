//! Bounds: connections, the spool, the end of the gateway.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use weir_tests::client::{empty, full};
use weir_tests::gateway::{NAME, PLAIN};
use weir_tests::pattern;

use crate::wire::{https_origin, https_origin_with, plain_origin, rest, say, talk, until};

const ASK: &[u8] = b"GET /status/200 HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let (gateway, _origin) = plain_origin(|c| c.gateway.max_connections = 2).await;
    let first = gateway.tcp(PLAIN).await.unwrap();
    let _second = gateway.tcp(PLAIN).await.unwrap();
    gateway.until("two flows", |m| m.flows_active.value() == 2).await;
    let mut third = gateway.tcp(PLAIN).await.unwrap();
    assert_eq!(rest(&mut third).await, b"");
    assert_eq!(gateway.metrics().flows_over_limit_total.value(), 1);
    drop(first);
    gateway.until("one flow", |m| m.flows_active.value() == 1).await;
    assert!(talk(&gateway, PLAIN, ASK).await.starts_with("HTTP/1.1 200"));
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("flows_total"), 4);
    assert_eq!(recorded.flows.len(), 3);
}

#[tokio::test]
async fn a_full_spool_refuses_flows_and_exchanges() {
    let (gateway, origin) = https_origin_with(&["http/1.1"], |c| {
        // the last 5 % must hold the rows of one nap of the writer, the last 30 % those of
        // `limits::MAX_MASKING`
        c.spool.max_segment_bytes = 1 << 20;
        c.spool.max_bytes = 6 << 20;
    })
    .await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let mut refused = None;
    for _ in 0..10_000 {
        let body = full(pattern::bytes(30_000));
        let answer = connection.post(NAME, "/sink", body).await.unwrap();
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the spool fills up");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let before = origin.seen().requests();
    // a new flow does not even begin
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    assert_eq!(origin.seen().requests(), before);
    assert!(gateway.metrics().flows_unrecordable_total.value() >= 1);
    assert!(gateway.metrics().outcome_count("spool_full") >= 2);
    drop(connection);
    let recorded = gateway.shutdown().await;
    assert!(recorded.counter("record_bodies_dropped") > 0, "bodies go before rows do");
    assert_eq!(recorded.exchanges.len() as u64, before, "what was forwarded is recorded");
}

#[tokio::test]
async fn shutdown_waits_for_an_open_exchange() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, _origin) = https_origin(&[alpn]).await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let path = "/bytes/40?chunked=1&chunk=10&gap_ms=100";
        let response = connection.request("GET", NAME, path, empty()).await.unwrap();
        let shutdown = tokio::spawn(gateway.shutdown());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, pattern::bytes(40));
        let recorded = shutdown.await.unwrap();
        assert_eq!(recorded.exchange().text("outcome"), "ok");
        assert_eq!(recorded.flow().text("outcome"), "ok");
    }
}

#[tokio::test]
async fn the_drain_deadline_cuts_and_says_so() {
    let (gateway, origin) =
        plain_origin(|c| c.gateway.drain_timeout = Duration::from_millis(100)).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, "GET /hang HTTP/1.1\r\nHost: o.test\r\n\r\n").await;
    while origin.seen().requests() == 0 {
        tokio::task::yield_now().await;
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let row = recorded.exchange();
    assert_eq!((row.text("outcome"), row.text("fault")), ("gateway_stopped", "internal"));
    assert_eq!(recorded.metrics.outcome_count("gateway_stopped"), 1);
    assert_eq!(recorded.flows.len(), 1);
}

#[tokio::test]
async fn idle_connections_end_at_their_deadline() {
    let (gateway, _origin) =
        plain_origin(|c| c.gateway.idle_timeout = Duration::from_millis(100)).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, "GET /hang HTTP/1.1\r\nHost: o.test\r\n\r\n").await;
    assert_eq!(rest(&mut client).await, b"");
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flow().text("outcome"), "idle_timeout");
    assert_eq!(recorded.exchange().text("outcome"), "client_closed");
}

#[tokio::test]
async fn a_kept_alive_connection_that_waits_too_long_ends_quietly() {
    let (gateway, _origin) =
        plain_origin(|c| c.gateway.head_timeout = Duration::from_millis(100)).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, "GET /status/200 HTTP/1.1\r\nHost: o.test\r\n\r\n").await;
    until(&mut client, "\r\n\r\n").await;
    assert_eq!(rest(&mut client).await, b"");
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("outcome"), "ok");
    assert_eq!(recorded.flow().text("outcome"), "ok");
    assert_eq!(recorded.metrics.outcome_count("head_timeout"), 0);
}
