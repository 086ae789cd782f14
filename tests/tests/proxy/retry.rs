//! Requests on a pooled connection that upstream closes just then.

use http::StatusCode;
use weir_tests::client::{empty, full};
use weir_tests::origin::raw::Step;

use crate::wire::raw_origin;

/// The second request of a connection is read and answered with a reset.
fn answers_once() -> Vec<Step> {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    vec![Step::ReadHead, Step::text(answer), Step::ReadHead, Step::Reset]
}

#[tokio::test]
async fn a_safe_request_is_sent_again_on_a_new_connection() {
    let (gateway, origin) = raw_origin(answers_once()).await;
    let mut client = gateway.http().await.unwrap();
    for path in ["/first", "/second"] {
        let response = client.request("GET", "o.test", path, empty()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(weir_tests::client::collect(response, 100).await.unwrap().body(), "ok");
    }
    drop(client);
    assert_eq!(origin.received().len(), 2, "connections");
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("upstream_retried_total"), 1);
    assert_eq!(recorded.exchanges.len(), 2, "a repeated request is one exchange");
    assert_eq!(recorded.at("/second").text("outcome"), "ok");
}

#[tokio::test]
async fn a_post_that_upstream_may_have_seen_is_never_sent_again() {
    let (gateway, origin) = raw_origin(answers_once()).await;
    let mut client = gateway.http().await.unwrap();
    let first = client.request("GET", "o.test", "/first", empty()).await.unwrap();
    weir_tests::client::collect(first, 100).await.unwrap();
    let second = client.request("POST", "o.test", "/second", full("pay")).await.unwrap();
    assert_eq!(second.status(), StatusCode::BAD_GATEWAY);
    drop((second, client));
    let posts = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).matches("POST").count();
    assert_eq!(origin.received().iter().map(posts).sum::<usize>(), 1);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("upstream_retried_total"), 0);
    assert_eq!(recorded.at("/second").text("fault"), "upstream");
}
