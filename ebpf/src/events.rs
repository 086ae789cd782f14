//! Events: who was refused, whose socket or process was moved.
//!
//! - input: a cause, and what the calling program knows about it
//! - output: an [`Event`] in the ring buffer `EVENTS`
//! - bound: the ring buffer; per process and cause `weir_ebpf_common::event::burst` in a second
//! - on failure: the event is counted as lost (no room) or suppressed (too many); verdicts never
//!   depend on it
//!
//! Only where the calling task is the one that did it: address, socket and security hooks. Packets
//! have no process. Minimum kernel: ring buffers 5.8.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, RingBuf};
use core::ptr::{addr_of_mut, read_volatile, write_volatile};
use weir_ebpf_common::event::{EVENTS_BYTES, Event, JOB_BYTES, Rate, RateKey, WINDOW_NS, burst};
use weir_ebpf_common::{Counter, FLAG_LEVEL_KNOWN};

use crate::maps::{self, count, lsm_offset, read_kernel};
use crate::{lsm, process};

/// 256 KiB, some 540 events; what finds no room is lost and counted. Owner: all programs; read by
/// the gateway.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// What processes wrote lately. 4096 entries, least recently used evicted: that process may write
/// again. Owner: this file.
#[map]
static EVENT_RATE: LruHashMap<RateKey, Rate> = LruHashMap::with_max_entries(4096, 0);

/// What a program knows about a refusal or a find.
#[derive(Clone, Copy)]
pub(crate) struct About {
    /// As `Record::orig_addr`.
    pub(crate) addr: [u32; 4],
    /// As `Record::orig_port`.
    pub(crate) port: u16,
    /// As [`Event::protocol`].
    pub(crate) protocol: u32,
    /// As [`Event::what`].
    pub(crate) what: u32,
}

impl About {
    pub(crate) const NOTHING: Self = Self { addr: [0; 4], port: 0, protocol: 0, what: 0 };
}

/// Counts a cause, and tells it of the current process.
#[inline(always)]
pub(crate) fn tell(cause: Counter, about: &About) {
    tell_with(cause, about, |event| {
        // What could be read until it failed is better than nothing.
        let _ = process::describe(&mut event.record);
        let _ = cgroup_of(maps::current_task()).and_then(|cgroup| job(&mut event.job, cgroup));
    });
}

/// As [`tell`], with the cgroup of a socket.
#[inline(always)]
pub(crate) fn tell_socket(cause: Counter, about: &About, sk: *mut bpf_sock) {
    tell_with(cause, about, |event| {
        let _ = process::describe(&mut event.record);
        if let Some(cgroup) = socket_cgroup(event, sk) {
            event.other_cgroup_id = cgroup_id(cgroup).unwrap_or(0);
            let _ = job(&mut event.job, cgroup);
        }
    });
}

/// Counts a cause, and tells it of whom `fill` describes.
#[inline(always)]
pub(crate) fn tell_with(cause: Counter, about: &About, fill: impl FnOnce(&mut Event)) {
    count(cause);
    let Some(suppressed) = allowance(cause) else {
        count(Counter::EventsSuppressed);
        return;
    };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Counter::EventsLost);
        return;
    };
    let event = zeroed(entry.as_mut_ptr());
    event.cause = cause as u32;
    event.suppressed = suppressed;
    event.actor_tgid = maps::current_tgid();
    event.actor_uid = maps::current_uid_gid().0;
    event.actor_start_time_ns = process::current_start_time_ns().unwrap_or(0);
    // SAFETY: takes nothing. `bpf_ktime_get_boot_ns` (5.8).
    event.at_ns = unsafe { helpers::bpf_ktime_get_boot_ns() };
    event.protocol = about.protocol;
    event.what = about.what;
    event.record.orig_addr = about.addr;
    event.record.orig_port = about.port;
    fill(event);
    entry.submit(0);
}

