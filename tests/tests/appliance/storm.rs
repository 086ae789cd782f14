//! A killed and an upgraded gateway under about a thousand new connections per second: what the
//! origin saw is recorded or told, and an upgrade fails nothing.
//!
//! Unrecorded means: a request whose head reached the origin, or a connection that reached it and
//! asked nothing, without a row in `exchanges` and without a gap that covers it. A gap covers what
//! reached the origin less than [`SYNCED`] before the kill; earlier records were on disk.

use std::collections::HashMap;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::appliance::{Arrivals, Arrived, Counting, Site, number, try_wait, wait_for};

use crate::loss::{check_once, now};

const RATE: usize = 1000;
const SECONDS: usize = 8;
const COUNT: usize = RATE * SECONDS;
/// Five times `spool.sync_every`.
const SYNCED: Duration = Duration::from_secs(1);
/// Between what a killed process sent and its arrival.
const FLIGHT: Duration = Duration::from_millis(200);

struct Line {
    number: usize,
    said: String,
    from: Duration,
}

/// The clients' side.
struct Storm {
    child: Child,
    reader: Option<std::thread::JoinHandle<String>>,
    job: &'static str,
    begun: Instant,
}

impl Storm {
    fn start(site: &Site, origin: &Counting, job: &'static str) -> Self {
        let words = [
            env!("CARGO_BIN_EXE_weir-test-storm"),
            &origin.addr.to_string(),
            &format!("/{job}"),
            &RATE.to_string(),
            &SECONDS.to_string(),
        ];
        let mut child = site.captured(job, &words).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            text
        });
        Self { child, reader: Some(reader), job, begun: Instant::now() }
    }

    #[expect(clippy::print_stdout, reason = "the rate is measured, not asserted")]
    fn finish(mut self) -> Vec<Line> {
        let text = self.reader.take().unwrap().join().unwrap();
        assert!(self.child.wait().unwrap().success());
        let took = self.begun.elapsed().as_secs_f64();
        let lines: Vec<Line> = text.lines().map(line).collect();
        assert_eq!(lines.len(), COUNT);
        let job = self.job;
        println!("{job}: {COUNT} connections in {took:.1} s, {RATE} per second were asked for");
        lines
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

fn line(text: &str) -> Line {
    let words: Vec<&str> = text.split(' ').collect();
    let from = Duration::from_nanos(words[2].parse().unwrap());
    Line { number: words[0].parse().unwrap(), said: words[1].to_owned(), from }
}

/// Exchanges by path: how many, and their boot and number.
fn recorded(site: &Site, job: &str) -> HashMap<String, Vec<(String, u64)>> {
    let sql = format!(
        "SELECT path, toString(boot_id) AS boot, seq FROM exchanges WHERE job_id = '{job}'"
    );
    let mut found: HashMap<String, Vec<(String, u64)>> = HashMap::new();
    for row in site.query(&sql) {
        let [path, boot] = ["path", "boot"].map(|key| row[key].as_str().unwrap().to_owned());
        found.entry(path).or_default().push((boot, number(&row["seq"])));
    }
    found
}

/// Waits until so many exchanges of a job are in the store.
fn wait_recorded(site: &Site, job: &str, least: usize) {
    let sql = format!("SELECT count() AS n FROM exchanges WHERE job_id = '{job}'");
    let mut last = 0;
    let complete = try_wait(|| {
        let rows = site.try_query(&sql).unwrap_or_default();
        last = rows.first().map_or(0, |row| usize::try_from(number(&row["n"])).unwrap());
        last >= least
    });
    assert!(complete, "{job}: {last} of {least} exchanges are recorded");
}

/// What reached the origin, each request once.
fn arrived(origin: &Counting) -> Arrivals {
    let seen = origin.seen();
    let mut paths: Vec<&str> = seen.requests.iter().map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    let all = paths.len();
    paths.dedup();
    assert_eq!(paths.len(), all, "a request arrived twice");
    seen
}

#[test]
fn a_gateway_killed_under_load_leaves_nothing_unrecorded() {
    let site = Site::up("");
    let origin = Counting::start(&site.network, 80);
    let storm = Storm::start(&site, &origin, "kill");
    wait_for("a third of the load", || origin.requests() > COUNT / 3);
    let killed = site.kill_part("gateway");
    let at = now();
    site.wait_restarted("gateway", killed);
    let lines = storm.finish();

    let seen = arrived(&origin);
    let synced = |when: Duration| when + SYNCED < at || when > at + FLIGHT;
    let mut rows = HashMap::new();
    let mut missing = Vec::new();
    let complete = try_wait(|| {
        rows = recorded(&site, "kill");
        let lacks = |one: &&Arrived| synced(one.at) && !rows.contains_key(&one.path);
        missing = seen.requests.iter().filter(lacks).collect();
        missing.is_empty()
    });
    assert!(complete, "unrecorded (killed at {at:?}): {missing:?}");
    check_once(&site);
    let gaps = site.rows(1, "SELECT *, toString(gap_boot_id) AS boot FROM gaps");
    assert_eq!((gaps.len(), &gaps[0]["cause"]), (1, &Value::from("crash")), "{gaps:?}");
    let (dead, first) = (gaps[0]["boot"].as_str().unwrap(), number(&gaps[0]["first_seq"]));
    let mut covered = 0;
    for one in &seen.requests {
        match rows.get(&one.path).map(Vec::as_slice) {
            Some([(boot, seq)]) => {
                assert!(boot != dead || first == 0 || *seq < first, "{} is in the gap", one.path);
            }
            Some(more) => panic!("{} is recorded {} times", one.path, more.len()),
            None => covered += 1,
        }
    }
    let open = seen.connections - seen.requests.len() - seen.silent.len();
    assert_eq!(open, 0, "connections that neither asked nor ended");
    assert!(seen.silent.iter().all(|when| !synced(*when)), "{:?} (kill {at:?})", seen.silent);

    let paths: std::collections::HashSet<&str> =
        seen.requests.iter().map(|one| one.path.as_str()).collect();
    let path = |line: &Line| format!("/kill/{}", line.number);
    for line in &lines {
        match line.said.as_str() {
            "ok" => assert!(paths.contains(path(line).as_str()), "{}: who answered?", line.number),
            "refused" => assert!(!paths.contains(path(line).as_str()), "{} passed", line.number),
            _ => {}
        }
    }
    let said = |what: &str| lines.iter().filter(|line| line.said == what).count();
    let refused = lines.iter().filter(|line| line.said == "refused").map(|line| line.from).min();
    let first = refused.expect("refused while it was dead").saturating_sub(at);
    println!(
        "killed: {} ok, {} refused (the first {first:?} after the kill), {} cut; {} reached the \
         origin, of which {covered} in the gap; {} connections to it asked nothing",
        said("ok"),
        said("refused"),
        COUNT - said("ok") - said("refused"),
        seen.requests.len(),
        seen.silent.len()
    );
    let last = lines.iter().max_by_key(|line| line.from).unwrap();
    assert_eq!(last.said, "ok", "it is up again");
}

/// Every connection was answered, and every one is recorded exactly once.
fn check_nothing_noticed(site: &Site, origin: &Counting, job: &str, lines: &[Line]) {
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line.said != "ok")
        .map(|line| (line.number, &line.said))
        .collect();
    assert!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
    wait_recorded(site, job, COUNT);
    check_once(site);
    let rows = recorded(site, job);
    let seen = arrived(origin);
    assert_eq!((seen.requests.len(), rows.len()), (COUNT, COUNT));
    assert_eq!((seen.connections, seen.silent.len()), (COUNT, 0));
    let twice: Vec<_> = rows.iter().filter(|(_, all)| all.len() != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let sql = format!("SELECT count() AS n FROM flows WHERE job_id = '{job}'");
    assert_eq!(number(&site.query(&sql)[0]["n"]), COUNT as u64);
}

#[test]
fn programs_replaced_under_load_fail_and_lose_nothing() {
    let site = Site::up("");
    let origin = Counting::start(&site.network, 80);
    let storm = Storm::start(&site, &origin, "attach");
    let mut upgrades = 0;
    // Each generation of programs gets to see some.
    while origin.requests() < COUNT * 3 / 4 {
        let before = origin.requests();
        assert!(site.said(&["attach"]).contains("replaced the programs"));
        upgrades += 1;
        wait_for("more load", || origin.requests() > (before + 200).min(COUNT * 3 / 4));
    }
    let lines = storm.finish();
    println!("attach: {upgrades} upgrades");
    check_nothing_noticed(&site, &origin, "attach", &lines);
    assert_eq!(site.query("SELECT * FROM gaps").len(), 0);
}

#[test]
fn gateways_replaced_under_load_fail_and_lose_nothing() {
    const TIMES: usize = 3;
    let site = Site::up("");
    let origin = Counting::start(&site.network, 80);
    let storm = Storm::start(&site, &origin, "gateway");
    for time in 1..=TIMES {
        wait_for("load", || origin.requests() > COUNT * time / (TIMES + 2));
        site.hand_over();
    }
    assert!(origin.requests() < COUNT, "the load ended before the last gateway came");
    let lines = storm.finish();
    check_nothing_noticed(&site, &origin, "gateway", &lines);
    let boots = site.query("SELECT uniqExact(boot_id) AS n FROM exchanges");
    assert_eq!(number(&boots[0]["n"]), TIMES as u64 + 1, "every gateway served");
    assert_eq!(site.query("SELECT * FROM gaps").len(), 0);
}
