//! The gateway's beat, set to any age: tests do not wait for a gateway to be dead.
//!
//! - input: a pin directory
//! - output: the map `ALIVE` as an old gateway left it
//! - bound: its entries
//! - on failure: panics

use std::path::Path;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use nix::time::{ClockId, clock_gettime};
use weir_ebpf_common::{ALIVE_BEAT, ALIVE_TOLD, FAIL_OPEN_AFTER_NS};

/// Age of a beat that is late and no more.
pub const LIVE: Duration = Duration::from_nanos(FAIL_OPEN_AFTER_NS / 2);
/// Age of a beat of a dead gateway.
pub const DEAD: Duration = Duration::from_nanos(FAIL_OPEN_AFTER_NS + 1_000_000);

/// Makes the last beat so old.
///
/// # Panics
/// When the map cannot be written.
pub fn backdate(pin_dir: &Path, age: Duration) {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let at = u64::try_from((now - age).as_nanos()).unwrap();
    open(pin_dir).set(ALIVE_BEAT, at, 0).unwrap();
}

/// How many connections that passed unseen the next gateway will not tell again.
///
/// # Panics
/// When the map cannot be read.
pub fn told(pin_dir: &Path) -> u64 {
    open(pin_dir).get(&ALIVE_TOLD, 0).unwrap()
}

fn open(pin_dir: &Path) -> Array<MapData, u64> {
    let data = MapData::from_pin(pin_dir.join("ALIVE")).unwrap();
    Array::try_from(Map::from_map_data(data).unwrap()).unwrap()
}
