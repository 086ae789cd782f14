//! Tests of the recorder with its thread, over the fake file system.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::row::{BodyRow, ExchangeRow, GapRow, Row, Table};
use super::*;
use crate::clock::SystemClock;
use crate::inspect::mask::Masked;
use crate::spool::fs::faulty::{Faults, FaultyFs};
use crate::spool::reader::{Batch, Reader};
use crate::spool::writer::Writer;

fn config() -> Config {
    let mut config = Config::parse("").unwrap();
    config.spool.dir = "/spool".into();
    config.spool.max_bytes = 1 << 20;
    config.spool.max_segment_bytes = 64 << 10;
    config.spool.seal_after = Duration::from_millis(20);
    config.spool.sync_every = Duration::from_millis(5);
    config
}

fn producer(boot: u128) -> Producer {
    Producer {
        host_id: "host-a".into(),
        boot_id: Uuid::from_u128(boot),
        org: String::new(),
        project: String::new(),
        retain_metadata_s: 1,
        retain_bodies_s: 1,
    }
}

fn begin(disk: &FaultyFs, boot: u128) -> (Recorder, WriterThread) {
    start(&config(), &producer(boot), Arc::new(SystemClock), Arc::new(disk.clone())).unwrap()
}

fn gap(records: u64, padding: usize) -> GapRow {
    GapRow {
        ts: 1,
        cause: 7,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records,
        bytes: 0,
        detail: "x".repeat(padding),
    }
}

fn batches(disk: &FaultyFs) -> Vec<Batch> {
    let reader = Reader::open(Path::new("/spool"), Arc::new(disk.clone())).unwrap();
    let segments = reader.sealed().unwrap();
    segments.iter().flat_map(|at| reader.load(at).unwrap().batches).collect()
}

/// Whether such a row is in the spool under any number and time.
fn has(disk: &FaultyFs, row: &GapRow) -> bool {
    let mut bytes = Vec::new();
    row.encode(&producer(1), 1, &mut bytes);
    // without the number and the times
    let tail = &bytes[bytes.len() - row.detail.len() - 50..];
    batches(disk).iter().any(|b| b.data.windows(tail.len()).any(|w| w == tail))
}

fn count(recorder: &Recorder, name: &str) -> u64 {
    let snapshot = recorder.stats().snapshot();
    snapshot.iter().find(|(n, _)| *n == name).unwrap().1
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn exchange() -> Box<ExchangeRow> {
    Box::new(ExchangeRow {
        ts: 1,
        exchange_id: Uuid::nil(),
        flow_id: Uuid::nil(),
        session_id: Uuid::nil(),
        job_id: "job".into(),
        exec_id: "".into(),
        identity: "".into(),
        pid: 1,
        process: "".into(),
        class: 1,
        scheme: "https",
        dst_host: "".into(),
        dst_ip: std::net::Ipv6Addr::LOCALHOST,
        dst_port: 443,
        proto: "h1",
        upstream_proto: "h1",
        method: "GET".into(),
        path: "/".into(),
        query_masked: String::new(),
        status: 200,
        decision: 1,
        rule_id: String::new(),
        outcome: "ok",
        fault: "",
        detail: String::new(),
        req_bytes: 0,
        resp_bytes: 0,
        ttfb_us: 0,
        dur_us: 0,
        req_headers: Vec::new(),
        resp_headers: Vec::new(),
        req_sha256: [0; 32],
        resp_sha256: [0; 32],
        req_body: 0,
        resp_body: 1,
        chunk_us: Vec::new(),
        chunk_bytes: Vec::new(),
        findings: 0,
        finding_action: "",
        who: std::sync::Arc::default(),
    })
}

fn body(bytes: Bytes) -> BodyRow {
    BodyRow {
        ts: 1,
        exchange_id: Uuid::nil(),
        session_id: Uuid::nil(),
        job_id: "job".into(),
        dir: 2,
        chunk: 0,
        chunks: 1,
        content_type: String::new(),
        content_encoding: String::new(),
        body: Masked::made_up(bytes),
    }
}

#[tokio::test]
async fn what_is_sent_is_sealed_at_shutdown_in_order() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    for n in 0..5000 {
        recorder.reserve().await.unwrap().send(Record::Gap(gap(n, 0)));
    }
    thread.shutdown().unwrap();
    let rows: u64 = batches(&disk).iter().map(|batch| batch.rows).sum();
    assert_eq!((rows, count(&recorder, "record_rows")), (5000, 5000));
    assert!(matches!(recorder.reserve().await, Err(RecordError::Closed)));
    // a clean end: the next start finds nothing to tell
    let (recorder, thread) = begin(&disk, 2);
    thread.shutdown().unwrap();
    assert_eq!(count(&recorder, "record_rows"), 0);
}

