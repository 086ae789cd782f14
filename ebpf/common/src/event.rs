//! What the kernel side tells at once, because a number in a counter does not say who it was.
//!
//! - input: none; plain types
//! - output: [`Event`], the only content of the ring buffer `EVENTS`
//! - bound: one fixed size; per process and cause [`BURST`] in [`WINDOW_NS`], the rest only counted
//! - on failure: a layout that changes without `ABI_VERSION` fails an assertion below

use crate::{Counter, Record};

/// Bytes of the ring buffer `EVENTS`.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Events of one cause that one process may write in one window; refused UDP may write one.
pub const BURST: u32 = 16;
/// Length of a window, nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;
/// Start times are compared in this unit where userspace knows one of them: a clock tick of
/// `/proc/PID/stat` (`USER_HZ` is 100), nanoseconds.
pub const TICK_NS: u64 = 10_000_000;

/// Bytes kept of a job's name, NUL-padded: the longest of `weir run` and its end.
pub const JOB_BYTES: usize = 104;

/// Something that happened to a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of a [`Counter`]: what happened.
    pub cause: u32,
    /// Events of this cause and process that were not written since the last one that was.
    pub suppressed: u32,
    /// Whose doing it was: thread group id of the current process.
    pub actor_tgid: u32,
    /// Its user id, in the initial user namespace.
    pub actor_uid: u32,
    /// Its start, as [`Record::start_time_ns`]; zero if it could not be read.
    pub actor_start_time_ns: u64,
    /// When, nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub at_ns: u64,
    /// Cgroup of the socket; for a process that was moved, its new cgroup. Zero if not known.
    pub other_cgroup_id: u64,
    /// IP protocol of the socket, or its address family where it has none; zero if not known.
    pub protocol: u32,
    /// `SOCK_*` type, socket option, or zero; see the programs.
    pub what: u32,
    /// Name of the cgroup below the captured one that the process, or a moved socket, belongs to:
    /// it may be gone when somebody asks. Empty if there is none.
    pub job: [u8; JOB_BYTES],
    /// Whom it happened to, and the destination. What could not be read is zero.
    pub record: Record,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            cause: 0,
            suppressed: 0,
            actor_tgid: 0,
            actor_uid: 0,
            actor_start_time_ns: 0,
            at_ns: 0,
            other_cgroup_id: 0,
            protocol: 0,
            what: 0,
            job: [0; JOB_BYTES],
            record: Record::default(),
        }
    }
}

/// Value of map `CAPTURED`: a captured process, by its thread group id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Start of the group leader in units of [`TICK_NS`].
    pub start_ticks: u64,
    /// Its cgroup when it was noted.
    pub cgroup_id: u64,
    /// See [`Event::job`].
    pub job: [u8; JOB_BYTES],
}

/// Key of map `EVENT_RATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateKey {
    /// Thread group id.
    pub tgid: u32,
    /// As [`Event::cause`].
    pub cause: u32,
}

/// Value of map `EVENT_RATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Start of the window, `bpf_ktime_get_ns`.
    pub since_ns: u64,
    /// Events written in it.
    pub written: u32,
    /// Events not written, and not yet told.
    pub suppressed: u32,
}

/// How many events of a cause one process may write in a window. QUIC is tried by every browser.
#[inline(always)]
pub const fn burst(cause: Counter) -> u32 {
    match cause {
        Counter::UdpConnectRefused | Counter::UdpSendRefused => 1,
        _ => BURST,
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(offset_of!(Event, actor_start_time_ns) == 16);
    assert!(offset_of!(Event, record) == 48 + JOB_BYTES);
    assert!(size_of::<Event>() == 48 + JOB_BYTES + size_of::<Record>());
    assert!(size_of::<Event>().is_multiple_of(8));
    assert!(size_of::<Member>() == 16 + JOB_BYTES);
    assert!(size_of::<RateKey>() == 8);
    assert!(size_of::<Rate>() == 16);
};
