//! The spool as the source of deliveries.
//!
//! - input: the spool's reader
//! - output: inserts with their tokens
//! - bound: one segment
//! - on failure: damage and disk errors told apart, as `deliver` wants them

use std::fmt;

use super::deliver::{Insert, SegmentSource, SourceError};
use crate::spool::SpoolError;
use crate::spool::reader::{Reader, Segment, SegmentRef};

/// Sealed segments of one spool directory.
#[derive(Debug)]
pub struct Spooled(pub Reader);

/// A segment by its number.
#[derive(Clone, Debug)]
pub struct Number(SegmentRef);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.number.fmt(f)
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
    type Ref = Number;

    fn sealed(&self) -> Result<Vec<Number>, SourceError> {
        Ok(self.0.sealed()?.into_iter().map(Number).collect())
    }

    fn load(&self, at: &Number) -> Result<Vec<Insert>, SourceError> {
        Ok(inserts(self.0.load(&at.0)?))
    }

    fn salvage(&self, at: &Number) -> Result<Vec<Insert>, SourceError> {
        Ok(inserts(self.0.salvage(&at.0)?))
    }

    fn ack(&self, at: &Number) -> Result<(), SourceError> {
        Ok(self.0.ack(&at.0)?)
    }

    fn quarantine(&self, at: &Number, reason: &str) -> Result<(), SourceError> {
        Ok(self.0.quarantine(&at.0, reason)?)
    }
}