#[tokio::test]
async fn a_single_record_is_sealed_in_time_also_after_silence() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    for (n, pause) in [(1, 0), (2, 1300)] {
        // the thread stops napping after a second of silence
        tokio::time::sleep(Duration::from_millis(pause)).await;
        recorder.reserve().await.unwrap().send(Record::Gap(gap(n, 0)));
        wait_for("sealing", || count(&recorder, "record_segments_sealed") == n);
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let begun = Instant::now();
    thread.shutdown().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "shutdown wakes the thread");
}

#[tokio::test(start_paused = true)]
async fn slots_are_bounded_waited_for_and_refused_after_the_deadline() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    let mut permits = Vec::new();
    for _ in 0..limits::MAX_OPEN_RECORDS {
        permits.push(recorder.reserve().await.unwrap());
    }
    let begun = tokio::time::Instant::now();
    assert!(matches!(recorder.reserve().await, Err(RecordError::Wait)));
    assert_eq!(begun.elapsed(), limits::RECORD_WAIT);
    assert_eq!(count(&recorder, "record_refused_wait"), 1);
    drop(permits.pop());
    drop(recorder.reserve().await.unwrap());
    drop(permits);
    thread.shutdown().unwrap();
}

#[tokio::test]
async fn permits_that_are_open_at_shutdown_are_told_as_a_gap() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    let permits = [recorder.reserve().await.unwrap(), recorder.reserve().await.unwrap()];
    tokio::task::spawn_blocking(|| thread.shutdown().unwrap()).await.unwrap();
    let mut want = gap(2, 0);
    (want.cause, want.gap_boot_id, want.first_seq) = (3, Uuid::from_u128(1), 1);
    want.detail = "exchanges were open when the gateway stopped".into();
    assert!(has(&disk, &want));
    permits.into_iter().for_each(|permit| permit.send(Record::Gap(gap(0, 0))));
    assert_eq!(count(&recorder, "record_lost_at_shutdown"), 2);
}

#[tokio::test]
async fn a_crash_is_the_first_record_of_the_next_start() {
    let disk = FaultyFs::default();
    let fs: Arc<dyn SpoolFs> = Arc::new(disk.clone());
    let clock = Arc::new(SystemClock);
    let (mut spool, _) = Writer::open(fs, &config().spool, &producer(1), clock).unwrap();
    (0..3).for_each(|n| assert!(spool.append(&gap(n, 0)).is_ok()));
    spool.sync().unwrap();
    drop(spool);
    let (recorder, thread) = begin(&disk, 2);
    thread.shutdown().unwrap();
    let mut want = gap(0, 0);
    (want.cause, want.gap_boot_id, want.first_seq) = (2, Uuid::from_u128(1), 4);
    want.detail = "the gateway did not end in order; later records may be missing".into();
    assert!(has(&disk, &want));
    let first = batches(&disk).pop().unwrap();
    assert_eq!((first.first_seq, first.last_seq), (1, 1));
    assert_eq!(count(&recorder, "record_recovered_records"), 3);
}

