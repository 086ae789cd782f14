//! Tests of the spool as a whole; see also the modules below.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;

use super::SpoolError;
use super::fs::faulty::{Faults, FaultyFs};
use super::fs::{RealFs, SpoolFs};
use super::reader::{Reader, Segment};
use super::recover::{Crash, Recovered};
use super::segment::{End, FLAG_HEADER, Footer, Frame, Header, put_frame};
use super::writer::{Level, Writer};
use crate::clock::{FakeClock, WallUs};
use crate::config;
use crate::record::row::{GapRow, Producer, Row, Table};

mod hostile;
mod kill;
mod model;
mod slots;

pub(super) fn producer(boot: u128) -> Producer {
    Producer {
        host_id: "host-a".into(),
        boot_id: Uuid::from_u128(boot),
        org: "org".into(),
        project: String::new(),
        retain_metadata_s: 10,
        retain_bodies_s: 5,
    }
}

pub(super) fn settings(dir: &Path) -> config::Spool {
    config::Spool {
        dir: dir.to_owned(),
        max_bytes: 1 << 20,
        max_segment_bytes: 64 << 10,
        seal_after: Duration::from_secs(1),
        sync_every: Duration::from_millis(200),
    }
}

pub(super) fn open(
    fs: &Arc<dyn SpoolFs>,
    config: &config::Spool,
    boot: u128,
) -> Result<(Writer, Recovered), SpoolError> {
    let clock = Arc::new(FakeClock::at(WallUs(1_800_000_000_000_000)));
    Writer::open(Arc::clone(fs), config, &producer(boot), clock)
}

/// A row that carries a value to recognise it by.
pub(super) fn row(value: u64, padding: usize) -> GapRow {
    GapRow {
        ts: 1,
        cause: 1,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records: value,
        bytes: 0,
        detail: "x".repeat(padding),
    }
}

pub(super) fn encoded(boot: u128, seq: u64, row: &GapRow) -> Vec<u8> {
    let mut out = Vec::new();
    row.encode(&producer(boot), seq, &mut out);
    out
}

fn faulty() -> (FaultyFs, Arc<dyn SpoolFs>, config::Spool) {
    let fs = FaultyFs::default();
    (fs.clone(), Arc::new(fs), settings(Path::new("/spool")))
}

fn load_all(fs: &Arc<dyn SpoolFs>, dir: &Path) -> Vec<Segment> {
    let reader = Reader::open(dir, Arc::clone(fs)).unwrap();
    reader.sealed().unwrap().iter().map(|at| reader.load(at).unwrap()).collect()
}

fn later(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[test]
fn records_come_back_in_order_with_the_header_of_their_table() {
    let dir = TempDir::new().unwrap();
    let (fs, config): (Arc<dyn SpoolFs>, _) = (Arc::new(RealFs), settings(dir.path()));
    let (mut writer, recovered) = open(&fs, &config, 1).unwrap();
    assert_eq!(recovered, Recovered::default());
    for value in 0..100 {
        assert_eq!(writer.append(&row(value, 10)).unwrap(), value + 1);
    }
    writer.close().unwrap();
    let [segment] = load_all(&fs, dir.path()).try_into().unwrap();
    let mut want = Table::Gaps.header();
    (0..100).for_each(|value| want.extend(encoded(1, value + 1, &row(value, 10))));
    let [batch] = segment.batches.clone().try_into().unwrap();
    assert_eq!((batch.rows, batch.first_seq, batch.last_seq), (100, 1, 100));
    assert_eq!(batch.data, want);
    let token = format!("host-a/{}/1/gaps", Uuid::from_u128(1));
    assert_eq!(segment.token(&batch), token);
    assert!(
        std::fs::read_dir(dir.path())
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_str().unwrap().ends_with(".open") })
    );
}

#[test]
fn acknowledged_segments_are_gone_and_numbers_still_grow_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (fs, config): (Arc<dyn SpoolFs>, _) = (Arc::new(RealFs), settings(dir.path()));
    let mut last = 0;
    for boot in 1..4 {
        let (mut writer, recovered) = open(&fs, &config, boot).unwrap();
        assert_eq!(recovered.crashed, vec![]);
        writer.append(&row(7, 0)).unwrap();
        writer.close().unwrap();
        let reader = Reader::open(dir.path(), Arc::clone(&fs)).unwrap();
        let [at] = reader.sealed().unwrap().try_into().unwrap();
        assert!(at.number > last);
        last = at.number;
        reader.ack(&at).unwrap();
        reader.ack(&at).unwrap();
        assert_eq!(reader.sealed().unwrap(), vec![]);
    }
}

