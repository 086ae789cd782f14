//! Bodies of a gibibyte stream through: memory stays, and counts and hashes are the origin's.

use serde_json::Value;
use weir_tests::appliance::{API, Site, number};

const SIZE: u64 = 1 << 30;
const MAX_GROWTH_KIB: u64 = 40 * 1024;

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_gibibyte_each_way_does_not_stay_in_memory() {
    let site = Site::up("");
    let gateway = site.part("gateway").unwrap();
    // Small first, so that the growth is the large bodies' and not the first connection's.
    for option in ["--http1.1", "--http2"] {
        site.run("warm", &["curl", "-sSf", option, "-o", "/dev/null", &url("/bytes/4000000")]);
    }
    std::fs::File::create(site.path("zeros")).unwrap().set_len(SIZE).unwrap();
    let before = peak_kib(gateway);
    for (job, option) in [("large-h1", "--http1.1"), ("large-h2", "--http2")] {
        let get = url(&format!("/bytes/{SIZE}"));
        let script = format!("curl -sSf {option} {get} | sha256sum");
        let down = site.run(job, &["sh", "-c", &script]);
        let down = down.split_whitespace().next().unwrap().to_owned();
        let file = site.show("zeros");
        let up = site.run(job, &["curl", "-sSf", option, "-T", &file, &url("/sink")]);
        let up: Value = serde_json::from_str(&up).unwrap();
        let growth = peak_kib(gateway) - before;
        println!("{job}: peak memory grew by {growth} KiB from {before} KiB");
        assert!(growth < MAX_GROWTH_KIB, "{job}: {growth} KiB");

        let sql = format!(
            "SELECT path, req_bytes, resp_bytes, lower(hex(req_sha256)) AS req_sha, \
             lower(hex(resp_sha256)) AS resp_sha, outcome FROM exchanges \
             WHERE job_id = '{job}' ORDER BY ts"
        );
        let rows = site.rows(2, &sql);
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0]["outcome"], &rows[1]["outcome"]), (&"ok".into(), &"ok".into()));
        assert_eq!((number(&rows[0]["resp_bytes"]), &rows[0]["resp_sha"]), (SIZE, &down.into()));
        assert_eq!(number(&up["bytes"]), SIZE);
        assert_eq!((number(&rows[1]["req_bytes"]), &rows[1]["req_sha"]), (SIZE, &up["sha256"]));
    }
    assert_eq!(site.part("gateway"), Some(gateway), "the same gateway all along");
}

fn url(path: &str) -> String {
    format!("https://{API}{path}")
}
