//! What somebody did to a running capture is put right, and told in the record; and what a job could
//! do is told by `weir doctor`.

use std::io::BufRead as _;
use std::path::Path;
use std::process::Stdio;

use weir_tests::appliance::{API, Site, text};

use crate::PYTHON;

#[test]
fn repairs_are_in_the_record_and_the_gateway_goes_on() {
    let site = Site::up("");
    let url = format!("https://{API}/status/200");
    site.run("before", &["curl", "-sSf", &url]);
    assert_eq!(site.said(&["attach", "--repair"]), "nothing to repair\n");
    let pins = Path::new("/sys/fs/bpf").join(&site.id);
    for name in ["weir_egress", "weir_dns_connect4"] {
        std::fs::remove_file(pins.join(name)).unwrap();
    }
    let said = site.said(&["attach", "--repair"]);
    assert!(said.contains("repaired egress: the pin weir_egress was gone\n"), "{said}");
    assert!(said.contains("repaired redirect: the pin weir_dns_connect4 was gone\n"), "{said}");
    assert_eq!(site.said(&["attach", "--repair"]), "nothing to repair\n");
    // The same gateway, over the same maps.
    site.run("after", &["curl", "-sSf", &url]);
    site.rows(1, "SELECT 1 FROM exchanges WHERE job_id = 'after'");
    let sql = "SELECT toString(cause) AS cause, detail FROM gaps WHERE detail LIKE '%weir_egress%'";
    let row = &site.rows(1, sql)[0];
    assert_eq!(row["cause"], "bypass");
    let detail = row["detail"].as_str().unwrap();
    assert!(detail.starts_with("layer egress was off for an unknown time and "), "{detail}");
    let sql = "SELECT 1 FROM heartbeats WHERE counters['capture_repairs'] = 2";
    site.rows(1, sql);
}

/// Says that it is there, and waits for the end of its input.
const WAIT: &str = "import sys; print('here', flush=True); sys.stdin.read()";

#[test]
fn doctor_tells_what_live_jobs_could_do() {
    let site = Site::up("");
    let well = site.said(&["doctor"]);
    for line in ["ptrace ", "user namespaces ", "port range ", "core dumps ", "capabilities "] {
        assert!(well.lines().any(|found| found.contains(line)), "{line}: {well}");
    }
    assert!(well.contains("none of 0 captured processes"), "{well}");
    let mut job = site.captured("root", &[PYTHON, "-c", WAIT]);
    let mut job = job.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(job.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    let output = site.ask(&["doctor"]);
    let lines = text(&output);
    assert_eq!(output.status.code(), Some(1), "a way out is open: {lines}");
    let said = |level: &str, name: &str, what: &str| {
        lines.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[0] == level && line.contains(name) && line.contains(what)
        })
    };
    assert!(said("warn", "uid 0 inside", "(python3"), "{lines}");
    assert!(said("FAIL", "capabilities", "NET_ADMIN"), "{lines}");
    assert!(said("FAIL", "cgroupfs", "(python3"), "{lines}");
    drop(job.stdin.take());
    assert!(job.wait().unwrap().success());
}
