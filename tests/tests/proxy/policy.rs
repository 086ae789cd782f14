//! What may pass: per flow and per request.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_gateway::config::FlowRule;
use weir_tests::gateway::{DST, NAME, PLAIN};
use weir_tests::origin::raw::Step;

use crate::wire::{
    https_origin, https_origin_with, plain_origin, raw_origin_with, rest, rest_text, say, until,
};

#[tokio::test]
async fn a_request_for_another_host_is_421_on_every_request() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, origin) = https_origin(&[alpn]).await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let other_port = format!("{NAME}:8443");
        let upper = NAME.to_uppercase();
        let same_port = format!("{NAME}:443");
        for (host, path, status) in [
            (NAME, "/status/200", 200),
            ("evil.test", "/evil", 421),
            (&*upper, "/status/201", 201),
            (&*other_port, "/port", 421),
            (&*same_port, "/status/202", 202),
        ] {
            let answer = connection.get(host, path).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{host} over {alpn}");
            if status == 421 {
                let text = String::from_utf8_lossy(answer.body()).into_owned();
                assert!(text.contains("rule: sni-is-host"), "{text}");
            }
        }
        drop(connection);
        assert_eq!(origin.seen().requests(), 3, "nothing of a refused request reaches upstream");
        assert_eq!(gateway.metrics().outcome_count("misdirected"), 2);
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.flow().number("exchanges"), 5);
        let evil = recorded.at("/evil");
        assert_eq!((evil.text("outcome"), evil.text("decision")), ("misdirected", "deny"));
        assert_eq!((evil.text("rule_id"), evil.text("dst_host")), ("sni-is-host", "evil.test"));
        assert_eq!((evil.number("status"), evil.text("fault")), (421, "policy"));
        assert_eq!(evil.text("upstream_proto"), "");
    }
}

#[tokio::test]
async fn plain_http_can_be_refused() {
    let (gateway, origin) = plain_origin(|c| c.policy.plain_http = FlowRule::Refuse).await;
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, "GET / HTTP/1.1\r\nHost: o.test\r\n\r\n").await;
    assert_eq!(rest_text(&mut client).await, "");
    gateway.quiet().await;
    assert_eq!(origin.seen().tcp_connections(), 0);
    let recorded = gateway.shutdown().await;
    let row = recorded.flow();
    assert_eq!((row.text("outcome"), row.text("mode")), ("plain_http_refused", "refused"));
    assert_eq!((row.text("fault"), row.number("up_bytes")), ("policy", 32));
    assert_eq!(recorded.metrics.outcome_count("plain_http_refused"), 1);
}

#[tokio::test]
async fn opaque_traffic_is_refused_by_default() {
    let script = vec![Step::text("220 hello\r\n"), Step::Echo];
    let (gateway, origin) =
        raw_origin_with(script, |c| c.gateway.handshake_timeout = Duration::from_millis(150)).await;
    for first in
        ["SSH-2.0-test\r\n", "\x00\x01binary", "get / http/1.1\r\n\r\n", "GET  / HTTP/1.1\r\n"]
    {
        let mut client = gateway.tcp(PLAIN).await.unwrap();
        say(&mut client, first).await;
        assert_eq!(rest(&mut client).await, b"", "{first:?}");
    }
    gateway.quiet().await;
    assert_eq!(gateway.metrics().outcome_count("opaque_refused"), 4);
    // a protocol in which the server speaks first: silence until the deadline
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    gateway.quiet().await;
    assert!(origin.received().is_empty(), "nothing was dialled");
    let recorded = gateway.shutdown().await;
    let outcomes: Vec<_> = recorded.flows.iter().map(|row| row.text("outcome")).collect();
    assert_eq!(outcomes[..4], ["opaque_refused"; 4]);
    assert_eq!(outcomes[4], "client_stalled");
    assert!(recorded.flows.iter().all(|row| row.text("mode") == "refused"));
}

#[tokio::test]
async fn opaque_traffic_is_forwarded_when_configured() {
    let script = vec![Step::text("220 hello\r\n"), Step::Echo];
    let (gateway, origin) =
        raw_origin_with(script, |c| c.policy.opaque_tcp = FlowRule::Forward).await;
    // the client speaks first
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    say(&mut client, "SSH-2.0-test\r\n").await;
    assert_eq!(until(&mut client, "test\r\n").await, "220 hello\r\nSSH-2.0-test\r\n");
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "the half-close came through");
    // the server speaks first
    let mut client = gateway.tcp(PLAIN).await.unwrap();
    assert_eq!(until(&mut client, "\r\n").await, "220 hello\r\n");
    say(&mut client, "EHLO x\r\n").await;
    assert_eq!(until(&mut client, "\r\n").await, "EHLO x\r\n");
    drop(client);
    gateway.quiet().await;
    assert_eq!(origin.received(), [b"SSH-2.0-test\r\n".to_vec(), b"EHLO x\r\n".to_vec()]);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flows.len(), 2);
    let rows = recorded.flows.iter().zip([(14, 25), (8, 19)]);
    for (row, (up, down)) in rows {
        assert_eq!((row.text("mode"), row.text("outcome")), ("opaque", "ok"), "{row:?}");
        assert_eq!((row.number("up_bytes"), row.number("down_bytes")), (up, down));
    }
}

#[tokio::test]
async fn tls_that_carries_no_http_is_opaque() {
    for (rule, outcome) in [(FlowRule::Refuse, "opaque_refused"), (FlowRule::Forward, "ok")] {
        let (gateway, origin) =
            https_origin_with(&["postgresql"], |c| c.policy.opaque_tcp = rule).await;
        let config = std::sync::Arc::unwrap_or_clone(gateway.ca.client_config(&["postgresql"]));
        let tried = gateway.tls(DST, NAME, config).await;
        match (rule, tried) {
            (FlowRule::Refuse, Err(error)) => {
                assert!(format!("{error:#}").contains("AccessDenied"), "{error:#}");
            }
            (FlowRule::Forward, Ok(mut stream)) => {
                stream.shutdown().await.unwrap();
                assert_eq!(rest(&mut stream).await, b"");
            }
            (rule, tried) => panic!("{rule:?}: {tried:?}"),
        }
        gateway.quiet().await;
        assert_eq!(origin.seen().tcp_connections(), u64::from(rule == FlowRule::Forward));
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.flow().text("outcome"), outcome);
        assert_eq!(recorded.flow().text("sni"), NAME);
    }
}

#[tokio::test]
async fn a_connection_without_capture_record_is_closed_and_counted() {
    let (gateway, origin) = plain_origin(|_| {}).await;
    let mut client = gateway.uncaptured().await.unwrap();
    drop(client.write_all(b"GET / HTTP/1.1\r\nHost: o.test\r\n\r\n").await);
    assert_eq!(rest(&mut client).await, b"");
    gateway.until("the count", |m| m.outcome_count("no_capture_record") == 1).await;
    assert_eq!(origin.seen().tcp_connections(), 0);
    let recorded = gateway.shutdown().await;
    assert!(recorded.flows.is_empty());
    assert_eq!(recorded.counter("flows_total"), 1);
}
