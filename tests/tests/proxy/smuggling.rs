//! Requests that two parsers may read differently: refused, or written anew without doubt.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use weir_tests::gateway::PLAIN;
use weir_tests::origin::raw::Step;

use crate::wire::{raw_origin, raw_origin_with, rest_text, say, talk};

const TAIL: &str = "GET /SMUGGLED HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// Heads and bodies that must not get a 200, each followed by [`TAIL`].
const REFUSED: [&str; 25] = [
    // framing
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5, 6\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: +5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 0x5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: -1\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    // header lines
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length : 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nX: a\r\n folded\r\n\r\n",
    "GET / HTTP/1.1\r\n Host: o.test\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nX: a\0b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nX\0Y: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nX: a\rb\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\n: empty\r\n\r\n",
    // request line and host
    "GET /a b HTTP/1.1\r\nHost: o.test\r\n\r\n",
    "GET / HTTP/1.2\r\nHost: o.test\r\n\r\n",
    "GET / HTTP/9.9\r\nHost: o.test\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nHost: o.test\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: o.test/evil\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a@o.test\r\n\r\n",
];

/// Chunked bodies that break after an honest head: the upstream request must not be completed.
const BAD_CHUNKS: [&str; 6] = [
    "zz\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "5\nhello\n0\n\n",
];

/// Unusual, and either refused or forwarded in one meaning.
const TOLERABLE: [&str; 8] = [
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding:\tchunked\r\nConnection: close\r\n\r\n5;ext=\"x\"\r\nhello\r\n0\r\n\r\n",
    "GET / HTTP/1.1\nHost: o.test\nConnection: close\n\n",
    "GET / HTTP/1.1\r\nHost: o.test\r\nConnection: close, Host, Content-Length\r\n\r\n",
    "\r\n\r\nGET /#fragment HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n",
];

fn answer_and_close() -> Vec<Step> {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    vec![Step::ReadHead, Step::text(answer), Step::ReadToEnd]
}

/// What any parser reads in only one way.
fn assert_unambiguous(received: &[u8], sent: &str) {
    let text = String::from_utf8_lossy(received).into_owned();
    assert!(!text.contains("SMUGGLED"), "{sent:?} became {text:?}");
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        assert_eq!(text, "", "{sent:?} became {text:?}");
        return;
    };
    assert!(!head.contains('\0'), "{text:?}");
    let lower = head.to_ascii_lowercase();
    let lines: Vec<&str> = lower.split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])), "{text:?}");
    assert!(lines.iter().all(|line| !line.starts_with([' ', '\t'])), "{text:?}");
    assert!(lines[0].ends_with(" http/1.1") && lines[0].matches(' ').count() == 2, "{text:?}");
    let count = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(count("host:"), 1, "{text:?}");
    let framing = count("content-length") + count("transfer-encoding");
    assert!(framing <= 1, "{sent:?} became {text:?}");
    assert!(
        lines.iter().skip(1).all(|line| line.contains(':') && !line.contains(" :")),
        "{text:?}"
    );
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let short = Duration::from_millis(300);
    let (gateway, origin) =
        raw_origin_with(answer_and_close(), |c| c.gateway.head_timeout = short).await;
    for sent in REFUSED {
        let got = talk(&gateway, PLAIN, format!("{sent}{TAIL}").as_bytes()).await;
        assert!(!got.contains("200 OK"), "{sent:?} got {got:?}");
    }
    gateway.quiet().await;
    for received in origin.received() {
        assert_eq!(String::from_utf8_lossy(&received), "", "nothing of it is forwarded");
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flows.len(), REFUSED.len());
    let outcomes = ["malformed_http", "opaque_refused", "bad_authority"];
    for (row, sent) in recorded.flows.iter().zip(REFUSED) {
        let id = row.text("flow_id");
        let exchange = recorded.exchanges.iter().find(|x| x.text("flow_id") == id);
        let outcome = exchange.map_or(row.text("outcome"), |x| x.text("outcome"));
        assert!(outcomes.contains(&outcome), "{sent:?} was recorded as {outcome}");
    }
    let counted: u64 = outcomes.iter().map(|o| recorded.metrics.outcome_count(o)).sum();
    assert!(counted >= REFUSED.len() as u64);
}

#[tokio::test]
async fn broken_chunks_never_end_the_upstream_request() {
    let script = vec![Step::ReadHead, Step::ReadToEnd];
    let (gateway, origin) = raw_origin(script).await;
    let head = "POST /up HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in BAD_CHUNKS {
        let got = talk(&gateway, PLAIN, format!("{head}{chunks}{TAIL}").as_bytes()).await;
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 400"), "{chunks:?} got {got:?}");
    }
    gateway.quiet().await;
    for received in origin.received() {
        assert_unambiguous(&received, "bad chunks");
        assert!(!received.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&received));
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), BAD_CHUNKS.len());
    for row in &recorded.exchanges {
        assert_eq!((row.text("outcome"), row.text("fault")), ("request_cut", "downstream"));
        assert_eq!(row.text("req_sha256"), "0".repeat(64));
    }
    assert_eq!(recorded.metrics.outcome_count("request_cut"), BAD_CHUNKS.len() as u64);
}

#[tokio::test]
async fn tolerable_requests_have_one_meaning_upstream() {
    let (gateway, origin) = raw_origin(answer_and_close()).await;
    for sent in TOLERABLE {
        let before = origin.received().len();
        let got = talk(&gateway, PLAIN, format!("{sent}{TAIL}").as_bytes()).await;
        assert!(got.matches("HTTP/1.1 ").count() <= 1, "{sent:?} got {got:?}");
        gateway.quiet().await;
        for received in &origin.received()[before..] {
            assert_unambiguous(received, sent);
        }
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flows.len(), TOLERABLE.len());
    assert!(recorded.exchanges.len() <= TOLERABLE.len());
}

#[tokio::test]
async fn ambiguous_answers_never_reach_the_client_as_they_are() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\nokEXTRA",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX\0: 1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 EXTRA\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 EXTRA\r\nContent-Length: 0\r\n\r\n",
    ];
    for answer in answers {
        let (gateway, _origin) = raw_origin(vec![Step::ReadHead, Step::text(answer)]).await;
        let mut client = gateway.tcp(PLAIN).await.unwrap();
        say(&mut client, "GET /a HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n").await;
        let got = rest_text(&mut client).await;
        assert!(!got.contains("EXTRA") && !got.contains('\0'), "{answer:?} became {got:?}");
        let lower = got.to_ascii_lowercase();
        let framing =
            lower.matches("content-length:").count() + lower.matches("transfer-enc").count();
        assert!(framing <= 1, "{answer:?} became {got:?}");
        drop(client.shutdown().await);
        let recorded = gateway.shutdown().await;
        assert_eq!(recorded.flows.len(), 1);
    }
}
