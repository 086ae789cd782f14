//! `capture.danger_fail_open`: what passes without a gateway is counted and told.

use nix::sys::signal::Signal;
use weir_tests::appliance::{Site, number, signal, text, wait_for};
use weir_tests::beat;

use crate::PYTHON;

/// Prints the errno of a TCP connection, 0 without error.
const TCP: &str = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], 443)))";
const BYPASSED: &str = "SELECT records, detail FROM gaps WHERE cause = 'bypass'";

fn sum(site: &Site) -> u64 {
    site.query(BYPASSED).iter().map(|row| number(&row["records"])).sum()
}

/// Waits for the first heartbeat of a gateway that has not beaten yet: it has told what it knows.
fn wait_beat(site: &Site, boots: u64) {
    wait_for("a heartbeat", || {
        let sql = "SELECT uniqExact(boot_id) AS n FROM heartbeats";
        site.try_query(sql).is_ok_and(|rows| number(&rows[0]["n"]) >= boots)
    });
}

#[test]
fn connections_without_a_gateway_pass_and_are_told() {
    let mut site = Site::new("");
    site.reconfigure("nftables = false", "danger_fail_open = true");
    // Makes the CA, which `weir run` wants.
    site.start();
    assert!(site.log().contains("WARNING   capture.danger_fail_open is true"), "{}", site.log());
    wait_beat(&site, 1);
    site.stop();
    assert!(site.said(&["attach"]).contains("WARNING"), "everybody is told");
    let doctor = text(&site.ask(&["doctor"]));
    assert!(doctor.contains("warn  fail open"), "{doctor}");
    assert!(doctor.contains("until then captured connections pass unseen"), "{doctor}");

    let address = site.network.inside.to_string();
    let before = site.origin.seen().tcp_connections();
    for _ in 0..3 {
        assert_eq!(site.run("open", &[PYTHON, "-c", TCP, &address]), "0\n");
    }
    assert_eq!(site.origin.seen().tcp_connections(), before + 3);
    site.start();
    let rows = site.rows(1, BYPASSED);
    assert_eq!((rows.len(), number(&rows[0]["records"])), (1, 3), "{rows:?}");
    assert!(rows[0]["detail"].as_str().unwrap().contains("danger_fail_open"), "{rows:?}");
    let flag = "SELECT counters['danger_fail_open'] AS flag FROM heartbeats";
    assert!(site.rows(1, flag).iter().all(|row| number(&row["flag"]) == 1));

    // As soon as a gateway beats, everything is captured again.
    assert_eq!(site.run("closed", &[PYTHON, "-c", TCP, &address]), "0\n");
    site.rows(1, "SELECT * FROM flows WHERE job_id = 'closed'");

    let pins = std::path::Path::new("/sys/fs/bpf").join(&site.id);
    wait_for("the row to be on disk", || beat::told(&pins) == 3);

    // Killed: refused until it counts as dead, then open, then told by the next one.
    site.signal_up(Signal::SIGSTOP);
    let killed = site.kill_part("gateway");
    let mut refused = 0;
    wait_for("the door to open", || {
        let errno = site.run("open", &[PYTHON, "-c", TCP, &address]);
        refused += u32::from(errno == "111\n");
        assert!(["0\n", "111\n"].contains(&errno.as_str()), "{errno}");
        errno == "0\n"
    });
    assert!(refused > 0, "refused at first");
    site.signal_up(Signal::SIGCONT);
    site.wait_restarted("gateway", killed);
    site.rows(2, BYPASSED);
    assert_eq!(sum(&site), 4);

    // A gateway that ends in order leaves nothing to tell.
    let boots = number(&site.query("SELECT uniqExact(boot_id) AS n FROM heartbeats")[0]["n"]);
    let ended = site.part("gateway").unwrap();
    signal(ended, Signal::SIGTERM);
    site.wait_restarted("gateway", ended);
    wait_beat(&site, boots + 1);
    assert_eq!(sum(&site), 4, "told once");
    assert_eq!(site.query("SELECT * FROM flows WHERE job_id = 'open'").len(), 0);
}
