//! Counters of the recorder and its spool.
//!
//! - input: events of the writer thread and of reservations
//! - output: names and values for metrics and heartbeats
//! - bound: fixed
//! - on failure: cannot fail

use std::sync::atomic::{AtomicU64, Ordering};

use super::RecordError;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start; names with `_now` are gauges.
        #[derive(Debug, Default)]
        pub struct RecordStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl RecordStats {
            /// All names and values.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((
                    concat!("record_", stringify!($name)),
                    self.$name.load(Ordering::Relaxed),
                ),)*]
            }
        }
    };
}

stats! {
    /// Rows written to the spool.
    rows,
    /// Rows that the spool could not take.
    lost,
    /// Rows that had a number when the disk failed under them.
    lost_written,
    /// Records sent after the shutdown.
    lost_at_shutdown,
    /// Alarms that found no place in the queue; a summary tells them.
    alarms_unqueued,
    /// Body rows left out for want of space.
    bodies_dropped,
    /// Bytes of those.
    body_bytes_dropped,
    /// Bodies left out because they could not be looked into.
    bodies_unmaskable,
    /// Secrets found in exchanges.
    findings,
    /// Reservations refused because the spool was full.
    refused_full,
    /// Reservations refused because the disk failed.
    refused_failed,
    /// Reservations refused because no slot became free.
    refused_wait,
    /// Times that the disk failed.
    spool_failures,
    /// Segments sealed.
    segments_sealed,
    /// Segments of earlier starts that were sealed at this start.
    recovered_segments,
    /// Records in them.
    recovered_records,
    /// Bytes cut off from them.
    recovered_cut_bytes,
    /// Segments that could not be read at this start.
    recovered_quarantined,
    /// Bytes in the spool.
    spool_bytes_now,
    /// Number of the last durable record.
    synced_seq_now,
}

impl RecordStats {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn set(gauge: &AtomicU64, n: u64) {
        gauge.store(n, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, error: &RecordError) {
        match error {
            RecordError::Full => Self::add(&self.refused_full, 1),
            RecordError::Wait => Self::add(&self.refused_wait, 1),
            _ => Self::add(&self.refused_failed, 1),
        }
    }
}
