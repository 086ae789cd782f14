//! What somebody tried, and what became of it, as an operator sees it.

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::appliance::{API, Site, number};

use crate::PYTHON;

/// Tries raw sockets, as often as it is told.
const RAW: &str = "
import socket, sys
for _ in range(int(sys.argv[1])):
    try:
        sys.exit(socket.socket(type=socket.SOCK_RAW, proto=253))
    except PermissionError:
        pass
";
/// Makes a socket, leaves the cgroup, and connects all the same. The token is no secret.
const LEAVE: &str = "
import socket, sys
inside = socket.socket()
open(sys.argv[1] + '/cgroup.procs', 'w').write('0')
inside.connect((sys.argv[2], 443))
";

fn alarms(site: &Site, least: usize, job: &str) -> Vec<Value> {
    let sql = format!(
        "SELECT kind, severity, process, argv, uid, pid, dst_ip, dst_port, proto, detail, cgroup, \
         sum(count) AS n, min(ts) AS at FROM alarms WHERE job_id = '{job}' \
         GROUP BY ALL ORDER BY at"
    );
    site.rows(least, &sql)
}

#[test]
fn attempts_are_alarms_of_their_job_and_a_good_run_is_none() {
    let site = Site::up("");
    let mount = weir_gateway::capture::cgroup::mount().unwrap();
    let top = mount.join(&site.id);
    let address = site.network.inside.to_string();
    site.run("good", &["curl", "-sSf", "-o", "/dev/null", &format!("https://{API}/status/200")]);
    site.run("raw", &[PYTHON, "-c", RAW, "5"]);
    site.run("leave", &[PYTHON, "-c", LEAVE, top.to_str().unwrap(), &address, "--token", "s3cret"]);

    let raw = alarms(&site, 1, "raw");
    assert_eq!(
        (&raw[0]["kind"], &raw[0]["severity"]),
        (&"socket_refused_raw".into(), &"warn".into())
    );
    assert_eq!(raw[0]["detail"], "raw socket, protocol 253");
    // The equals of the first follow when their ten seconds are over.
    let sql = "SELECT sum(count) AS n FROM alarms WHERE job_id = 'raw' HAVING n = 5";
    assert_eq!(number(&site.rows(1, sql)[0]["n"]), 5);

    let watches = site
        .said(&["doctor"])
        .lines()
        .any(|line| line.contains("layers") && !line.contains("watch"));
    let left = alarms(&site, if watches { 2 } else { 1 }, "leave");
    let of = |kind: &str| left.iter().find(|row| row["kind"] == kind);
    let moved = of("socket_moved").unwrap();
    assert_eq!((&moved["severity"], &moved["proto"]), (&"warn".into(), &"tcp".into()));
    assert_eq!((&moved["dst_port"], number(&moved["uid"])), (&443.into(), 0));
    assert_eq!(moved["dst_ip"], format!("::ffff:{address}"));
    let argv = moved["argv"].to_string();
    assert!(!argv.contains("s3cret"), "{argv}");
    if let Some(out) = of("process_moved_out") {
        assert_eq!(out["severity"], "error");
        assert_eq!(out["detail"], format!("moved itself to /{}", site.id));
        assert_eq!(out["pid"], moved["pid"]);
    } else {
        assert!(!watches, "{left:#?}");
    }
    let flow = site.rows(1, "SELECT outcome, detail FROM flows WHERE detail LIKE '%outside%'");
    assert_eq!(flow.len(), 1);

    let others =
        site.query("SELECT kind, job_id, detail FROM alarms WHERE job_id NOT IN ('raw', 'leave')");
    assert!(others.is_empty(), "{others:#?}");
    let timeline = site.said(&["timeline", "--job", "leave"]);
    let line = timeline.lines().find(|line| line.contains("socket_moved")).unwrap();
    assert!(
        line.contains("alarm") && line.contains(&format!("socket_moved tcp {address}:443: ")),
        "{line}"
    );
    assert!(site.said(&["timeline", "--job", "raw"]).contains("alarm"));
    assert_eq!(site.said(&["timeline", "--job", "good"]).matches("alarm").count(), 0);
}

#[test]
fn what_happens_while_no_gateway_runs_is_told_by_the_next() {
    let site = Site::up("");
    site.run("up", &["true"]);
    site.signal_up(Signal::SIGSTOP);
    let killed = site.kill_part("gateway");
    site.run("down", &[PYTHON, "-c", RAW, "1"]);
    let clock = "SELECT now64(6) AS now";
    let before = site.query(clock)[0]["now"].as_str().unwrap().to_owned();
    site.signal_up(Signal::SIGCONT);
    site.wait_restarted("gateway", killed);
    let rows = alarms(&site, 1, "down");
    assert_eq!((rows.len(), &rows[0]["kind"]), (1, &"socket_refused_raw".into()));
    let at = rows[0]["at"].as_str().unwrap();
    assert!(at < before.as_str(), "{at} is when it happened, before {before}");
}
