//! The spool: records on disk from the moment they are written until ClickHouse has them.
//!
//! - input: rows from the recorder's one writer thread
//! - output: sealed [`segment`]s, read in order by the sink and deleted when acknowledged
//! - bound: `spool.max_bytes` of disk; one open segment
//! - on failure: [`SpoolError`]; `Full` makes the gateway refuse new flows
//!
//! The format is in `docs/spool-format.md`.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Fault, Faulty};

pub mod fs;
pub mod reader;
pub mod recover;
pub mod segment;
pub mod slots;
mod state;
mod usage;
pub mod writer;

#[cfg(test)]
mod tests;

/// Why the spool could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Another process writes to this directory.
    #[error("locking the spool {}: another gateway uses it", .0.display())]
    Locked(PathBuf),
    /// The quota or the disk is used up. The record was not written and took no number.
    #[error("appending to the spool: {used} of {max} bytes are used")]
    Full {
        /// Bytes in use.
        used: u64,
        /// Bytes that may be used.
        max: u64,
    },
    /// An earlier write failed. The record was not written and took no number.
    #[error("appending to the spool: out of service after: {0}")]
    Failed(String),
    /// One record is larger than `limits::MAX_RECORD_BYTES`. It was not written.
    #[error("appending to the spool: a record of {bytes} bytes is too large")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A segment does not say what was written.
    #[error("reading segment {}: {damage}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        damage: segment::Damage,
    },
    /// The host id does not fit into a segment header.
    #[error("opening the spool: a host id of {0} bytes is too long")]
    HostId(usize),
    /// Record numbers of this boot id are already in the spool.
    #[error("opening the spool: boot id {0} was used before")]
    BootReused(Uuid),
}

impl SpoolError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Whether the disk, not the quota, is full.
    pub fn is_disk_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl Faulty for SpoolError {
    fn fault(&self) -> Fault {
        match self {
            Self::Full { .. } | Self::TooLarge { .. } => Fault::Capacity,
            Self::Io { .. } | Self::Failed(_) | Self::Damaged { .. } | Self::BootReused(_) => {
                Fault::Internal
            }
            Self::Locked(_) | Self::HostId(_) => Fault::Policy,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Io { .. } => "spool_io",
            Self::Locked(_) => "spool_locked",
            Self::Full { .. } => "spool_full",
            Self::Failed(_) => "spool_failed",
            Self::TooLarge { .. } => "record_too_large",
            Self::Damaged { .. } => "segment_damaged",
            Self::HostId(_) => "host_id_too_long",
            Self::BootReused(_) => "boot_id_reused",
        }
    }
}
