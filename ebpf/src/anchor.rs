//! Job anchors: a forked process belongs to its parent's process tree, whatever it does later.
//!
//! - input: every fork and every exit of the host; roots that the gateway wrote
//! - output: map `ANCHORS`, and the anchor fields of a [`Record`]
//! - bound: two hash lookups per fork and exit of a process without anchor, seven per connect;
//!   [`MAX_CHILDREN`] at an exit with one
//! - on failure: the process has no anchor and is counted; it never gets another's
//!
//! `sched_wakeup_new` runs before the child does, so that a child cannot connect, fork, exec or be
//! reparented before it has its entry; and with interrupts off, so that it is never skipped. Others
//! may be: where tracepoints can be preempted, the kernel skips a program that is already running on
//! the same processor. A skipped exit leaves an entry that fits nobody, until the gateway sweeps. `exec` changes nothing: `de_thread` gives the new leader the
//! number and the start time of the old one. Needs BTF tracepoints (5.5), attached as links (5.19).

use core::ptr::read_volatile;

use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::BtfTracePointContext;
use weir_ebpf_common::anchor::{
    ANCHOR_ENDED, ANCHOR_ROOT, ANCHOR_WALKED, MAX_ANCHORS, MAX_ENTRIES,
};
use weir_ebpf_common::{AnchorEntry, AnchorRoot, Counter, MAX_ANCESTORS, Record};

use crate::maps::{self, count, offset, read_kernel};

/// Processes with an anchor, by thread group id. Never evicted: a process that finds it full has no
/// anchor. Owner: `weir_fork` and `weir_exit`; the gateway adds roots and what it walked.
#[map]
static ANCHORS: HashMap<u32, AnchorEntry> = HashMap::with_max_entries(MAX_ENTRIES, 0);

/// Anchors, by id. Never evicted. Owner: the gateway; `weir_exit` writes `ended_ns`.
#[map]
static ANCHOR_ROOTS: HashMap<u64, AnchorRoot> = HashMap::with_max_entries(MAX_ANCHORS, 0);

/// Anchors that had others begun inside them: who is found below them without anchor may belong to
/// an inner one. Never evicted. Owner: the gateway.
#[map]
static ANCHOR_OUTER: HashMap<u64, u32> = HashMap::with_max_entries(MAX_ANCHORS, 0);

const BPF_NOEXIST: u64 = 1;
/// Children that are looked at when their parent exits.
const MAX_CHILDREN: usize = 64;

/// Argument: the new task, which the current one has forked.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn weir_fork(ctx: BtfTracePointContext) -> i32 {
    let child = ctx.arg::<*const u8>(0);
    if fork(maps::current_tgid(), maps::current_task(), child as u64).is_none() {
        count(Counter::AnchorUnreadable);
    }
    0
}

/// Argument: the exiting thread.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn weir_exit(ctx: BtfTracePointContext) -> i32 {
    // Unreadable: an entry that stays fits no other process.
    let _ = exit(maps::current_tgid(), ctx.arg::<*const u8>(0) as u64);
    0
}

/// Fills the anchor fields. Wants the process's number, start time and ancestors filled.
#[inline(always)]
pub(crate) fn describe(record: &mut Record) {
    let own = entry_of(record.tgid, record.start_time_ns).or_else(|| from_ancestors(record));
    // Written in any case: the storage may hold an earlier connect's.
    (record.anchor_id, record.anchor_flags) = match own {
        Some(entry) => {
            let ended = if has_ended(entry.anchor_id) { ANCHOR_ENDED } else { 0 };
            (entry.anchor_id, entry.flags | ended)
        }
        None => (0, 0),
    };
}

#[inline(always)]
fn from_ancestors(record: &Record) -> Option<AnchorEntry> {
    let mut index = 0;
    while index < MAX_ANCESTORS {
        let ancestor = &record.ancestors[index];
        if let Some(above) = entry_of(ancestor.tgid, ancestor.start_time_ns) {
            return repair(&above, record.tgid, record.start_time_ns);
        }
        index += 1;
    }
    None
}

#[inline(always)]
fn fork(tgid: u32, task: u64, child: u64) -> Option<()> {
    let child_tgid: u32 = read_kernel(child + offset!(task_tgid))?;
    if child_tgid == tgid {
        // A thread.
        return Some(());
    }
    let Some(parent) = own_or_parents(tgid, task)? else { return Some(()) };
    // The child of a fork leads its own group.
    let start_time_ns: u64 = read_kernel(child + offset!(task_start_boottime))?;
    if ANCHORS.insert(child_tgid, parent.inherited(start_time_ns), 0).is_ok() {
        count(Counter::AnchorInherited);
    } else {
        count(Counter::AnchorFull);
    }
    Some(())
}