#[test]
fn segments_are_chained_across_seal_ack_and_restart() {
    let (disk, fs, config) = faulty();
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    let mut want = [0; 32];
    for boot in 1..4 {
        let (mut writer, _) = open(&fs, &config, boot).unwrap();
        for _ in 0..2 {
            writer.append(&row(7, 0)).unwrap();
            writer.seal().unwrap();
            let path = disk.paths(".seg").pop().unwrap();
            let bytes = fs.read(&path, u64::MAX).unwrap();
            let scan = super::segment::scan(&bytes, |_| {}).unwrap();
            assert_eq!(scan.header.prev, want);
            let End::Sealed(footer) = scan.end else { panic!("{scan:?}") };
            want = footer.sha256;
            reader.ack(&reader.sealed().unwrap()[0]).unwrap();
        }
        writer.close().unwrap();
    }
}

#[test]
fn two_writers_on_one_directory_are_refused() {
    let dir = TempDir::new().unwrap();
    let (fs, config): (Arc<dyn SpoolFs>, _) = (Arc::new(RealFs), settings(dir.path()));
    let (first, _) = open(&fs, &config, 1).unwrap();
    assert!(matches!(open(&fs, &config, 2), Err(SpoolError::Locked(_))));
    drop(first);
    open(&fs, &config, 2).unwrap();
}

#[test]
fn a_boot_id_is_not_used_twice() {
    let (_, fs, config) = faulty();
    open(&fs, &config, 1).unwrap().0.close().unwrap();
    assert!(matches!(open(&fs, &config, 1), Err(SpoolError::BootReused(_))));
}

#[test]
fn seal_and_sync_happen_on_time_without_traffic() {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    writer.append(&row(1, 0)).unwrap();
    writer.tick(Instant::now()).unwrap();
    assert_eq!(writer.synced_seq(), 0);
    writer.tick(later(250)).unwrap();
    assert_eq!((writer.synced_seq(), disk.paths(".open").len()), (1, 1));
    writer.tick(later(1100)).unwrap();
    assert_eq!((disk.paths(".open").len(), disk.paths(".seg").len()), (0, 1));
    assert!(!writer.is_busy());
}

