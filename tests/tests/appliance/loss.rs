//! Nothing is lost or counted twice when a part is killed, and nothing gets past a dead gateway.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weir_tests::appliance::{API, Site, number, try_wait};

use crate::PYTHON;

/// Requests with numbers, each on a connection of its own; every answer or error is one line:
/// number, `ok` or the error, time, and the address that the socket had.
const CLIENT: &str = "
import socket, ssl, sys, time
host, job, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context()
for number in range(count):
    address, said = '-', 'ok'
    try:
        with socket.create_connection((host, 443), timeout=20) as plain:
            address = plain.getsockname()[0]
            with context.wrap_socket(plain, server_hostname=host) as stream:
                stream.sendall(f'GET /headers/{job}/{number} HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n'.encode())
                if not stream.recv(4096).startswith(b'HTTP/1.1 200 '):
                    said = 'unanswered'
    except OSError as error:
        said = type(error).__name__
    print(number, said, time.time_ns(), address, flush=True)
    time.sleep(0.004 if said == 'ok' else 0.02)
";
const REQUESTS: usize = 400;
/// Five times `spool.sync_every`: what was answered this long before a crash is on disk.
const SYNCED: Duration = Duration::from_secs(1);

/// `weir up` waits longer than this before it starts a part again: what is answered earlier than
/// this after the kill was sent by the gateway that is dead.
const DEAD: Duration = Duration::from_millis(400);

struct Answer {
    number: usize,
    said: String,
    at: Duration,
}

struct Loop {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    job: String,
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

impl Loop {
    fn start(site: &Site, job: &str) -> Self {
        let words = [PYTHON, "-c", CLIENT, API, job, &REQUESTS.to_string()];
        let mut child = site.captured(job, &words).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, job: job.to_owned() }
    }

    fn answers(&mut self, count: usize) -> Vec<Answer> {
        self.lines.by_ref().take(count).map(|line| answer(&line.unwrap())).collect()
    }
}

fn answer(line: &str) -> Answer {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap();
    let number = next().parse().unwrap();
    let said = next().to_owned();
    let at = Duration::from_nanos(next().parse().unwrap());
    // A connection that had bypassed the gateway would have an address of the network.
    let address = next();
    assert!(["127.0.0.1", "-"].contains(&address), "bypassed: {line}");
    Answer { number, said, at }
}

/// Random enough, and the same again.
fn seeded(seed: u64, round: u64) -> usize {
    let mixed = (seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 40).unwrap() % (REQUESTS / 2) + REQUESTS / 4
}

pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// No exchange twice, no number twice, and in the end none missing: an older gateway may still
/// write, in a slot of the spool of its own, when the newest has delivered everything.
pub(crate) fn check_once(site: &Site) {
    let tables = ["flows", "exchanges", "bodies", "gaps", "heartbeats", "dns_queries", "alarms"];
    let all = tables.map(|table| format!("SELECT boot_id, seq FROM {table}")).join(" UNION ALL ");
    let sql = format!(
        "SELECT boot_id, count() AS n, uniqExact(seq) AS seqs, max(seq) - min(seq) + 1 AS span \
         FROM ({all}) GROUP BY boot_id"
    );
    let mut rows = Vec::new();
    let whole = try_wait(|| {
        rows = site.query(&sql);
        rows.iter().all(|row| number(&row["n"]) == number(&row["span"]))
    });
    assert!(whole, "a record is missing: {rows:?}");
    for row in rows {
        assert_eq!(number(&row["n"]), number(&row["seqs"]), "a number is there twice: {row}");
    }
    let sql = "SELECT count() AS n, uniqExact(exchange_id) AS ids FROM exchanges";
    let row = &site.query(sql)[0];
    assert_eq!(number(&row["n"]), number(&row["ids"]), "an exchange is there twice");
}

fn recorded(site: &Site, job: &str) -> std::collections::HashSet<String> {
    let sql = format!("SELECT path FROM exchanges WHERE job_id = '{job}' AND status = 200");
    let rows = site.try_query(&sql).unwrap_or_default();
    rows.iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect()
}

/// Every request that `must` says is recorded, sooner or later.
fn check_recorded(site: &Site, job: &str, must: &[usize]) {
    let mut missing = Vec::new();
    let complete = try_wait(|| {
        let found = recorded(site, job);
        missing = must.iter().filter(|n| !found.contains(&format!("/headers/{job}/{n}"))).collect();
        missing.is_empty()
    });
    assert!(complete, "{job}: {} of {} are missing: {missing:?}", missing.len(), must.len());
}

#[test]
fn a_killed_store_loses_nothing() {
    let site = Site::up("");
    for round in 0..3 {
        let job = format!("store-{round}");
        let mut client = Loop::start(&site, &job);
        let mut answers = client.answers(seeded(11, round));
        let killed = site.kill_part("store");
        answers.extend(client.answers(REQUESTS));
        assert!(answers.iter().all(|a| a.said == "ok"), "clients do not notice");
        assert_eq!(answers.len(), REQUESTS);
        site.wait_restarted("store", killed);
        let all: Vec<usize> = (0..REQUESTS).collect();
        check_recorded(&site, &job, &all);
        check_once(&site);
    }
    assert_eq!(site.query("SELECT * FROM gaps").len(), 0);
}

#[test]
fn a_killed_gateway_loses_only_its_last_second_and_says_so() {
    let site = Site::up("");
    for round in 0..3 {
        let job = format!("gateway-{round}");
        let mut client = Loop::start(&site, &job);
        let mut answers = client.answers(seeded(23, round));
        let boot = boot(&site, &job);
        let at = now();
        let killed = site.kill_part("gateway");
        answers.extend(client.answers(REQUESTS));
        site.wait_restarted("gateway", killed);
        assert_eq!(answers.len(), REQUESTS);
        let failed: Vec<&Answer> = answers.iter().filter(|a| a.said != "ok").collect();
        assert!(failed.iter().any(|a| a.said == "ConnectionRefusedError"), "it was down");
        assert_eq!(answers.last().unwrap().said, "ok", "it is up again");
        not_bypassed(&site, &client.job, &failed);
        let must: Vec<usize> = answers
            .iter()
            .filter(|a| a.said == "ok" && (a.at + SYNCED < at || a.at > at + DEAD))
            .map(|a| a.number)
            .collect();
        println!("{job}: {} failed, {} of {REQUESTS} must be there", failed.len(), must.len());
        check_recorded(&site, &job, &must);
        let sql = format!("SELECT cause FROM gaps WHERE gap_boot_id = '{boot}'");
        let gaps = site.rows(1, &sql);
        assert_eq!((gaps.len(), &gaps[0]["cause"]), (1, &Value::from("crash")));
        check_once(&site);
    }
}

/// Boot of the gateway that serves a job now.
fn boot(site: &Site, job: &str) -> String {
    let sql = format!(
        "SELECT toString(any(boot_id)) AS boot FROM exchanges WHERE job_id = '{job}' HAVING count() > 0"
    );
    site.rows(1, &sql)[0]["boot"].as_str().unwrap().to_owned()
}

/// Requests that were refused did not arrive on another way.
fn not_bypassed(site: &Site, job: &str, failed: &[&Answer]) {
    let heads = site.origin.seen().heads();
    for refused in failed.iter().filter(|a| a.said == "ConnectionRefusedError") {
        let uri = format!("/headers/{job}/{}", refused.number);
        assert!(!heads.iter().any(|head| head.uri == uri), "{uri} arrived");
    }
}
