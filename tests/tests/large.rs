//! 1 GiB each way, alone in its process: memory must not grow with the size of a body.

#![expect(clippy::expect_used, reason = "helpers outside test functions fail the test at once")]

use http_body_util::BodyExt as _;
use weir_tests::ca::TestCa;
use weir_tests::client::empty;
use weir_tests::gateway::{DST, NAME, TestGateway};
use weir_tests::origin::Origin;
use weir_tests::origin::body::Pattern;
use weir_tests::pattern::{self, Checker};

const SIZE: u64 = 1 << 30;
/// Client, gateway and origin together, with their buffers and the recorded first MiB.
const MAX_GROWTH: u64 = 64 << 20;

/// Resident bytes, from proc_pid_statm(5).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: u64 = statm.split(' ').nth(1).expect("a second field").parse().expect("a number");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_in_constant_memory() {
    let ca = TestCa::new("weir test CA");
    let origin = Origin::start(&ca, &[NAME]).await;
    let gateway = TestGateway::start(ca, |_| {}, &[(DST, origin.addr())]);
    let sha256 = pattern::sha256(SIZE);
    let mut connection = gateway.https(&["h2"]).await.expect("connected");
    connection.get(NAME, "/bytes/1000000").await.expect("warm");
    let before = resident();

    let path = format!("/bytes/{SIZE}");
    let response = connection.request("GET", NAME, &path, empty()).await.expect("head");
    let (mut body, mut checker, mut most) = (response.into_body(), Checker::default(), 0);
    while let Some(frame) = body.frame().await {
        checker.update(&frame.expect("frame").into_data().expect("data"));
        if checker.length() % (8 << 20) < 16_384 {
            most = most.max(resident());
        }
    }
    assert_eq!((checker.length(), checker.first_wrong()), (SIZE, None));
    assert!(most < before + MAX_GROWTH, "download: {before} to {most} bytes");

    let mut connection = gateway.https(&["http/1.1"]).await.expect("connected");
    let body = Pattern::new(SIZE, 65_536, false).boxed();
    let upload = connection.post(NAME, "/sink", body);
    let watch = async {
        let mut most = 0;
        loop {
            most = most.max(resident());
            assert!(most < before + MAX_GROWTH, "upload: {before} to {most} bytes");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::select! {
        answer = upload => answer.expect("answer"),
        () = watch => unreachable!("it watches until the end"),
    };
    let seen: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
    assert_eq!((seen["bytes"].as_u64(), seen["sha256"].as_str()), (Some(SIZE), Some(&*sha256)));
    drop(connection);

    let recorded = gateway.shutdown().await;
    let down = recorded.at(&format!("/bytes/{SIZE}"));
    assert_eq!((down.number("resp_bytes"), down.text("resp_sha256")), (SIZE, &*sha256));
    let up = recorded.at("/sink");
    assert_eq!((up.number("req_bytes"), up.text("req_sha256")), (SIZE, &*sha256));
    assert_eq!((up.text("req_body"), up.text("proto")), ("truncated", "h1"));
}
