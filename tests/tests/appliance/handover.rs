//! A newer gateway takes over from one that runs: no connection fails, nothing is lost or doubled.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::appliance::{API, Site, number, signal, text, wait_for};

use crate::PYTHON;

/// Requests on connections of their own from eight threads until standard input ends; then how
/// many were answered, and every error.
const LOAD: &str = "
import socket, ssl, sys, threading
host, job = sys.argv[1], sys.argv[2]
context = ssl.create_default_context()
stop, answered, errors, lock = threading.Event(), [0], [], threading.Lock()
def work(thread):
    number = 0
    while not stop.is_set():
        number += 1
        said = None
        try:
            with socket.create_connection((host, 443), timeout=20) as plain:
                with context.wrap_socket(plain, server_hostname=host) as stream:
                    path = f'/headers/{job}/{thread}-{number}'
                    stream.sendall(f'GET {path} HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n'.encode())
                    if not stream.recv(4096).startswith(b'HTTP/1.1 200 '):
                        said = 'unanswered'
        except OSError as error:
            said = repr(error)
        with lock:
            if said:
                errors.append(f'{thread}-{number}: {said}')
            else:
                answered[0] += 1
                if answered[0] % 100 == 0:
                    print('answered', answered[0], flush=True)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print('total', answered[0], len(errors), *errors[:5], flush=True)
";

struct Load {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Load {
    fn start(site: &Site, job: &str) -> Self {
        let mut command = site.captured(job, &[PYTHON, "-c", LOAD, API, job]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for another hundred answers.
    fn some(&mut self) {
        let line = self.lines.next().unwrap().unwrap();
        assert!(line.starts_with("answered"), "{line}");
    }

    /// Ends it; answers how many requests were answered. None may have failed.
    fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let last = self.lines.by_ref().map(Result::unwrap).last().unwrap();
        assert!(self.child.wait().unwrap().success());
        let mut words = last.split(' ');
        assert_eq!(words.next(), Some("total"), "{last}");
        let answered = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next(), Some("0"), "requests failed: {last}");
        answered
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

fn has_ended(pid: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn no_gaps(site: &Site) {
    let gaps = site.query("SELECT cause, detail, records FROM gaps");
    assert_eq!(gaps, Vec::<Value>::new(), "nothing is told as lost");
}

#[test]
fn gateways_take_over_under_load_without_a_failed_or_lost_request() {
    const TIMES: usize = 5;
    let site = Site::up("");
    let mut load = Load::start(&site, "load");
    let mut older = Vec::new();
    for _ in 0..TIMES {
        load.some();
        older.push(site.hand_over());
        load.some();
        let last = *older.last().unwrap();
        wait_for("the older gateway's end", || has_ended(last));
    }
    let answered = load.end();
    let sql = "SELECT path, exchange_id FROM exchanges WHERE job_id = 'load' AND status = 200";
    let rows = site.rows(usize::try_from(answered).unwrap(), sql);
    let distinct = |key: &str| {
        let values = rows.iter().map(|row| row[key].as_str().unwrap());
        values.collect::<std::collections::BTreeSet<_>>().len()
    };
    println!("{answered} requests, {TIMES} handovers");
    assert_eq!(rows.len(), usize::try_from(answered).unwrap(), "recorded once");
    assert_eq!((distinct("path"), distinct("exchange_id")), (rows.len(), rows.len()));
    let boots = site.query("SELECT uniqExact(boot_id) AS n FROM exchanges WHERE job_id = 'load'");
    assert_eq!(number(&boots[0]["n"]), TIMES as u64 + 1, "every gateway served");
    // Two looks of the comparison with the kernel's counts happen every ten seconds.
    let beats = "SELECT boot_id FROM heartbeats WHERE boot_id = \
                 (SELECT argMax(boot_id, ts) FROM heartbeats)";
    site.rows(3, beats);
    no_gaps(&site);
    assert!(!site.log().contains("did not end in order"), "{}", site.log());
}

#[test]
fn a_stream_outlives_the_handover_of_its_gateway() {
    let mut site = Site::up("");
    let url = format!("https://{API}/bytes/400000?chunk=4000&gap_ms=50");
    let words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", &url];
    let child = site.captured("stream", &words).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("a request", || site.origin.seen().requests() > 0);
    let older = site.hand_over();
    site.run("next", &["curl", "-sSf", "-o", "/dev/null", &format!("https://{API}/headers")]);
    assert!(!has_ended(older), "it still has the stream");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"400000", "{}", text(&output));
    wait_for("the older gateway's end", || has_ended(older));
    let sql = "SELECT job_id, toString(boot_id) AS boot FROM exchanges WHERE outcome = 'ok'";
    let rows = site.rows(2, sql);
    assert_ne!(rows[0]["boot"], rows[1]["boot"], "each by its own gateway: {rows:#?}");
    no_gaps(&site);
    site.stop();
}

#[test]
fn a_gateway_killed_while_it_ends_its_flows_is_told_and_its_records_are_delivered() {
    let site = Site::up("");
    let short = format!("https://{API}/headers");
    site.run("before", &["curl", "-sSf", "-o", "/dev/null", &short]);
    let long = format!("https://{API}/bytes/100000000?chunk=1000&gap_ms=5");
    let mut command = site.captured("long", &["curl", "-sS", "-o", "/dev/null", &long]);
    let mut client = command.spawn().unwrap();
    wait_for("the long request", || site.origin.seen().requests() > 1);
    let row = &site.rows(1, "SELECT toString(boot_id) AS boot FROM exchanges")[0];
    let older = site.hand_over();
    signal(older, Signal::SIGKILL);
    assert!(!client.wait().unwrap().success(), "its flow was cut");
    let boot = row["boot"].as_str().unwrap();
    let gaps = site.rows(1, &format!("SELECT cause FROM gaps WHERE gap_boot_id = '{boot}'"));
    assert_eq!((gaps.len(), &gaps[0]["cause"]), (1, &Value::from("crash")));
    site.run("after", &["curl", "-sSf", "-o", "/dev/null", &short]);
    site.rows(1, "SELECT 1 FROM exchanges WHERE job_id = 'after'");
}

#[test]
fn a_handover_that_cannot_begin_leaves_the_gateway_as_it_is() {
    let site = Site::up("");
    let gateway = site.part("gateway").unwrap();
    std::fs::write(site.path("weir.toml"), "nonsense").unwrap();
    site.signal_up(Signal::SIGHUP);
    wait_for("the refusal", || site.log().contains("not taken over"));
    site.configure("weir.toml", "");
    site.run("still", &["curl", "-sSf", "-o", "/dev/null", &format!("https://{API}/headers")]);
    assert_eq!(site.part("gateway"), Some(gateway));
}
