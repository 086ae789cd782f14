//! Job anchors: begins and ends the process trees that identities are bound to.
//!
//! - input: pids of roots; the pinned maps `ANCHORS`, `ANCHOR_ROOTS` and `ANCHOR_OUTER`
//! - output: [`Anchor`]s, which end with their root; [`Membership`] of processes
//! - bound: [`MAX_ANCHORS`] anchors, [`MAX_ENTRIES`] processes, [`walk::MAX_PASSES`] passes over `/proc`
//! - on failure: [`AnchorError`]; a process without entry has no anchor, and never another's
//!
//! The kernel keeps the tree (`ebpf/src/anchor.rs`); this module plants it and reads it. It needs
//! write permission on the three pins and no capability (Linux 5.19), and must run in the initial pid
//! and time namespaces: the kernel's numbers are theirs. Everything here blocks, but for
//! [`Anchor::ended`].

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_ebpf_common::anchor::{ANCHOR_ENDED, ANCHOR_ROOT};
use weir_ebpf_common::{AnchorEntry, AnchorRoot};

use super::maps::{self, Maps, bpf};
use super::{CaptureError, ProcessKey, syscall};
use stat::{Stat, TICK_NS};

mod error;
mod membership;
mod stat;
mod walk;

pub use error::AnchorError;
pub use membership::{AnchorSource, Membership};
pub use walk::Walk;
pub use weir_ebpf_common::anchor::{MAX_ANCHORS, MAX_ENTRIES};

/// Inodes of the initial namespaces, on every kernel: `PROC_PID_INIT_INO`, `PROC_TIME_INIT_INO`.
const INITIAL: [(&str, u64); 2] =
    [("/proc/self/ns/pid", 0xEFFF_FFFC), ("/proc/self/ns/time", 0xEFFF_FFFA)];
const BPF_NOEXIST: u64 = 1;
/// Ids that are tried before giving up; another gateway would have to take them in between.
const MAX_ID_TRIES: u64 = 16;

/// An anchor: never zero, never used twice within a boot, also not by another gateway process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnchorId(pub u64);

/// A living anchor. Dropping it changes nothing in the kernel; see [`Anchors::end`].
#[derive(Debug)]
pub struct Anchor {
    /// Which one.
    pub id: AnchorId,
    /// Process id of the root, in the initial pid namespace. Its number is not reused while the
    /// root lives; after that only `pidfd` knows who it was.
    pub root: u32,
    /// When the root started, nanoseconds since boot, to the clock tick below.
    pub started_ns: u64,
    /// What was there before the anchor.
    pub walk: Walk,
    pidfd: OwnedFd,
}

impl Anchor {
    /// Waits for the root to exit. Wants a runtime with input and output.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub async fn ended(&self) -> std::io::Result<()> {
        let pidfd = syscall::readable(self.pidfd.as_fd())?;
        loop {
            let mut ready = pidfd.readable().await?;
            if self.has_ended() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Whether the root has exited.
    pub fn has_ended(&self) -> bool {
        exited(&self.pidfd)
    }
}

/// The kernel's anchors of one attached capture.
#[derive(Debug)]
pub struct Anchors {
    entries: HashMap<MapData, u32, AnchorEntry>,
    roots: HashMap<MapData, u64, AnchorRoot>,
    /// Anchors that had others begun inside them.
    outer: HashMap<MapData, u64, u32>,
    last: u64,
}

impl Anchors {
    /// Opens the maps `ANCHORS`, `ANCHOR_ROOTS` and `ANCHOR_OUTER`.
    ///
    /// # Errors
    /// [`AnchorError::Capture`] when they are missing, of another version, or not ours to write;
    /// [`AnchorError::Namespace`] and [`AnchorError::Hidden`] when we could not see what we walk.
    pub fn open(maps: impl Into<Maps>) -> Result<Self, AnchorError> {
        let maps = maps.into();
        maps::config(&maps)?;
        for (path, initial) in INITIAL {
            // A kernel without such namespaces has the initial one.
            if std::fs::metadata(path).is_ok_and(|namespace| namespace.ino() != initial) {
                return Err(AnchorError::Namespace);
            }
        }
        stat::read(1).map_err(AnchorError::Hidden)?;
        Ok(Self {
            entries: maps.open("ANCHORS")?,
            roots: maps.open("ANCHOR_ROOTS")?,
            outer: maps.open("ANCHOR_OUTER")?,
            last: 0,
        })
    }

