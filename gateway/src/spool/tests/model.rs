//! The spool against a model: generated appends, ticks, acknowledgements, crashes and damage, and
//! for each of them a prediction of exactly which records are left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::super::fs::SpoolFs;
use super::super::fs::faulty::FaultyFs;
use super::super::reader::Reader;
use super::super::segment::{FRAME_BYTES, MIN_HEADER_BYTES};
use super::super::writer::Writer;
use super::{encoded, later, open, row, settings};
use crate::config;
use crate::record::row::Table;

#[derive(Clone, Debug)]
enum Action {
    Append(usize),
    Tick(u64),
    Seal,
    Ack,
    Restart,
    /// The process dies: what it has written survives. Then the open file is damaged.
    Kill(Damage),
    /// The host dies: what was synced survives, and some bytes more.
    PowerLoss(usize, Damage),
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    Truncate(usize),
    Flip(usize, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => Just(Damage::None),
        1 => (0_usize..6000).prop_map(Damage::Truncate),
        1 => (0_usize..6000, 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => (0_usize..400).prop_map(Action::Append),
        4 => prop_oneof![Just(0), Just(250), Just(1100)].prop_map(Action::Tick),
        1 => Just(Action::Seal),
        2 => Just(Action::Ack),
        1 => Just(Action::Restart),
        2 => damage().prop_map(Action::Kill),
        2 => (0_usize..2000, damage()).prop_map(|(tail, d)| Action::PowerLoss(tail, d)),
    ]
}

/// One start of the gateway, as the model sees it.
#[derive(Default)]
struct Start {
    /// Padding of each record, in order; the value is the number.
    appended: Vec<usize>,
    /// Records in sealed segments, in the file, and known to be synced.
    sealed: u64,
    written: u64,
    synced: u64,
    /// Records that must be there after its end.
    left: Option<u64>,
}

impl Start {
    fn last(&self) -> u64 {
        self.appended.len() as u64
    }

    fn bytes(&self, boot: u128, seq: u64) -> Vec<u8> {
        encoded(boot, seq, &row(seq, self.appended[usize::try_from(seq).unwrap() - 1]))
    }

    /// Length of the open file up to the end of a record.
    fn end_of(&self, boot: u128, seq: u64) -> usize {
        let head = MIN_HEADER_BYTES + "host-a".len() + FRAME_BYTES + Table::Gaps.header().len();
        (self.sealed + 1..=seq).map(|s| FRAME_BYTES + self.bytes(boot, s).len()).sum::<usize>()
            + head
    }

    /// The last record of the open file that ends within its first `len` bytes.
    fn last_within(&self, boot: u128, len: usize) -> u64 {
        let within = |seq: &u64| self.end_of(boot, *seq) <= len;
        (self.sealed + 1..=self.written).take_while(within).last().unwrap_or(self.sealed)
    }
}

struct World {
    disk: FaultyFs,
    fs: Arc<dyn SpoolFs>,
    config: config::Spool,
    writer: Option<Writer>,
    boot: u128,
    starts: BTreeMap<u128, Start>,
    acknowledged: BTreeSet<(u128, u64)>,
}

impl World {
    fn new() -> Self {
        let disk = FaultyFs::default();
        let fs: Arc<dyn SpoolFs> = Arc::new(disk.clone());
        let mut config = settings(Path::new("/spool"));
        config.max_segment_bytes = 4096;
        let (starts, acknowledged) = (BTreeMap::new(), BTreeSet::new());
        let mut world = Self { disk, fs, config, writer: None, boot: 0, starts, acknowledged };
        world.start();
        world
    }

    fn start(&mut self) {
        self.boot += 1;
        let (writer, recovered) = open(&self.fs, &self.config, self.boot).unwrap();
        for segment in &recovered.segments {
            let boot = segment.boot_id.as_u128();
            assert_eq!(segment.last_seq, self.starts[&boot].left.unwrap());
            let crash = recovered.crashed.iter().find(|c| c.boot_id == segment.boot_id).unwrap();
            assert_eq!(crash.last_seq, Some(segment.last_seq));
        }
        assert_eq!(self.disk.paths(".open").len(), 0);
        self.writer = Some(writer);
        self.starts.insert(self.boot, Start::default());
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.config.dir, Arc::clone(&self.fs)).unwrap()
    }