#[inline(always)]
fn exit(tgid: u32, task: u64) -> Option<()> {
    let signal: u64 = read_kernel(task + offset!(task_signal))?;
    let live: i32 = read_kernel(signal + offset!(signal_live))?;
    // Decremented before the tracepoint; the process lives on in its other threads.
    if live != 0 {
        return Some(());
    }
    let Some(entry) = own_or_parents(tgid, task)? else { return Some(()) };
    let _ = leave_children(&entry, task);
    if entry.flags & ANCHOR_ROOT != 0
        && let Some(root) = ANCHOR_ROOTS.get_ptr_mut(entry.anchor_id)
    {
        // SAFETY: a non-null lookup points to a live value for the program's life; nobody else
        // writes this aligned word but another exiting thread of the same group.
        unsafe { (*root).ended_ns = maps::boot_time_ns() }
        count(Counter::AnchorEnded);
    }
    // Fails only if it is gone already, which is what was wanted.
    let _ = ANCHORS.remove(tgid);
    Some(())
}

/// The last moment in which it is known whose the children are. They have their entries, unless
/// their forks were not seen.
#[inline(always)]
fn leave_children(parent: &AnchorEntry, task: u64) -> Option<()> {
    let head = task + offset!(task_children);
    let mut next: u64 = read_kernel(head)?;
    let mut index = 0;
    while index < MAX_CHILDREN && next != head {
        let child = next - offset!(task_sibling);
        let tgid: u32 = read_kernel(child + offset!(task_tgid))?;
        let start_time_ns: u64 = read_kernel(child + offset!(task_start_boottime))?;
        if entry_of(tgid, start_time_ns).is_none() {
            let _ = repair(parent, tgid, start_time_ns);
        }
        next = read_kernel(next)?;
        index += 1;
    }
    Some(())
}

/// The entry of a thread's process, or that of its parent: the process may be older than its anchor
/// or than these programs.
#[inline(always)]
fn own_or_parents(tgid: u32, task: u64) -> Option<Option<AnchorEntry>> {
    let leader: u64 = read_kernel(task + offset!(task_group_leader))?;
    let start_time_ns: u64 = read_kernel(leader + offset!(task_start_boottime))?;
    if let Some(own) = entry(tgid) {
        if own.is_of(start_time_ns) {
            return Some(Some(own));
        }
        count(Counter::AnchorStale);
    }
    let parent: u64 = read_kernel(leader + offset!(task_real_parent))?;
    let parent: u64 = read_kernel(parent + offset!(task_group_leader))?;
    let parent_tgid: u32 = read_kernel(parent + offset!(task_tgid))?;
    let Some(above) = entry(parent_tgid) else { return Some(None) };
    let parent_start: u64 = read_kernel(parent + offset!(task_start_boottime))?;
    if !above.is_of(parent_start) {
        return Some(None);
    }
    Some(repair(&above, tgid, start_time_ns))
}

/// Gives a process the anchor of one above it. Not where another anchor was begun inside that one:
/// the process may have been adopted from there. Not where it is over. It is as if it was walked.
#[inline(always)]
fn repair(above: &AnchorEntry, tgid: u32, start_time_ns: u64) -> Option<AnchorEntry> {
    // SAFETY: the value is not looked at.
    if has_ended(above.anchor_id) || unsafe { ANCHOR_OUTER.get(above.anchor_id) }.is_some() {
        return None;
    }
    let mut repaired = above.inherited(start_time_ns);
    repaired.flags |= ANCHOR_WALKED;
    if ANCHORS.insert(tgid, repaired, BPF_NOEXIST).is_err() {
        // The gateway was faster, the entry is an earlier process's, or the map is full.
        match entry(tgid) {
            Some(own) if own.is_of(start_time_ns) => return Some(own),
            Some(_) => ANCHORS.insert(tgid, repaired, 0).ok()?,
            None => return None,
        }
    }
    count(Counter::AnchorRepaired);
    Some(repaired)
}

/// An anchor without a root entry was ended by the gateway.
#[inline(always)]
fn has_ended(anchor_id: u64) -> bool {
    // SAFETY: only `ended_ns` is written while the entry is in the map, in eight aligned bytes.
    unsafe { ANCHOR_ROOTS.get(anchor_id) }.is_none_or(|root| root.ended_ns != 0)
}

/// The entry of a process, if it has one.
#[inline(always)]
fn entry_of(tgid: u32, start_time_ns: u64) -> Option<AnchorEntry> {
    entry(tgid).filter(|entry| entry.is_of(start_time_ns))
}

/// A copy, and not one of an element that was given to another process meanwhile: an element that is
/// still found under its number had not been.
#[inline(always)]
fn entry(tgid: u32) -> Option<AnchorEntry> {
    let found = ANCHORS.get_ptr(tgid)?;
    // SAFETY: a non-null lookup points to readable memory for the program's life.
    let copy = unsafe { read_volatile(found) };
    // Differs only while the gateway gives a process that is older than its anchor another entry.
    let again = ANCHORS.get_ptr(tgid)?;
    if found == again {
        return Some(copy);
    }
    // SAFETY: as above.
    let newer = unsafe { read_volatile(again) };
    (ANCHORS.get_ptr(tgid)? == again).then_some(newer)
}
