//! What can go wrong with anchors.
//!
//! - input: none
//! - output: [`AnchorError`]
//! - bound: none
//! - on failure: cannot fail

use super::super::CaptureError;
use super::{AnchorId, MAX_ANCHORS};
use crate::error::{Fault, Faulty};

/// Why an anchor could not be begun, ended or read.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// There is no such process any more, or the number names a thread.
    #[error("process {0} is gone")]
    Gone(u32),
    /// The process is the root of another anchor, which lives.
    #[error("the process is the root of anchor {} already", .0.0)]
    IsRoot(AnchorId),
    /// The process is an orphan of an anchor that has ended; it gets no other.
    #[error("the process belongs to anchor {}, which has ended", .0.0)]
    Expired(AnchorId),
    /// All anchors are in use.
    #[error("there are {MAX_ANCHORS} anchors already")]
    TooMany,
    /// All places for processes are in use.
    #[error("the map of anchored processes is full")]
    Full,
    /// The kernel anchored a process of this number in between.
    #[error("process {0} got an anchor meanwhile")]
    Taken(u32),
    /// The kernel's process numbers and start times are those of the initial namespaces.
    #[error("anchors need the initial pid and time namespaces")]
    Namespace,
    /// procfs is mounted with `hidepid`, or a service manager restricts it (`ProtectProc`).
    #[error("procfs hides the processes of other users: {0}")]
    Hidden(#[source] std::io::Error),
    /// procfs, a process descriptor or the clock could not be used.
    #[error("looking at processes: {0}")]
    Proc(#[source] std::io::Error),
    /// The maps could not be used.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl Faulty for AnchorError {
    fn fault(&self) -> Fault {
        match self {
            Self::Gone(_) | Self::IsRoot(_) | Self::Expired(_) => Fault::Downstream,
            Self::TooMany | Self::Full => Fault::Capacity,
            Self::Taken(_) | Self::Namespace | Self::Hidden(_) | Self::Proc(_) => Fault::Internal,
            Self::Capture(error) => error.fault(),
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Gone(_) => "anchor_process_gone",
            Self::IsRoot(_) => "anchor_exists",
            Self::Expired(_) => "anchor_expired",
            Self::TooMany => "anchors_exhausted",
            Self::Full => "anchor_map_full",
            Self::Taken(_) | Self::Namespace | Self::Hidden(_) | Self::Proc(_) => "anchor_failed",
            Self::Capture(error) => error.outcome(),
        }
    }
}
