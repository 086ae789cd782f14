//! The ring buffer: what the kernel side tells of refusals and of what was moved.
//!
//! - input: the map `EVENTS`
//! - output: [`KernelEvent`]s
//! - bound: the ring buffer; what finds no room there is counted (`events_lost`)
//! - on failure: [`CaptureError`] at opening; an entry that makes no sense is [`Undecodable`]
//!
//! One reader at a time: what it takes is gone. A gateway that starts gets what was written while
//! none ran, as far as it fits.
#![expect(
    unsafe_code,
    reason = "an entry becomes an ABI type as in aya's typed maps; AsyncFd wants a promise"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use weir_ebpf_common::{Counter, Event};

use super::maps::{self, Maps};
use super::{CaptureError, Captured, CgroupId, ProcessKey};

/// Reads events.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

/// What happened to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// What happened.
    pub cause: Counter,
    /// Events of this cause and process that were not written since the last one that was.
    pub suppressed: u32,
    /// Whom it happened to, and the destination (unspecified, port 0, where there is none).
    pub captured: Captured,
    /// Whose doing it was: mostly the same process.
    pub actor: ProcessKey,
    /// Its user id.
    pub actor_uid: u32,
    /// When, since boot (`CLOCK_BOOTTIME`).
    pub at: Duration,
    /// Cgroup of the socket, or where a process was moved to; 0 if not known.
    pub other_cgroup: CgroupId,
    /// Name of the cgroup below the captured one that the process, or a moved socket, belongs to;
    /// empty if there is none.
    pub job: String,
    /// IP protocol, or the address family where there is none; 0 if not known.
    pub protocol: u32,
    /// Socket type, or level and name of an option.
    pub what: u32,
}

/// An entry that makes no sense: this binary and the programs are not of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Of another length.
    #[error("an event of {0} bytes")]
    Length(usize),
    /// Not a cause that is known here.
    #[error("an event with cause {0}")]
    Cause(u32),
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

impl EventReader {
    /// Opens the ring buffer.
    ///
    /// # Errors
    /// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
    pub fn open(maps: impl Into<Maps>) -> Result<Self, CaptureError> {
        let maps = maps.into();
        maps::config(&maps)?;
        maps.open("EVENTS").map(|ring| Self { ring })
    }

    /// Registers with the reactor of the calling task.
    ///
    /// # Errors
    /// [`CaptureError::Io`]
    pub fn watched(self) -> Result<AsyncFd<Self>, CaptureError> {
        // SAFETY: the descriptor is the map's, which the ring buffer owns and never replaces.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        watched.map_err(|error| CaptureError::Io {
            action: "watching the kernel's events".into(),
            source: error.into(),
        })
    }

    /// The next event; `None` when there is none now. Never blocks.
    pub fn next_event(&mut self) -> Option<Result<KernelEvent, Undecodable>> {
        self.ring.next().map(|entry| decode(&entry))
    }
}

/// Readable while there are events.
impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// As [`AsFd`], for reactors that want a number.
impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// How long ago something was, by a time since boot; zero for what is not over yet.
pub fn age(at: Duration) -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(Duration::ZERO, |now| Duration::from(now).saturating_sub(at))
}

fn decode(bytes: &[u8]) -> Result<KernelEvent, Undecodable> {
    if bytes.len() != size_of::<Event>() {
        return Err(Undecodable::Length(bytes.len()));
    }
    // SAFETY: as many bytes as the type has, every pattern is valid for it (`aya::Pod`), and it is
    // read without regard to alignment.
    let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    Ok(KernelEvent {
        cause: Counter::from_number(event.cause).ok_or(Undecodable::Cause(event.cause))?,
        suppressed: event.suppressed,
        captured: maps::captured(&event.record),
        actor: ProcessKey { tgid: event.actor_tgid, start_time_ns: event.actor_start_time_ns },
        actor_uid: event.actor_uid,
        job: maps::text(event.job.split(|byte| *byte == 0).next().unwrap_or_default()),
        at: Duration::from_nanos(event.at_ns),
        other_cgroup: CgroupId(event.other_cgroup_id),
        protocol: event.protocol,
        what: event.what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_common::Record;
    use weir_ebpf_common::event::JOB_BYTES;

    fn bytes(event: Event) -> Vec<u8> {
        let start = (&raw const event).cast::<u8>();
        // SAFETY: a live value without padding, as long as its type.
        unsafe { std::slice::from_raw_parts(start, size_of::<Event>()) }.to_vec()
    }

    #[test]
    fn an_event_comes_back_field_by_field() {
        let record = Record {
            tgid: 7,
            uid: 8,
            orig_addr: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([192, 0, 2, 7])],
            orig_port: 443,
            ..Record::default()
        };
        let mut job = [0; JOB_BYTES];
        job[..5].copy_from_slice(b"job-1");
        let event = Event {
            cause: Counter::RefusedNetns as u32,
            suppressed: 3,
            actor_tgid: 9,
            actor_uid: 10,
            actor_start_time_ns: 11,
            at_ns: 14,
            job,
            other_cgroup_id: 12,
            protocol: 6,
            what: 13,
            record,
        };
        let got = decode(&bytes(event)).unwrap();
        assert_eq!(got.cause, Counter::RefusedNetns);
        assert_eq!((got.suppressed, got.protocol, got.what), (3, 6, 13));
        assert_eq!(got.captured.process.key.tgid, 7);
        assert_eq!(got.captured.orig_dst.0, "192.0.2.7:443".parse().unwrap());
        assert_eq!(got.job, "job-1");
        assert_eq!(got.at, Duration::from_nanos(14));
        assert!(age(got.at) > Duration::ZERO && age(Duration::MAX).is_zero());
        assert_eq!(got.actor, ProcessKey { tgid: 9, start_time_ns: 11 });
        assert_eq!((got.actor_uid, got.other_cgroup), (10, CgroupId(12)));
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        let good = bytes(Event::default());
        for length in [0, 1, good.len() - 1] {
            assert_eq!(decode(&good[..length]), Err(Undecodable::Length(length)));
        }
        let long = [good, vec![0]].concat();
        assert_eq!(decode(&long), Err(Undecodable::Length(long.len())));
        for cause in [Counter::COUNT, u32::MAX] {
            let event = Event { cause, ..Event::default() };
            assert_eq!(decode(&bytes(event)), Err(Undecodable::Cause(cause)));
        }
    }
}
