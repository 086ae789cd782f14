//! Slots: what lets two gateways share one spool while one takes over from the other.
//!
//! - input: `spool.dir`
//! - output: directories, each an independent spool with its own lock, state and hash chain
//! - bound: [`MAX_SLOTS`] writers at a time
//! - on failure: `Locked` when every slot has a writer
//!
//! The first slot is `spool.dir` itself, the layout of a spool that was never shared; a gateway
//! that starts while another still writes there takes a directory below it. Sealed segments of
//! all slots are delivered by the one gateway that holds [`sink_lock`].

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpoolError;
use super::fs::{Held, SpoolFs};
use super::recover::{self, Recovered};
use super::state::{Loaded, State};
use super::writer::Writer;
use crate::clock::SharedClock;
use crate::config;
use crate::record::row::Producer;

/// Gateways that may write at the same time: one, and those that still end their flows.
pub const MAX_SLOTS: usize = 4;

/// Directory whose lock says who delivers.
const SINK: &str = "sink";

/// The directories of all slots, whether they exist or not.
pub fn dirs(root: &Path) -> impl Iterator<Item = PathBuf> {
    (0..MAX_SLOTS).map(move |slot| match slot {
        0 => root.to_owned(),
        _ => root.join(format!("slot-{slot}")),
    })
}

/// Opens the first slot that nobody writes to.
///
/// # Errors
/// See [`Writer::open`]; `Locked` only when every slot is taken.
pub fn open(
    fs: &Arc<dyn SpoolFs>,
    config: &config::Spool,
    producer: &Producer,
    clock: &SharedClock,
) -> Result<(Writer, Recovered), SpoolError> {
    for dir in dirs(&config.dir) {
        match Writer::open_slot(Arc::clone(fs), config, &dir, producer, Arc::clone(clock)) {
            Err(SpoolError::Locked(_)) => {}
            opened => return opened,
        }
    }
    Err(SpoolError::Locked(config.dir.clone()))
}

/// Whether a slot was left behind by a gateway that did not end in order, or is in use: only its
/// lock can tell the two apart.
///
/// # Errors
/// `Io`
pub fn is_unfinished(fs: &dyn SpoolFs, dir: &Path) -> Result<bool, SpoolError> {
    let open = match recover::open_numbers(fs, dir) {
        Err(SpoolError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(false);
        }
        open => open?,
    };
    Ok(!open.is_empty()
        || match State::load(fs, dir) {
            Loaded::Missing => false,
            Loaded::Unreadable => true,
            Loaded::Known(state) => !state.clean,
        })
}

/// Takes the right to deliver the segments of all slots; `None` while another gateway has it.
///
/// # Errors
/// `Io`
pub fn sink_lock(fs: &dyn SpoolFs, root: &Path) -> Result<Option<Box<dyn Held>>, SpoolError> {
    let dir = root.join(SINK);
    fs.create_dir_all(&dir).map_err(SpoolError::io("making", &dir))?;
    match fs.lock(&dir) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(SpoolError::io("locking", &dir)(error)),
    }
}
