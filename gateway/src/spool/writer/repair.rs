//! What the writer does when the disk fails under it.
//!
//! - input: a segment with a failed write, sync or rename
//! - output: its readable part, sealed from a fresh copy; the records that are lost
//! - bound: one try a second, one segment in memory
//! - on failure: the writer stays out of service

use std::time::Instant;

use super::{Broken, Lost, RETRY, Unsaved, Writer};
use crate::spool::SpoolError;
use crate::spool::recover::{self, How, open_path};
use crate::spool::segment::{self, MAX_FILE_BYTES};
use crate::spool::state::remove_if_there;

impl Writer {
    /// Runs a disk operation; a failure puts the writer out of service.
    pub(super) fn guarded(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        if let Some(broken) = &self.broken {
            return Err(SpoolError::Failed(broken.reason.clone()));
        }
        run(self).inspect_err(|e| {
            let segment = self.open.take().map(|open| Unsaved {
                number: open.number,
                records: Lost { first_seq: open.first_seq, last_seq: open.last_seq },
            });
            self.fail(segment, e);
        })
    }

    pub(super) fn fail(&mut self, segment: Option<Unsaved>, error: &SpoolError) {
        let retry_at = self.clock.mono() + RETRY;
        self.broken = Some(Broken { segment, reason: error.to_string(), retry_at });
    }

    /// After a failure: saves the intact part of the segment.
    pub(super) fn repair(&mut self, now: Instant) -> Result<(), SpoolError> {
        let Some(broken) = &mut self.broken else { return Ok(()) };
        if now < broken.retry_at {
            return Err(SpoolError::Failed(broken.reason.clone()));
        }
        broken.retry_at = now + RETRY;
        if let Some(unsaved) = broken.segment {
            let Lost { first_seq, last_seq } = unsaved.records;
            let saved_seq = self.save(unsaved)?;
            self.synced_seq = self.synced_seq.max(saved_seq);
            if first_seq <= last_seq && saved_seq < last_seq {
                let first_seq = saved_seq.saturating_add(1);
                self.lost = Some(Lost { first_seq, last_seq });
            }
            if let Some(broken) = &mut self.broken {
                broken.segment = None;
            }
        }
        self.store_state(false)?;
        self.broken = None;
        Ok(())
    }

    /// Seals what can be read of a segment whose file failed, and returns its last record.
    fn save(&mut self, unsaved: Unsaved) -> Result<u64, SpoolError> {
        let Unsaved { number, records: Lost { first_seq, last_seq } } = unsaved;
        let (fs, dir) = (self.fs.as_ref(), &self.config.dir);
        let path = open_path(dir, number);
        let bytes = match fs.read(&path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let sealed = recover::sealed_numbers(fs, dir)?.contains_key(&number);
                return Ok(if sealed { last_seq } else { first_seq.saturating_sub(1) });
            }
            Err(e) => return Err(SpoolError::io("reading", &path)(e)),
        };
        let kept = match segment::scan(&bytes, |_| {}) {
            Ok(scan) => recover::finish(fs, dir, number, &bytes, &scan, How::Copy)?,
            Err(_) => {
                remove_if_there(fs, &path)?;
                None
            }
        };
        let Some(footer) = kept else { return Ok(first_seq.saturating_sub(1)) };
        self.position.prev = footer.sha256;
        self.usage.add_closed(bytes.len() as u64);
        self.sealed_segments += 1;
        Ok(footer.last_seq)
    }
}
