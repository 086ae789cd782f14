//! Watches what no hook of a cgroup sees: processes that leave it, and sockets from outside that its
//! processes connect. It only looks; nothing is refused here.
//!
//! - input: forks, moves between cgroups and TCP state changes of the whole host
//! - output: events about the captured cgroup; others are passed over after a few reads
//! - bound: map `CAPTURED`
//! - on failure: no event; the hooks do not depend on it
//!
//! The kernel tells of a move when it is done, and then no longer from where: who is inside is noted
//! when it is forked, moved in, or found by the loader. Minimum kernels: BTF tracepoints 5.5,
//! `cgroup.ancestors` 6.1. Optional: the loader reports their absence.

use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::BtfTracePointContext;
use core::ffi::c_void;
use weir_ebpf_common::addr::map_v4;
use weir_ebpf_common::event::{JOB_BYTES, Member, TICK_NS};
use weir_ebpf_common::{Config, Counter, FAMILY_V4, FLAG_LEVEL_KNOWN};

use crate::events::{self, About};
use crate::maps::{self, lsm_offset, offset, read_kernel};
use crate::{lsm, process};

const TCP_SYN_SENT: i32 = 2;
const IPPROTO_TCP: u32 = 6;

/// Captured processes by thread group id. 16384 entries, least recently used evicted: nobody notices
/// when that process leaves. Entries of ended processes stay until then, and are told apart by
/// their start. Owner: this file; the loader puts in those that it finds.
#[map]
static CAPTURED: LruHashMap<u32, Member> = LruHashMap::with_max_entries(16_384, 0);

/// Where a task is.
struct Place {
    cgroup: u64,
    cgroup_id: u64,
    inside: bool,
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn weir_forked(ctx: BtfTracePointContext) -> i32 {
    // Nothing to report to: the next tracepoint comes anyway.
    let _ = forked(ctx.arg::<*const c_void>(1) as u64);
    0
}

#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn weir_moved(ctx: BtfTracePointContext) -> i32 {
    let _ = moved(ctx.arg::<*const c_void>(2) as u64);
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn weir_state(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) == TCP_SYN_SENT {
        let _ = connecting(ctx.arg::<*const c_void>(0) as u64);
    }
    0
}

/// A child begins where its parent is, unless it was made somewhere else on purpose
/// (`CLONE_INTO_CGROUP`).
#[inline(always)]
fn forked(child: u64) -> Option<()> {
    let config = config()?;
    let leader: u64 = read_kernel(child + offset!(task_group_leader))?;
    if leader != child {
        return None;
    }
    let place = place(child, config)?;
    if place.inside {
        return note(child, leader, &place);
    }
    if maps::current_ancestor(config.captured_level) == config.captured_id {
        let mut left =
            Member { start_ticks: 0, cgroup_id: maps::current_cgroup_id(), job: [0; JOB_BYTES] };
        let _ = events::job(&mut left.job, events::cgroup_of(maps::current_task())?);
        moved_out(child, &left, &place);
    }
    None
}

#[inline(always)]
fn moved(task: u64) -> Option<()> {
    let config = config()?;
    let leader: u64 = read_kernel(task + offset!(task_group_leader))?;
    let place = place(task, config)?;
    if place.inside {
        return note(task, leader, &place);
    }
    let tgid: u32 = read_kernel(task + offset!(task_tgid))?;
    // SAFETY: the entry is read at once; another writer can only be a newer note of this process.
    let member = *unsafe { CAPTURED.get(&tgid) }?;
    let _ = CAPTURED.remove(&tgid);
    let start: u64 = read_kernel(leader + offset!(task_start_boottime))?;
    if start / TICK_NS == member.start_ticks {
        moved_out(task, &member, &place);
    }
    None
}

/// Runs inside `connect(2)`, after the hooks and when the destination is set. A socket of the
/// captured cgroup has met `connect` already.
#[inline(always)]
fn connecting(sk: u64) -> Option<()> {
    let config = config()?;
    if maps::current_ancestor(config.captured_level) != config.captured_id
        || !lsm::is_foreign(sk, config)?
    {
        return None;
    }
    let mut about = destination(sk)?;
    about.protocol = IPPROTO_TCP;
    events::tell_with(Counter::ForeignSocket, &about, |event| {
        let _ = process::describe(&mut event.record);
        let _ = events::cgroup_of(maps::current_task())
            .and_then(|cgroup| events::job(&mut event.job, cgroup));
        let cgroup: Option<u64> = read_kernel(sk + lsm_offset!(sock_cgroup));
        event.other_cgroup_id = cgroup.and_then(events::cgroup_id).unwrap_or(0);
    });
    None
}

/// Where an internet socket is connected to, or about to be.
#[inline(always)]
pub(crate) fn destination(sk: u64) -> Option<About> {
    let family: u16 = read_kernel(sk + lsm_offset!(sock_family))?;
    let port: u16 = read_kernel(sk + lsm_offset!(sock_dport))?;
    let addr = if family == FAMILY_V4 {
        map_v4(read_kernel(sk + lsm_offset!(sock_daddr))?)
    } else {
        read_kernel(sk + lsm_offset!(sock_v6_daddr))?
    };
    Some(About { addr, port: u16::from_be(port), ..About::NOTHING })
}

#[inline(always)]
fn moved_out(task: u64, left: &Member, place: &Place) {
    events::tell_with(Counter::ProcessMovedOut, &About::NOTHING, |event| {
        let _ = process::describe_other(&mut event.record, task);
        event.record.cgroup_id = left.cgroup_id;
        event.job = left.job;
        event.other_cgroup_id = place.cgroup_id;
    });
}

#[inline(always)]
fn note(task: u64, leader: u64, place: &Place) -> Option<()> {
    let tgid: u32 = read_kernel(task + offset!(task_tgid))?;
    let start: u64 = read_kernel(leader + offset!(task_start_boottime))?;
    let mut member =
        Member { start_ticks: start / TICK_NS, cgroup_id: place.cgroup_id, job: [0; JOB_BYTES] };
    let _ = events::job(&mut member.job, place.cgroup);
    // Full of busy entries: as if it had been evicted.
    CAPTURED.insert(&tgid, &member, 0).ok()
}

#[inline(always)]
fn place(task: u64, config: &Config) -> Option<Place> {
    let cgroup = events::cgroup_of(task)?;
    let inside = lsm::is_below(cgroup, config)?;
    Some(Place { cgroup, cgroup_id: events::cgroup_id(cgroup)?, inside })
}

/// The configuration, where depths can be compared.
#[inline(always)]
fn config() -> Option<&'static Config> {
    maps::config().filter(|config| config.flags & FLAG_LEVEL_KNOWN != 0)
}
