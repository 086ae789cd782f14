//! Slots that a gateway left without ending in order: sealed and told by one that runs.
//!
//! - input: the spool directory
//! - output: sealed segments, and gap rows under a boot id of their own
//! - bound: `spool::slots::MAX_SLOTS`, one segment in memory
//! - on failure: the slot stays as it is and is tried again
//!
//! A gateway that starts recovers only the slot it takes. The others are left by one that was
//! killed while it ended its flows for a successor.

use std::sync::Arc;

use uuid::Uuid;

use super::row::Producer;
use super::writer::recovered_gaps;
use crate::clock::SharedClock;
use crate::config;
use crate::spool::SpoolError;
use crate::spool::fs::SpoolFs;
use crate::spool::slots;
use crate::spool::writer::Writer;

/// Recovers every slot that nobody writes to and that is not in order; answers how many. Blocks.
///
/// # Errors
/// As of [`Writer::open`]; a slot in use is none.
pub fn abandoned(
    fs: &Arc<dyn SpoolFs>,
    config: &config::Spool,
    producer: &Producer,
    clock: &SharedClock,
) -> Result<usize, SpoolError> {
    let mut adopted = 0;
    for dir in slots::dirs(&config.dir) {
        if !slots::is_unfinished(fs.as_ref(), &dir)? {
            continue;
        }
        // Its rows need numbers of their own: ours are given out by another thread.
        let producer = Producer { boot_id: Uuid::new_v4(), ..producer.clone() };
        let opened = Writer::open_slot(Arc::clone(fs), config, &dir, &producer, Arc::clone(clock));
        let (mut writer, recovered) = match opened {
            Err(SpoolError::Locked(_)) => continue,
            opened => opened?,
        };
        // The old state stays until these are on disk: a kill in between hides nothing.
        for gap in recovered_gaps(recovered, clock) {
            writer.append(&gap)?;
        }
        writer.close()?;
        adopted += 1;
    }
    Ok(adopted)
}
