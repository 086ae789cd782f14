//! Helpers: bytes on bare sockets, and what most tests begin with.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use weir_gateway::config::Config;
use weir_tests::ca::{Flaw, TestCa};
use weir_tests::gateway::{DST, NAME, PLAIN, TestGateway};
use weir_tests::origin::Origin;
use weir_tests::origin::raw::{RawOrigin, Step};

/// No read in these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway before an HTTPS origin that offers `alpn`.
pub(crate) async fn https_origin(alpn: &[&str]) -> (TestGateway, Origin) {
    https_origin_with(alpn, |_| {}).await
}

/// The same with another configuration.
pub(crate) async fn https_origin_with(
    alpn: &[&str],
    change: impl FnOnce(&mut Config),
) -> (TestGateway, Origin) {
    let ca = TestCa::new("weir test CA");
    let origin = Origin::speaking(&ca, &[NAME], alpn).await;
    let gateway = TestGateway::start(ca, change, &[(DST, origin.addr())]);
    (gateway, origin)
}

/// A gateway before an origin that speaks HTTP in the clear.
pub(crate) async fn plain_origin(change: impl FnOnce(&mut Config)) -> (TestGateway, Origin) {
    let origin = Origin::plain().await;
    let gateway =
        TestGateway::start(TestCa::new("weir test CA"), change, &[(PLAIN, origin.addr())]);
    (gateway, origin)
}

/// A gateway before a scripted origin in the clear.
pub(crate) async fn raw_origin(script: Vec<Step>) -> (TestGateway, RawOrigin) {
    raw_origin_with(script, |_| {}).await
}

/// The same with another configuration.
pub(crate) async fn raw_origin_with(
    script: Vec<Step>,
    change: impl FnOnce(&mut Config),
) -> (TestGateway, RawOrigin) {
    let origin = RawOrigin::start(None, script).await;
    let gateway =
        TestGateway::start(TestCa::new("weir test CA"), change, &[(PLAIN, origin.addr())]);
    (gateway, origin)
}

/// A gateway before a scripted HTTPS origin.
pub(crate) async fn raw_tls_origin(script: Vec<Step>) -> (TestGateway, RawOrigin) {
    raw_tls_origin_with(script, |_| {}).await
}

/// The same with another configuration.
pub(crate) async fn raw_tls_origin_with(
    script: Vec<Step>,
    change: impl FnOnce(&mut Config),
) -> (TestGateway, RawOrigin) {
    let ca = TestCa::new("weir test CA");
    let tls = ca.server_config(&[NAME], Flaw::None, &[]);
    let origin = RawOrigin::start(Some(tls), script).await;
    let gateway = TestGateway::start(ca, change, &[(DST, origin.addr())]);
    (gateway, origin)
}

/// Writes a text.
pub(crate) async fn say(io: &mut (impl AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
}

/// Reads until `end` has arrived.
pub(crate) async fn until(io: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut got = Vec::new();
    let read = async {
        while !got.ends_with(end.as_bytes()) {
            match io.read_u8().await {
                Ok(byte) => got.push(byte),
                Err(_) => break,
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, read).await.is_ok();
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(done && text.ends_with(end), "{end:?} did not arrive, but {text:?}");
    text
}

/// Reads until the other side closes; a reset counts as a close.
pub(crate) async fn rest(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let read = async {
        while let Ok(n) = io.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..n]);
        }
    };
    let done = tokio::time::timeout(PATIENCE, read).await.is_ok();
    assert!(done, "not closed, after {:?}", String::from_utf8_lossy(&got));
    got
}

/// The same as text.
pub(crate) async fn rest_text(io: &mut (impl AsyncRead + Unpin)) -> String {
    String::from_utf8_lossy(&rest(io).await).into_owned()
}

/// Sends `sent` on a connection to `dst` and reads what comes back until the close.
pub(crate) async fn talk(gateway: &TestGateway, dst: SocketAddr, sent: &[u8]) -> String {
    let mut stream = gateway.tcp(dst).await.unwrap();
    stream.write_all(sent).await.unwrap();
    rest_text(&mut stream).await
}
