//! The map `ALIVE`: what the kernel knows of the gateway's life.
//!
//! - input: the map; the monotonic clock
//! - output: beats, which decide what `capture.danger_fail_open` lets pass
//! - bound: three numbers, one system call each
//! - on failure: [`CaptureError`]; without beats the kernel takes the gateway for dead
//!
//! No capability is needed: read and write permission on the pin.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, MapData};
use nix::time::{ClockId, clock_gettime};
use weir_ebpf_common::{ALIVE_BEAT, ALIVE_TOLD, ALIVE_TOLD_AT};

use super::maps::{Maps, bpf};
use super::{CaptureError, Told};

/// The open map. Locked, because aya writes through a unique reference; two threads use it, one of
/// them ten times a second.
pub(super) struct Alive(Mutex<Array<MapData, u64>>);

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alive")
    }
}

impl Alive {
    pub(super) fn open(maps: &Maps) -> Result<Self, CaptureError> {
        maps.open("ALIVE").map(|map| Self(Mutex::new(map)))
    }

    pub(super) fn beat(&self) -> Result<(), CaptureError> {
        self.set(ALIVE_BEAT, now()?)
    }

    pub(super) fn told(&self) -> Result<Told, CaptureError> {
        let ago = Duration::from_nanos(now()?.saturating_sub(self.get(ALIVE_TOLD_AT)?));
        Ok(Told { count: self.get(ALIVE_TOLD)?, ago })
    }

    pub(super) fn tell(&self, told: Told) -> Result<(), CaptureError> {
        self.set(ALIVE_TOLD, told.count)?;
        let ago = u64::try_from(told.ago.as_nanos()).unwrap_or(u64::MAX);
        self.set(ALIVE_TOLD_AT, now()?.saturating_sub(ago))
    }

    fn get(&self, index: u32) -> Result<u64, CaptureError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(&index, 0).map_err(|error| bpf("reading ALIVE".into(), &error))
    }

    fn set(&self, index: u32, value: u64) -> Result<(), CaptureError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(index, value, 0).map_err(|error| bpf("writing ALIVE".into(), &error))
    }
}

/// Nanoseconds on the clock of `bpf_ktime_get_ns`.
pub(super) fn now() -> Result<u64, CaptureError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| CaptureError::Io {
        action: "reading the monotonic clock".into(),
        source: errno.into(),
    })?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
