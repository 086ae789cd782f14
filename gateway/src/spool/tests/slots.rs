//! Two gateways in one spool directory.

use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;

use super::super::SpoolError;
use super::super::fs::{RealFs, SpoolFs};
use super::super::recover::Recovered;
use super::super::slots::{self, MAX_SLOTS};
use super::super::writer::Writer;
use super::{load_all, producer, row, settings};
use crate::clock::{SharedClock, SystemClock};
use crate::config;
use crate::record::adopt;
use crate::sink::deliver::SegmentSource as _;
use crate::sink::spooled::Spooled;

struct World {
    dir: TempDir,
    fs: Arc<dyn SpoolFs>,
    config: config::Spool,
    clock: SharedClock,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = settings(dir.path());
        Self { fs: Arc::new(RealFs), clock: Arc::new(SystemClock), config, dir }
    }

    fn open(&self, boot: u128) -> Result<(Writer, Recovered), SpoolError> {
        slots::open(&self.fs, &self.config, &producer(boot), &self.clock)
    }

    fn adopt(&self) -> usize {
        adopt::abandoned(&self.fs, &self.config, &producer(99), &self.clock).unwrap()
    }

    /// Boots and record counts of all sealed segments.
    fn sealed(&self) -> Vec<(Uuid, u64)> {
        let dirs = slots::dirs(self.dir.path()).filter(|dir| dir.exists());
        let segments = dirs.flat_map(|dir| load_all(&self.fs, &dir));
        segments.map(|s| (s.boot_id, s.batches.iter().map(|b| b.rows).sum())).collect()
    }
}

#[test]
fn a_second_writer_takes_another_slot_and_the_first_is_used_again() {
    let world = World::new();
    let (mut old, _) = world.open(1).unwrap();
    let (mut new, found) = world.open(2).unwrap();
    assert_eq!(found, Recovered::default(), "a slot in use is nobody's crash");
    assert_eq!((old.append(&row(1, 9)).unwrap(), new.append(&row(2, 9)).unwrap()), (1, 1));
    assert_eq!(world.adopt(), 0, "both are in use");
    old.close().unwrap();
    new.close().unwrap();
    assert_eq!(world.sealed(), [(Uuid::from_u128(1), 1), (Uuid::from_u128(2), 1)]);
    let source = Spooled::open(world.dir.path(), &world.fs).unwrap();
    assert_eq!(source.sealed().unwrap().len(), 2, "both are delivered");
    for place in source.sealed().unwrap() {
        source.ack(&place).unwrap();
    }
    assert_eq!(source.sealed().unwrap().len(), 0);
    let (third, found) = world.open(3).unwrap();
    assert_eq!((found, third.sealed_segments()), (Recovered::default(), 0));
    assert_eq!(world.adopt(), 0, "the other slot was closed in order");
}

#[test]
fn every_slot_taken_is_refused_and_the_quota_holds_for_all() {
    let world = World::new();
    let mut all: Vec<_> = (1..=4_u128).map(|boot| world.open(boot).unwrap().0).collect();
    assert_eq!(all.len(), MAX_SLOTS);
    assert!(matches!(world.open(5), Err(SpoolError::Locked(_))));
    let mut last = all.pop().unwrap();
    let half = usize::try_from(world.config.max_bytes / 2).unwrap();
    for writer in &mut all {
        // None of them fills the quota by itself.
        writer.append(&row(1, half / 2)).unwrap();
        writer.sync().unwrap();
    }
    drop(last);
    last = world.open(6).unwrap().0;
    assert!(matches!(last.append(&row(1, half)), Err(SpoolError::Full { .. })));
}

#[test]
fn a_killed_writer_of_another_slot_is_sealed_and_told_once() {
    let world = World::new();
    let (mut old, _) = world.open(1).unwrap();
    old.append(&row(1, 9)).unwrap();
    old.append(&row(2, 9)).unwrap();
    old.sync().unwrap();
    let (mut new, _) = world.open(2).unwrap();
    new.append(&row(3, 9)).unwrap();
    new.sync().unwrap();
    // As by SIGKILL: the lock goes, the files stay.
    drop(old);
    assert_eq!(world.adopt(), 1);
    assert_eq!(world.adopt(), 0, "told once");
    let sealed = world.sealed();
    assert_eq!(sealed.first(), Some(&(Uuid::from_u128(1), 2)), "what was synced is there");
    let [_, (teller, 1)] = sealed[..] else { panic!("{sealed:?}") };
    assert!(teller != Uuid::from_u128(1) && teller != Uuid::from_u128(2));
    let gap = &load_all(&world.fs, world.dir.path())[1].batches[0];
    let crashed = Uuid::from_u128(1);
    // ClickHouse stores a UUID as two little-endian halves.
    let (high, low) = crashed.as_u64_pair();
    let bytes = [high.to_le_bytes(), low.to_le_bytes()].concat();
    assert!(gap.data.windows(16).any(|window| window == bytes), "the gap names the crashed start");
    // The live slot was not touched.
    new.close().unwrap();
    assert_eq!(world.sealed().last(), Some(&(Uuid::from_u128(2), 1)));
}

#[test]
fn one_gateway_delivers_at_a_time() {
    let world = World::new();
    let lock = || slots::sink_lock(world.fs.as_ref(), world.dir.path()).unwrap();
    let held = lock();
    assert!(held.is_some() && lock().is_none());
    drop(held);
    assert!(lock().is_some());
}