#[test]
fn a_segment_is_sealed_before_it_outgrows_its_size() {
    let (_, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    for value in 0..200 {
        writer.append(&row(value, 1000)).unwrap();
    }
    writer.close().unwrap();
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    let sealed = reader.sealed().unwrap();
    assert_eq!(sealed.len(), 4);
    assert!(sealed.iter().all(|at| at.bytes <= config.max_segment_bytes), "{sealed:?}");
}

#[test]
fn a_full_spool_refuses_until_segments_are_acknowledged() {
    let (_, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    let mut written = 0;
    let mut levels = vec![writer.level()];
    let error = loop {
        match writer.append(&row(written, 1000)) {
            Ok(seq) => assert_eq!(seq, written + 1),
            Err(e) => break e,
        }
        written += 1;
        let level = writer.level();
        if levels.last() != Some(&level) {
            levels.push(level);
        }
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert_eq!(levels, [Level::Normal, Level::NoBodies, Level::Full]);
    assert!(writer.used_bytes() <= config.max_bytes);
    assert!(writer.is_full());
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    // one segment is 6 % of the quota: not enough to begin again
    for (at, (ms, full)) in reader.sealed().unwrap().iter().zip([(60_000, true), (120_000, false)])
    {
        reader.ack(at).unwrap();
        writer.tick(later(ms)).unwrap();
        assert_eq!(writer.is_full(), full);
    }
    assert_eq!(writer.append(&row(0, 0)).unwrap(), written + 1, "a refused record has no number");
}

#[test]
fn a_giant_record_is_refused_and_takes_no_number() {
    let (_, fs, mut config) = faulty();
    config.max_bytes = 1 << 30;
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    let giant = row(0, crate::limits::MAX_RECORD_BYTES);
    assert!(matches!(writer.append(&giant), Err(SpoolError::TooLarge { .. })));
    assert_eq!(writer.append(&row(0, 0)).unwrap(), 1);
}

/// Ten records, a fault under the last five, then a good disk: what is lost is told exactly.
fn survives(faults: Faults) {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    (0..5).for_each(|value| assert!(writer.append(&row(value, 0)).is_ok()));
    writer.sync().unwrap();
    (5..10).for_each(|value| assert!(writer.append(&row(value, 0)).is_ok()));
    disk.set(faults);
    let error = writer.tick(later(1100)).unwrap_err();
    assert!(matches!(error, SpoolError::Io { .. }), "{faults:?}: {error}");
    assert!(matches!(writer.append(&row(99, 0)), Err(SpoolError::Failed(_))));
    // still broken at the next try
    if faults.write.is_some() || faults.sync.is_some() {
        assert!(writer.tick(later(3000)).is_err());
    }
    disk.set(Faults::default());
    assert!(matches!(writer.tick(Instant::now()), Err(SpoolError::Failed(_))), "too early");
    writer.tick(later(60_000)).unwrap();
    assert_eq!(writer.failure(), None);
    let lost = writer.take_lost();
    let saved = lost.map_or(10, |lost| lost.first_seq - 1);
    assert!(saved >= 5 && lost.is_none_or(|lost| lost.last_seq == 10), "{faults:?}: {lost:?}");
    assert_eq!(writer.append(&row(10, 0)).unwrap(), 11, "numbers go on");
    writer.close().unwrap();
    disk.power_loss(0);
    let segments = load_all(&fs, &config.dir);
    let mut want = Table::Gaps.header();
    (0..saved).for_each(|value| want.extend(encoded(1, value + 1, &row(value, 0))));
    assert_eq!(segments[0].batches[0].data, want, "{faults:?}");
    assert_eq!(segments[1].batches[0].first_seq, 11);
    assert_eq!(open(&fs, &config, 2).unwrap().1, Recovered::default());
}

#[test]
fn a_failing_disk_loses_only_what_is_told() {
    let write = |errno, short| Faults { write: Some(errno), short, ..Faults::default() };
    for short in [0, 1, 17, 100, 300, 601] {
        survives(write(libc::ENOSPC, short));
        survives(write(libc::EIO, short));
    }
    survives(Faults { sync: Some(libc::EIO), ..Faults::default() });
    survives(Faults { rename: Some(libc::EIO), ..Faults::default() });
    survives(Faults { sync_dir: Some(libc::EIO), ..Faults::default() });
}

#[test]
fn a_disk_that_refuses_new_files_is_tried_again() {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    disk.set(Faults { create: Some(libc::ENOSPC), ..Faults::default() });
    let error = writer.append(&row(0, 0)).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    disk.set(Faults::default());
    writer.tick(later(60_000)).unwrap();
    assert_eq!(writer.append(&row(0, 0)).unwrap(), 1);
}

#[test]
fn a_disk_smaller_than_the_quota_is_the_quota() {
    let (disk, fs, config) = faulty();
    disk.set_capacity(Some(100_000));
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    let error = (0..1000).find_map(|v| writer.append(&row(v, 1000)).err()).unwrap();
    assert!(matches!(error, SpoolError::Full { max: 90_000..=100_000, .. }), "{error}");
    writer.seal().unwrap();
    assert_eq!(load_all(&fs, &config.dir).len(), 2);
}

#[test]
fn a_crash_is_told_even_when_nothing_was_open_and_again_until_it_is_on_disk() {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    writer.append(&row(0, 0)).unwrap();
    writer.seal().unwrap();
    drop(writer);
    let crash = |boot, last_seq| Crash { boot_id: Uuid::from_u128(boot), last_seq };
    let (writer, recovered) = open(&fs, &config, 2).unwrap();
    assert_eq!(recovered.crashed, [crash(1, Some(1))]);
    drop(writer);
    disk.power_loss(0);
    let (mut writer, recovered) = open(&fs, &config, 3).unwrap();
    assert_eq!(recovered.crashed, [crash(1, Some(1))], "start 2 has told nobody");
    writer.append(&row(0, 0)).unwrap();
    writer.sync().unwrap();
    drop(writer);
    disk.power_loss(0);
    let (_, recovered) = open(&fs, &config, 4).unwrap();
    assert_eq!(recovered.crashed, [crash(3, Some(1))]);
    assert_eq!(recovered.segments[0].records, 1);
}

#[test]
fn numbers_grow_after_a_crash_when_all_segments_are_acknowledged() {
    let (_, fs, mut config) = faulty();
    config.max_bytes = 1 << 30;
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    for _ in 0..=2 * super::state::BLOCK {
        writer.append(&row(0, 0)).unwrap();
        writer.seal().unwrap();
        reader.ack(&reader.sealed().unwrap()[0]).unwrap();
    }
    drop(writer);
    let (mut writer, _) = open(&fs, &config, 2).unwrap();
    writer.append(&row(0, 0)).unwrap();
    writer.seal().unwrap();
    assert!(reader.sealed().unwrap()[0].number > 2 * super::state::BLOCK + 1);
}

/// The bytes of docs/spool-format.md; when this fails, the version must change.
#[test]
fn the_format_is_the_documented_one() {
    let header = Header {
        host_id: "h".into(),
        boot_id: Uuid::from_u128(0x0102),
        number: 3,
        created: WallUs(4),
        first_seq: 5,
        prev: [6; 32],
    };
    let (mut bytes, seed) = header.encode().unwrap();
    let frame = Frame { seq: 5, table: 4, flags: FLAG_HEADER, payload: b"names" };
    put_frame(seed, frame, &mut bytes).unwrap();
    put_frame(seed, Frame { flags: 0, payload: b"row", ..frame }, &mut bytes).unwrap();
    let sha256 = super::segment::sha256(&bytes);
    let footer = Footer { records: 1, first_seq: 5, last_seq: 5, sha256 };
    footer.encode(seed, &mut bytes).unwrap();
    let scan = super::segment::scan(&bytes, |_| {}).unwrap();
    assert_eq!((scan.header, scan.end), (header, End::Sealed(footer)));
    let want = concat!(
        "574549525345470a0100000000000000000000000000000001020300000000000000040000000000",
        "00000500000000000000060606060606060606060606060606060606060606060606060606060606",
        "0606010068b0386dee0500000077adceef050000000000000004016e616d65730300000057f038de",
        "05000000000000000400726f7738000000506d4f0405000000000000000002010000000000000005",
        "00000000000000050000000000000063aa679d14c75a126a743d5cfc708bd6a34018ed10be95cb19",
        "4dd0d002524011",
    );
    assert_eq!(hex::encode(bytes), want);
}

#[test]
fn an_unreadable_state_never_repeats_a_number() {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    writer.append(&row(0, 0)).unwrap();
    writer.close().unwrap();
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    reader.ack(&reader.sealed().unwrap()[0]).unwrap();
    disk.damage(&config.dir.join("state"), |bytes| bytes[20] ^= 1);
    let (mut writer, recovered) = open(&fs, &config, 2).unwrap();
    assert_eq!(recovered.crashed, [Crash { boot_id: Uuid::nil(), last_seq: None }]);
    writer.append(&row(0, 0)).unwrap();
    writer.close().unwrap();
    assert!(reader.sealed().unwrap()[0].number > 1);
}

#[test]
fn a_quarantined_segment_leaves_the_queue_and_keeps_its_reason() {
    let (disk, fs, config) = faulty();
    let (mut writer, _) = open(&fs, &config, 1).unwrap();
    (0..9).for_each(|value| assert!(writer.append(&row(value, 0)).is_ok()));
    writer.close().unwrap();
    let path: PathBuf = disk.paths(".seg")[0].clone();
    disk.damage(&path, |bytes| {
        let at = bytes.len() - 200;
        bytes[at] ^= 0x10;
    });
    let reader = Reader::open(&config.dir, Arc::clone(&fs)).unwrap();
    let [at] = reader.sealed().unwrap().try_into().unwrap();
    let error = reader.load(&at).unwrap_err();
    assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
    let rows = reader.salvage(&at).unwrap().batches[0].rows;
    assert!((1..9).contains(&rows), "{rows}");
    reader.quarantine(&at, &error.to_string()).unwrap();
    assert_eq!(reader.sealed().unwrap(), vec![]);
    let reason = fs.read(&disk.paths(".reason")[0], 4096).unwrap();
    assert_eq!(String::from_utf8(reason).unwrap(), format!("{error}\n"));
    assert_eq!(disk.paths("quarantine/00000000000000000001.seg").len(), 1);
}
