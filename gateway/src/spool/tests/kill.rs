//! A real process, killed in the middle of appends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;
use uuid::Uuid;

use super::super::fs::{RealFs, SpoolFs};
use super::{encoded, load_all, open, row, settings};
use crate::record::row::Table;

const DIR: &str = "WEIR_TEST_SPOOL";
const BOOT: &str = "WEIR_TEST_BOOT";

#[test]
#[ignore = "not a test: the process that the one below kills"]
fn victim() {
    let dir = PathBuf::from(std::env::var_os(DIR).expect("started by the test below"));
    let boot = std::env::var(BOOT).unwrap().parse().unwrap();
    let fs: Arc<dyn SpoolFs> = Arc::new(RealFs);
    let mut config = settings(&dir);
    config.max_bytes = 1 << 30;
    config.sync_every = std::time::Duration::from_millis(1);
    let (mut writer, _) = open(&fs, &config, boot).unwrap();
    for value in 0.. {
        writer.append(&row(value, 100)).unwrap();
        if value % 7 == 0 {
            writer.tick(Instant::now()).unwrap();
            println!("synced {}", writer.synced_seq());
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_synced_and_repeats_nothing() {
    let dir = TempDir::new().unwrap();
    let fs: Arc<dyn SpoolFs> = Arc::new(RealFs);
    let mut reported = Vec::new();
    for (boot, until) in [(1_u128, 1), (2, 300), (3, 2000), (4, 40)] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "spool::tests::kill::victim", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .env(BOOT, boot.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let synced = |line: String| line.strip_prefix("synced ")?.parse::<u64>().ok();
        let enough = lines.by_ref().map_while(Result::ok).filter_map(synced).find(|n| *n >= until);
        victim.kill().unwrap();
        victim.wait().unwrap();
        // what was printed between the decision and the kill counts as well
        let last = lines.map_while(Result::ok).filter_map(synced).last();
        reported.push(last.or(enough).expect("the process reported what it synced"));
    }
    let (mut writer, recovered) = open(&fs, &settings(dir.path()), 99).unwrap();
    assert_eq!(recovered.crashed.last().unwrap().boot_id, Uuid::from_u128(4));
    writer.seal().unwrap();
    for (boot, reported) in (1_u128..).zip(reported) {
        let mut next = 1;
        for segment in load_all(&fs, dir.path()) {
            if segment.boot_id != Uuid::from_u128(boot) {
                continue;
            }
            let [batch] = segment.batches.try_into().unwrap();
            let mut want = Table::Gaps.header();
            (next..=batch.last_seq)
                .for_each(|seq| want.extend(encoded(boot, seq, &row(seq - 1, 100))));
            assert_eq!(batch.first_seq, next);
            assert!(batch.data == want, "start {boot}, segment {}", segment.number);
            next = batch.last_seq + 1;
        }
        assert!(next > reported, "start {boot}: {reported} synced, {} there", next - 1);
    }
}