#[tokio::test]
async fn a_failing_disk_refuses_and_recovers_and_the_loss_is_told() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    let late = recorder.reserve().await.unwrap();
    disk.set(Faults { write: Some(libc::EIO), ..Faults::default() });
    recorder.reserve().await.unwrap().send(Record::Gap(gap(1, 0)));
    wait_for("failing", || count(&recorder, "record_spool_failures") == 1);
    assert!(matches!(recorder.reserve().await, Err(RecordError::Failed)));
    late.send(Record::Gap(gap(2, 0)));
    wait_for("losing", || count(&recorder, "record_lost") == 1);
    disk.set(Faults::default());
    wait_for("recovering", || recorder.shared.check().is_ok());
    drop(recorder.reserve().await.unwrap());
    thread.shutdown().unwrap();
    let mut swallowed = gap(1, 0);
    (swallowed.cause, swallowed.gap_boot_id) = (1, Uuid::from_u128(1));
    (swallowed.first_seq, swallowed.last_seq) = (1, 1);
    swallowed.detail = "a failed write to the spool swallowed them".into();
    assert!(has(&disk, &swallowed));
    assert_eq!(count(&recorder, "record_lost_written"), 1);
    assert_eq!(batches(&disk).iter().map(|b| b.rows).sum::<u64>(), 2, "two gap rows");
}

#[tokio::test]
async fn a_full_spool_drops_bodies_first_then_refuses_then_tells_the_loss() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    let late: Vec<_> = {
        let mut permits = Vec::new();
        for _ in 0..200 {
            permits.push(recorder.reserve().await.unwrap());
        }
        permits
    };
    let full = || recorder.stats().spool_bytes_now.load(Ordering::Relaxed);
    let mut late = late.into_iter();
    while full() < 760_000 {
        let before = full();
        late.next().unwrap().send(Record::Gap(gap(0, 20_000)));
        wait_for("filling", || full() > before);
    }
    let lease = recorder.body_budget().try_take(1000).unwrap();
    let bodies = vec![body(lease.attach(vec![b'b'; 1000]))];
    late.next().unwrap().send(Record::Exchange(exchange(), bodies, Vec::new()));
    wait_for("dropping", || count(&recorder, "record_bodies_dropped") == 1);
    wait_for("giving memory back", || recorder.body_budget().used() == 0);
    // open exchanges end all the same, until nothing fits
    for permit in late {
        permit.send(Record::Gap(gap(0, 20_000)));
    }
    wait_for("losing", || count(&recorder, "record_lost") > 0);
    wait_for("closing", || recorder.shared.check().is_err());
    assert!(matches!(recorder.reserve().await, Err(RecordError::Full)));
    assert!(count(&recorder, "record_refused_full") > 0);
    assert!(full() <= 1 << 20);
    wait_for("writing all", || recorder.queue.capacity() == limits::MAX_OPEN_RECORDS);
    let all = batches(&disk);
    assert!(all.iter().all(|b| b.table != Table::Bodies));
    let reader = Reader::open(Path::new("/spool"), Arc::new(disk.clone())).unwrap();
    reader.sealed().unwrap().iter().for_each(|at| reader.ack(at).unwrap());
    wait_for("recovering", || recorder.shared.check().is_ok());
    recorder.reserve().await.unwrap().send(Record::Gap(gap(0, 0)));
    let lost = count(&recorder, "record_lost");
    thread.shutdown().unwrap();
    let seq = batches(&disk).iter().map(|b| b.last_seq).max().unwrap();
    // the row before the last tells the loss: its count and its number stand side by side
    let mut want = Vec::new();
    want.extend(0_u64.to_le_bytes());
    want.extend(lost.to_le_bytes());
    let told = batches(&disk).iter().any(|b| b.data.windows(16).any(|w| w == want));
    assert!(told, "{lost} lost, last number {seq}");
}

#[test]
fn alarms_are_written_also_those_that_wait_at_the_end() {
    let disk = FaultyFs::default();
    let (recorder, thread) = begin(&disk, 1);
    for _ in 0..3 {
        recorder.alarm(Alarm::new("policy_reload_failed", Severity::Error, "line 3"));
    }
    thread.shutdown().unwrap();
    let alarms: Vec<_> =
        batches(&disk).into_iter().filter(|batch| batch.table == Table::Alarms).collect();
    // The first, and its equals together.
    assert_eq!(alarms.iter().map(|batch| batch.rows).sum::<u64>(), 2);
    recorder.alarm(Alarm::new("too_late", Severity::Error, ""));
    assert_eq!(recorder.stats().alarms_unqueued.load(Ordering::Relaxed), 1);
}