    /// Makes a process the root of a new anchor, together with the descendants that it has already.
    /// They leave the anchor that the root was in before, if any; those of other anchors stay there.
    ///
    /// # Errors
    /// See [`AnchorError`]; whatever was anchored by then belongs to an anchor that has ended.
    pub fn begin(&mut self, pid: u32) -> Result<Anchor, AnchorError> {
        let gone = |error: std::io::Error| match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT | libc::EINVAL) => AnchorError::Gone(pid),
            _ => AnchorError::Proc(error),
        };
        let pidfd = syscall::pidfd(pid).map_err(gone)?;
        let stat = stat::read(pid).map_err(gone)?;
        // Alive after it was read: until here the number was this process's.
        if exited(&pidfd) || stat.is_dying {
            return Err(AnchorError::Gone(pid));
        }
        let before = self.entry_of(pid, &stat)?;
        if let Some(before) = before {
            let id = AnchorId(before.anchor_id);
            if self.root_of(before.anchor_id)?.is_none_or(|root| root.ended_ns != 0) {
                return Err(AnchorError::Expired(id));
            }
            if before.flags & ANCHOR_ROOT != 0 {
                return Err(AnchorError::IsRoot(id));
            }
            // First of all: from here on nobody is taken for the outer one's by ancestry.
            self.outer.insert(id.0, 1, 0).map_err(|error| failed("beginning an anchor", error))?;
        }
        let id = self.allocate(pid, &stat)?;
        let planted = self.put(pid, &stat.entry(id, ANCHOR_ROOT), 0).and_then(|()| {
            // If it exits now, the kernel finds the entry. If it did before, nobody would remove it.
            let alive = !exited(&pidfd) && stat::read(pid).is_ok_and(|now| now.is_same(&stat));
            if alive { Ok(()) } else { Err(AnchorError::Gone(pid)) }
        });
        let walked = planted.and_then(|()| {
            walk::walk(self, pid, id, before.map(|entry| AnchorId(entry.anchor_id)))
        });
        match walked {
            Ok(walk) => Ok(Anchor { id, root: pid, started_ns: stat.started_ns(), walk, pidfd }),
            Err(error) => {
                // Whoever has this id now is expired; the first failure is the one to report.
                drop(self.take_back(pid, &stat.entry(id, ANCHOR_ROOT)));
                drop(self.end(id));
                Err(error)
            }
        }
    }

    /// What a process has to do with an anchor, now.
    ///
    /// # Errors
    /// [`AnchorError::Capture`]
    pub fn lookup(&self, process: ProcessKey) -> Result<Option<Membership>, AnchorError> {
        let entry = self.entry(process.tgid)?.filter(|entry| entry.is_of(process.start_time_ns));
        let Some(entry) = entry else { return Ok(None) };
        let ended = self.root_of(entry.anchor_id)?.is_none_or(|root| root.ended_ns != 0);
        let flags = entry.flags | if ended { ANCHOR_ENDED } else { 0 };
        Ok(Membership::of(entry.anchor_id, flags))
    }

    /// The same for a living process, by its number.
    ///
    /// # Errors
    /// [`AnchorError::Gone`], [`AnchorError::Capture`]
    pub fn member(&self, pid: u32) -> Result<Option<Membership>, AnchorError> {
        let stat = stat::read(pid).map_err(|_gone| AnchorError::Gone(pid))?;
        let Some(entry) = self.entry_of(pid, &stat)? else { return Ok(None) };
        let ended = self.root_of(entry.anchor_id)?.is_none_or(|root| root.ended_ns != 0);
        let flags = entry.flags | if ended { ANCHOR_ENDED } else { 0 };
        Ok(Membership::of(entry.anchor_id, flags))
    }

    /// Ends an anchor, whether its root lives or not: from now on its processes, and what they
    /// fork, belong to an anchor that has ended. Makes room for another one.
    ///
    /// # Errors
    /// [`AnchorError::Capture`]
    pub fn end(&mut self, id: AnchorId) -> Result<(), AnchorError> {
        // In this order: without the mark, who is found below a living anchor belongs to it.
        for removed in [self.roots.remove(&id.0), self.outer.remove(&id.0)] {
            match removed {
                Ok(()) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(failed("ending an anchor", error)),
            }
        }
        Ok(())
    }

    /// Whether an anchor goes on: the kernel has it, with this root, which lives.
    ///
    /// # Errors
    /// [`AnchorError::Capture`]
    pub fn goes_on(&self, id: AnchorId, root: ProcessKey) -> Result<bool, AnchorError> {
        let known = self.root_of(id.0)?.filter(|known| {
            known.tgid == root.tgid
                && known.start_time_ns == root.start_time_ns
                && known.ended_ns == 0
        });
        Ok(known.is_some() && is_alive(root))
    }

    /// The anchors of an earlier gateway process that live on. Ends the others, and removes what
    /// is left of processes that nobody saw exit.
    ///
    /// # Errors
    /// [`AnchorError::Capture`]
    pub fn resume(&mut self) -> Result<Vec<Anchor>, AnchorError> {
        let known: Vec<(u64, AnchorRoot)> =
            self.roots.iter().take(at_most(MAX_ANCHORS)).filter_map(Result::ok).collect();
        let mut living = Vec::new();
        for (id, root) in known {
            match resumed(AnchorId(id), &root) {
                Some(anchor) => living.push(anchor),
                None => self.end(AnchorId(id))?,
            }
        }
        self.sweep()?;
        Ok(living)
    }

    /// Removes entries of processes that are gone: the kernel may skip a program at exit, and such
    /// entries take up room. Reads `/proc` once for each process with an anchor.
    ///
    /// # Errors
    /// [`AnchorError::Capture`]
    pub fn sweep(&mut self) -> Result<(), AnchorError> {
        let known: Vec<(u32, AnchorEntry)> =
            self.entries.iter().take(at_most(MAX_ENTRIES)).filter_map(Result::ok).collect();
        for (pid, entry) in known {
            if !stat::read(pid).is_ok_and(|stat| stat.is_of(&entry) && !stat.is_dying) {
                self.take_back(pid, &entry)?;
            }
        }
        Ok(())
    }

    /// Boot time in nanoseconds only grows, also over restarts of the gateway, and nobody makes
    /// more than one anchor in a nanosecond for long.
    fn allocate(&mut self, pid: u32, stat: &Stat) -> Result<AnchorId, AnchorError> {
        let root = AnchorRoot {
            start_time_ns: stat.started_ns(),
            ended_ns: 0,
            tgid: pid,
            start_span_ns: TICK_NS - 1,
        };
        let first = boot_time_ns()?.max(self.last.saturating_add(1));
        for id in first..first.saturating_add(MAX_ID_TRIES) {
            match self.roots.insert(id, root, BPF_NOEXIST) {
                Ok(()) => {
                    self.last = id;
                    return Ok(AnchorId(id));
                }
                Err(error) => match os_error(&error) {
                    Some(libc::EEXIST) => {}
                    Some(libc::E2BIG) => return Err(AnchorError::TooMany),
                    _ => return Err(failed("beginning an anchor", error)),
                },
            }
        }
        Err(AnchorError::TooMany)
    }

    fn put(&mut self, pid: u32, entry: &AnchorEntry, flags: u64) -> Result<(), AnchorError> {
        self.entries.insert(pid, entry, flags).map_err(|error| match os_error(&error) {
            Some(libc::E2BIG) => AnchorError::Full,
            Some(libc::EEXIST) => AnchorError::Taken(pid),
            _ => failed("anchoring a process", error),
        })
    }

    /// Removes an entry of our own. If the kernel puts in another one in between, that process
    /// loses its anchor: it becomes unidentified, and nobody else.
    fn take_back(&mut self, pid: u32, ours: &AnchorEntry) -> Result<(), AnchorError> {
        if self.entry(pid)? != Some(*ours) {
            return Ok(());
        }
        match self.entries.remove(&pid) {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed("removing a process from its anchor", error)),
        }
    }

    fn entry(&self, pid: u32) -> Result<Option<AnchorEntry>, AnchorError> {
        found("reading the anchor of a process", self.entries.get(&pid, 0))
    }

    fn entry_of(&self, pid: u32, stat: &Stat) -> Result<Option<AnchorEntry>, AnchorError> {
        Ok(self.entry(pid)?.filter(|entry| stat.is_of(entry)))
    }

    fn root_of(&self, anchor_id: u64) -> Result<Option<AnchorRoot>, AnchorError> {
        found("reading an anchor", self.roots.get(&anchor_id, 0))
    }
}

