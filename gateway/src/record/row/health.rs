//! The rows that tell how weir itself is: `gaps` and `heartbeats`.
//!
//! - input: losses and counters
//! - output: RowBinary
//! - bound: one row per loss, one per beat
//! - on failure: encoding cannot fail

use uuid::Uuid;

use super::{Producer, Row, Table, Value, expiry};

row! {
    /// Loss that weir knows of.
    GapRow = Gaps, keep retain_metadata_s {
        /// 1 spool_full, 2 crash, 3 restart, 4 bypass, 5 body_cap, 6 parse_error, 7 kernel_drop,
        /// 8 quarantine.
        cause: u8 = "Enum8('spool_full' = 1, 'crash' = 2, 'restart' = 3, 'bypass' = 4, 'body_cap' = 5, 'parse_error' = 6, 'kernel_drop' = 7, 'quarantine' = 8)",
        /// Producer whose records are missing; differs from `boot_id` after a crash.
        gap_boot_id: Uuid = "UUID",
        /// First record number that may be missing.
        first_seq: u64 = "UInt64",
        /// Last one, or 0 when it is not known.
        last_seq: u64 = "UInt64",
        /// Number of records lost, 0 when it is not known.
        records: u64 = "UInt64",
        /// Bytes lost, 0 when it is not known.
        bytes: u64 = "UInt64",
        /// What happened, in words.
        detail: String = "String",
    }
}

row! {
    /// Liveness, and the counters that turn silence into a finding.
    HeartbeatRow = Heartbeats, keep retain_metadata_s {
        /// Version of weir.
        version: &'static str = "LowCardinality(String)",
        /// Flows open now.
        active_flows: u32 = "UInt32",
        /// Bytes in the spool.
        spool_bytes: u64 = "UInt64",
        /// Every non-zero counter of the gateway since its start.
        counters: Vec<(String, u64)> = "Map(LowCardinality(String), UInt64)",
        /// Resident memory, bytes.
        rss_bytes: u64 = "UInt64",
    }
}
