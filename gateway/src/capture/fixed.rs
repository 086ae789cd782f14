//! The fake side of the `Capture` seam: one answer for every socket, for tests without root.
//!
//! - input: an accepted socket, ignored
//! - output: the [`Captured`] it was made with
//! - bound: none
//! - on failure: answers [`CaptureError::NoRecord`] when made with none

use std::os::fd::BorrowedFd;

use super::{Capture, CaptureError, Captured, Question};

/// Answers the same record for every socket, or none at all.
#[derive(Clone, Debug, Default)]
pub struct FixedCapture(pub Option<Captured>);

impl Capture for FixedCapture {
    fn record(&self, _socket: BorrowedFd<'_>) -> Result<Captured, CaptureError> {
        self.0.clone().ok_or(CaptureError::NoRecord)
    }

    fn asker(&self, _question: Question) -> Result<Captured, CaptureError> {
        self.0.clone().ok_or(CaptureError::NoRecord)
    }
}
