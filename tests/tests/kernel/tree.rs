//! Trees of captured processes, and what the kernel knows about them.
//!
//! - input: an attached [`World`], commands of `weir-test-tree`
//! - output: [`Tree`]s; connections by destination; entries of map `ANCHORS`
//! - bound: every accept ends after `PATIENCE`
//! - on failure: panics; `Drop` ends the root

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use aya::maps::{HashMap, Map, MapData};
use weir_ebpf_common::AnchorEntry;
use weir_gateway::capture::ProcessKey;
use weir_gateway::capture::anchors::{Anchor, AnchorSource, Membership};

use crate::world::World;

const TREE: &str = env!("CARGO_BIN_EXE_weir-test-tree");

/// A root that waits until it may begin. Killed when dropped.
pub(crate) struct Tree {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Tree {
    pub(crate) fn start(world: &World, args: &[&str]) -> Self {
        let mut tree = Self::start_silent(world, args);
        assert_eq!(tree.line(), "ready", "{args:?}");
        tree
    }

    pub(crate) fn start_silent(world: &World, args: &[&str]) -> Self {
        let mut child = Command::new(TREE)
            .args(["--cgroup", world.places.captured.to_str().unwrap()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    pub(crate) fn done(&mut self) {
        assert_eq!(self.line(), "done");
    }

    /// Lets the root exit, and waits for it.
    pub(crate) fn finish(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Tree {
    /// Lets the root exit before it has done anything.
    pub(crate) fn end_early(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The next connections: who made each, by destination.
pub(crate) fn accept(
    world: &World,
    connections: usize,
) -> BTreeMap<String, (ProcessKey, Option<Membership>)> {
    let mut seen = BTreeMap::new();
    for _ in 0..connections {
        let (_stream, record) = world.accept_v4();
        let record = record.unwrap();
        let who = (record.process.key, record.process.anchor);
        assert_eq!(seen.insert(record.orig_dst.0.to_string(), who), None, "connected twice");
    }
    seen
}

/// What the kernel says about a descendant that it saw being forked.
pub(crate) fn sure(anchor: &Anchor) -> Option<Membership> {
    let (id, source) = (anchor.id, AnchorSource::Fork);
    Some(Membership { id, source, is_root: false, is_ended: false })
}

/// `CLOCK_BOOTTIME`.
pub(crate) fn boot_time_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap()
}

/// Numbers of all processes with an anchor.
pub(crate) fn entries(world: &World) -> BTreeSet<u32> {
    open(world).keys().map(Result::unwrap).collect()
}

/// Map `ANCHORS` itself.
pub(crate) fn open(world: &World) -> HashMap<MapData, u32, AnchorEntry> {
    let data = MapData::from_pin(world.places.pin_dir.join("ANCHORS")).unwrap();
    HashMap::try_from(Map::from_map_data(data).unwrap()).unwrap()
}