    fn run(&mut self, action: &Action) {
        let writer = self.writer.as_mut().unwrap();
        let start = self.starts.get_mut(&self.boot).unwrap();
        let sealed_before = writer.sealed_segments();
        match action {
            Action::Append(padding) => {
                let seq = start.last() + 1;
                assert_eq!(writer.append(&row(seq, *padding)).unwrap(), seq);
                if writer.sealed_segments() > sealed_before {
                    (start.sealed, start.written, start.synced) = (seq - 1, seq - 1, seq - 1);
                }
                start.appended.push(*padding);
            }
            Action::Tick(ms) => {
                writer.tick(later(*ms)).unwrap();
                start.written = start.last();
                if *ms >= 250 {
                    start.synced = start.last();
                }
                if *ms >= 1100 {
                    assert!(!writer.is_busy() || start.last() == 0);
                    start.sealed = start.last();
                } else if writer.sealed_segments() > sealed_before {
                    (start.sealed, start.synced) = (start.last(), start.last());
                }
                assert_eq!(writer.synced_seq(), start.synced);
            }
            Action::Seal => {
                writer.seal().unwrap();
                let last = start.last();
                (start.sealed, start.written, start.synced) = (last, last, last);
            }
            Action::Ack => {
                let reader = self.reader();
                let Some(at) = reader.sealed().unwrap().into_iter().next() else { return };
                let segment = reader.load(&at).unwrap();
                let boot = segment.boot_id.as_u128();
                let batch = &segment.batches[0];
                let seqs = batch.first_seq..=batch.last_seq;
                self.acknowledged.extend(seqs.map(|seq| (boot, seq)));
                reader.ack(&at).unwrap();
            }
            Action::Restart => {
                start.left = Some(start.last());
                self.writer.take().unwrap().close().unwrap();
                self.start();
            }
            Action::Kill(damage) => {
                self.writer = None;
                let len = match start.written > start.sealed {
                    true => start.end_of(self.boot, start.written),
                    false => 0,
                };
                self.crash(len, *damage);
            }
            Action::PowerLoss(tail, damage) => {
                self.writer = None;
                self.disk.power_loss(*tail);
                let of = |seq: u64| match seq > start.sealed {
                    true => start.end_of(self.boot, seq),
                    false => 0,
                };
                let len = (of(start.synced) + tail).min(of(start.written));
                self.crash(len, *damage);
            }
        }
    }

    /// `len` bytes of the open file are left.
    fn crash(&mut self, len: usize, damage: Damage) {
        let start = self.starts.get_mut(&self.boot).unwrap();
        let mut intact = len;
        if let [path] = &self.disk.paths(".open")[..] {
            self.disk.damage(path, |bytes| {
                assert_eq!(bytes.len(), len);
                match damage {
                    Damage::Truncate(at) if at < len => bytes.truncate(at),
                    Damage::Flip(at, bit) if at < len => bytes[at] ^= 1 << bit,
                    _ => return,
                }
                let (Damage::Truncate(at) | Damage::Flip(at, _)) = damage else { return };
                intact = at;
            });
        }
        start.left = Some(start.last_within(self.boot, intact));
        self.start();
    }

    /// Every record that must be there is there, once, and nothing else is.
    fn check(&self) {
        let reader = self.reader();
        let mut present = BTreeSet::new();
        for at in reader.sealed().unwrap() {
            let segment = reader.load(&at).unwrap();
            let boot = segment.boot_id.as_u128();
            assert_eq!(segment.boot_id, Uuid::from_u128(boot));
            let [batch] = &segment.batches[..] else { panic!("one table only") };
            let mut want = Table::Gaps.header();
            for seq in batch.first_seq..=batch.last_seq {
                want.extend(self.starts[&boot].bytes(boot, seq));
                assert!(present.insert((boot, seq)), "{boot}/{seq} is there twice");
            }
            assert_eq!(batch.data, want);
        }
        for (boot, start) in &self.starts {
            // the running start shows what it has sealed
            let left = start.left.unwrap_or(start.sealed);
            for seq in 1..=start.last() {
                let there = present.contains(&(*boot, seq));
                let known = there || self.acknowledged.contains(&(*boot, seq));
                assert_eq!(known, seq <= left, "record {boot}/{seq} of {left}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn recovery_never_invents_reorders_or_repeats(
        actions in prop::collection::vec(action(), 1..80),
    ) {
        let mut world = World::new();
        for action in &actions {
            world.run(action);
            world.check();
        }
    }
}
