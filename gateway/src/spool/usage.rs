//! How much of the quota is used, while another thread deletes what was acknowledged.
//!
//! - input: directory listings, and what the writer adds
//! - output: bytes used and left, and whether new work should be refused
//! - bound: listing takes at most 2 % of the time
//! - on failure: the last listing stays

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use super::SpoolError;
use super::fs::SpoolFs;
use super::recover::QUARANTINE;
use super::slots;

/// What the spool still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Normal,
    /// Less than 30 % left: no bodies.
    NoBodies,
    /// Less than 5 % left, and until 10 % are left again: nothing new is begun.
    Full,
}

#[derive(Debug)]
pub(super) struct Usage {
    max_bytes: u64,
    /// All files but the open segment.
    closed_bytes: u64,
    /// The quota, or what the disk really has.
    capacity: u64,
    listed: Instant,
    cost: Duration,
    full: bool,
}

impl Usage {
    pub(super) fn new(max_bytes: u64, now: Instant) -> Self {
        let capacity = max_bytes;
        Self {
            max_bytes,
            closed_bytes: 0,
            capacity,
            listed: now,
            cost: Duration::ZERO,
            full: false,
        }
    }

    /// Lists the directories of all slots again. `open_written` are the bytes of our open segment
    /// on disk; another slot's count as closed.
    pub(super) fn list(
        &mut self,
        fs: &dyn SpoolFs,
        root: &Path,
        open_written: u64,
        now: Instant,
    ) -> Result<(), SpoolError> {
        self.listed = now;
        let begun = Instant::now();
        let total = |dir: &Path| -> Result<u64, SpoolError> {
            let files = match fs.list(dir) {
                // a slot that was never used
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
                files => files.map_err(SpoolError::io("listing", dir))?,
            };
            Ok(files.iter().fold(0, |sum: u64, (_, len)| sum.saturating_add(*len)))
        };
        let mut used = 0_u64;
        for dir in slots::dirs(root) {
            used = used.saturating_add(total(&dir)?).saturating_add(total(&dir.join(QUARANTINE))?);
        }
        let free = fs.free(root).map_err(SpoolError::io("asking for the free space of", root))?;
        self.closed_bytes = used.saturating_sub(open_written);
        self.capacity = self.max_bytes.min(used.saturating_add(free));
        self.cost = begun.elapsed();
        Ok(())
    }

    /// Whether the listing is too old: the fuller, the sooner.
    pub(super) fn is_due(&self, open: u64, now: Instant) -> bool {
        let tight = self.full || self.left(open) < self.capacity / 2;
        let every = if tight { Duration::from_millis(250) } else { Duration::from_secs(5) };
        now.saturating_duration_since(self.listed) >= every.max(self.cost.saturating_mul(50))
    }

    pub(super) fn add_closed(&mut self, bytes: u64) {
        self.closed_bytes = self.closed_bytes.saturating_add(bytes);
    }

    pub(super) fn used(&self, open: u64) -> u64 {
        self.closed_bytes.saturating_add(open)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn left(&self, open: u64) -> u64 {
        self.capacity.saturating_sub(self.used(open))
    }

    /// A record did not fit.
    pub(super) fn overflow(&mut self) {
        self.full = true;
    }

    pub(super) fn level(&mut self, open: u64) -> Level {
        let left = self.left(open);
        self.full = left < self.capacity / if self.full { 10 } else { 20 };
        match self.full {
            true => Level::Full,
            false if left < self.capacity / 10 * 3 => Level::NoBodies,
            false => Level::Normal,
        }
    }
}
