//! The spool as the source of deliveries.
//!
//! - input: the spool's reader
//! - output: inserts with their tokens
//! - bound: one segment
//! - on failure: damage and disk errors told apart, as `deliver` wants them

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::deliver::{Insert, SegmentSource, SourceError};
use crate::spool::SpoolError;
use crate::spool::fs::SpoolFs;
use crate::spool::reader::{Reader, Segment, SegmentRef};
use crate::spool::slots;

/// Sealed segments of a spool: those of every slot, one slot after the other.
#[derive(Debug)]
pub struct Spooled(Vec<Reader>);

impl Spooled {
    /// The spool below a directory; makes the first slot when it is not there yet.
    ///
    /// # Errors
    /// `Io`
    pub fn open(root: &Path, fs: &Arc<dyn SpoolFs>) -> Result<Self, SpoolError> {
        let first = Reader::open(root, Arc::clone(fs))?;
        let others = slots::dirs(root).skip(1).map(|dir| Reader::at(dir, Arc::clone(fs)));
        Ok(Self(std::iter::once(first).chain(others).collect()))
    }
}

/// A segment by its slot's reader and its number.
#[derive(Clone, Debug)]
pub struct Place {
    slot: Reader,
    at: SegmentRef,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.at.number, self.slot.dir().display())
    }
}

impl From<SpoolError> for SourceError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Damaged { .. } => Self::Damaged(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}

fn inserts(segment: Segment) -> Vec<Insert> {
    let tokens: Vec<String> = segment.batches.iter().map(|batch| segment.token(batch)).collect();
    let insert = |(batch, token): (crate::spool::reader::Batch, String)| Insert {
        table: batch.table,
        token,
        data: batch.data,
        rows: batch.rows,
    };
    segment.batches.into_iter().zip(tokens).map(insert).collect()
}

impl SegmentSource for Spooled {
    type Ref = Place;

    fn sealed(&self) -> Result<Vec<Place>, SourceError> {
        let mut all = Vec::new();
        for slot in &self.0 {
            let sealed = match slot.sealed() {
                // a slot that was never used
                Err(SpoolError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    continue;
                }
                sealed => sealed?,
            };
            all.extend(sealed.into_iter().map(|at| Place { slot: slot.clone(), at }));
        }
        Ok(all)
    }

    fn load(&self, place: &Place) -> Result<Vec<Insert>, SourceError> {
        Ok(inserts(place.slot.load(&place.at)?))
    }

    fn salvage(&self, place: &Place) -> Result<Vec<Insert>, SourceError> {
        Ok(inserts(place.slot.salvage(&place.at)?))
    }

    fn ack(&self, place: &Place) -> Result<(), SourceError> {
        Ok(place.slot.ack(&place.at)?)
    }

    fn quarantine(&self, place: &Place, reason: &str) -> Result<(), SourceError> {
        Ok(place.slot.quarantine(&place.at, reason)?)
    }
}