/// The ring gives back what earlier events left there.
#[inline(always)]
fn zeroed(event: *mut Event) -> &'static mut Event {
    let words = event.cast::<u64>();
    let mut index = 0;
    while index < size_of::<Event>() / 8 {
        // SAFETY: inside the entry, which is a whole number of words (asserted in the ABI).
        let word = unsafe { words.add(index) };
        // SAFETY: as above. Volatile, so that this does not become a call of memset.
        unsafe { write_volatile(word, 0) };
        index += 1;
    }
    // SAFETY: the entry is ours until it is submitted, and all of it is initialised.
    unsafe { &mut *event }
}

/// `None` if the process has told enough of this cause; else how many were not told before.
#[inline(always)]
fn allowance(cause: Counter) -> Option<u32> {
    let key = RateKey { tgid: maps::current_tgid(), cause: cause as u32 };
    // SAFETY: takes nothing.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    let Some(rate) = EVENT_RATE.get_ptr_mut(&key) else {
        // Without an entry the next one is written as well: bounded by the ring.
        let _ = EVENT_RATE.insert(&key, &Rate { since_ns: now, written: 1, suppressed: 0 }, 0);
        return Some(0);
    };
    // SAFETY: a non-null look-up points to a live value. Threads of one process may race for it:
    // then an event is miscounted.
    let rate = unsafe { &mut *rate };
    if now.wrapping_sub(rate.since_ns) >= WINDOW_NS {
        let suppressed = rate.suppressed;
        *rate = Rate { since_ns: now, written: 1, suppressed: 0 };
        return Some(suppressed);
    }
    if rate.written >= burst(cause) {
        rate.suppressed += 1;
        return None;
    }
    rate.written += 1;
    Some(0)
}

/// A socket's `struct cgroup`. No helper tells it here, and the verifier lets nobody calculate with a
/// socket pointer: it becomes a number by way of memory that is ours, and does not stay there.
#[inline(always)]
fn socket_cgroup(event: &mut Event, sk: *mut bpf_sock) -> Option<u64> {
    let place = addr_of_mut!(event.other_cgroup_id);
    // SAFETY: `place` is a field of the event.
    unsafe { write_volatile(place, sk as u64) };
    // SAFETY: as above.
    let sk = unsafe { read_volatile(place) };
    // SAFETY: as above.
    unsafe { write_volatile(place, 0) };
    read_kernel(sk + lsm_offset!(sock_cgroup))
}

/// The `struct cgroup` of a task.
#[inline(always)]
pub(crate) fn cgroup_of(task: u64) -> Option<u64> {
    let set: u64 = read_kernel(task + lsm_offset!(task_cgroups))?;
    read_kernel(set + lsm_offset!(css_set_dfl_cgrp))
}

/// Name of the job that a cgroup belongs to.
#[inline(always)]
pub(crate) fn job(into: &mut [u8; JOB_BYTES], cgroup: u64) -> Option<()> {
    let config = maps::config().filter(|config| config.flags & FLAG_LEVEL_KNOWN != 0)?;
    let level: u32 = read_kernel(cgroup + lsm_offset!(cgroup_level))?;
    if level <= config.captured_level || !lsm::is_below(cgroup, config)? {
        return None;
    }
    let slot = lsm_offset!(cgroup_ancestors) + 8 * (u64::from(config.captured_level) + 1);
    let below: u64 = read_kernel(cgroup + slot)?;
    let node: u64 = read_kernel(below + lsm_offset!(cgroup_kn))?;
    let name: u64 = read_kernel(node + lsm_offset!(kernfs_node_name))?;
    maps::read_kernel_name(into, name);
    Some(())
}

/// Id of a `struct cgroup`.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: u64) -> Option<u64> {
    let node: u64 = read_kernel(cgroup + lsm_offset!(cgroup_kn))?;
    read_kernel(node + lsm_offset!(kernfs_node_id))
}