/// Whether a process lives, by number and start time.
pub fn is_alive(process: ProcessKey) -> bool {
    stat::read(process.tgid).is_ok_and(|stat| {
        let ticks = process.start_time_ns / u64::from(TICK_NS);
        !stat.is_dying && stat.start_ticks == ticks
    })
}

/// A descriptor that names a process also when its number is another's.
///
/// # Errors
/// When it is gone.
pub fn pidfd(pid: u32) -> std::io::Result<OwnedFd> {
    syscall::pidfd(pid)
}

/// Whether a process has exited, all its threads included.
pub fn has_exited(pidfd: &OwnedFd) -> bool {
    exited(pidfd)
}

/// A process that lives, by its number: its start time to the clock tick below, and its parent (0
/// for the first process).
///
/// # Errors
/// When it is gone.
pub fn living(pid: u32) -> std::io::Result<(ProcessKey, u32)> {
    let stat = stat::read(pid)?;
    if stat.is_dying {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok((ProcessKey { tgid: pid, start_time_ns: stat.started_ns() }, stat.parent))
}

/// When an anchor's root started, by a wall clock that shows `now_us` now.
///
/// # Errors
/// When there is no clock.
pub fn started_wall_us(anchor: &Anchor, now_us: i64) -> Result<i64, AnchorError> {
    let age_ns = boot_time_ns()?.saturating_sub(anchor.started_ns);
    Ok(now_us.saturating_sub(i64::try_from(age_ns / 1000).unwrap_or(i64::MAX)))
}

fn resumed(id: AnchorId, root: &AnchorRoot) -> Option<Anchor> {
    let pidfd = syscall::pidfd(root.tgid).ok()?;
    let stat = stat::read(root.tgid).ok()?;
    let is_it = root.ended_ns == 0 && stat.started_ns() == root.start_time_ns;
    let walk = Walk { found: 0, is_complete: true };
    let anchor = Anchor { id, root: root.tgid, started_ns: root.start_time_ns, walk, pidfd };
    (is_it && !stat.is_dying && !anchor.has_ended()).then_some(anchor)
}

/// A process descriptor is readable once all threads have exited.
fn exited(pidfd: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn boot_time_ns() -> Result<u64, AnchorError> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_err(|errno| AnchorError::Proc(errno.into()))?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

fn at_most(entries: u32) -> usize {
    usize::try_from(entries).unwrap_or(usize::MAX)
}

fn found<T>(action: &str, answer: Result<T, MapError>) -> Result<Option<T>, AnchorError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(action, error)),
    }
}

fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || os_error(error) == Some(libc::ENOENT)
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn failed(action: &str, error: MapError) -> AnchorError {
    let mut text = bpf(action.to_owned(), &error);
    if let (Some(libc::EPERM), CaptureError::Bpf { detail, .. }) = (os_error(&error), &mut text) {
        detail.push_str("; without CAP_BPF this needs Linux 5.19 and write permission on the pin");
    }
    text.into()
}
