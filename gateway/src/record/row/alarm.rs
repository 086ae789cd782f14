//! The row of `alarms`.
//!
//! - input: an alarm
//! - output: RowBinary
//! - bound: `record::alarm` bounds how many; arguments are cut by the kernel hook
//! - on failure: encoding cannot fail

use std::net::Ipv6Addr;
use std::sync::Arc;

use uuid::Uuid;

use super::{Ids, Producer, Row, Table, Value, expiry};

row! {
    /// Something that somebody should look at. Columns of a process are as in
    /// [`FlowRow`](super::FlowRow), empty or 0 where no process is concerned.
    AlarmRow = Alarms, keep retain_metadata_s, who {
        /// What it is: a stable name. Later versions add names.
        kind: &'static str = "LowCardinality(String)",
        /// `info`, `warn` or `error`.
        severity: &'static str = "LowCardinality(String)",
        /// The process's session.
        session_id: Uuid = "UUID",
        /// Its job; for a socket that was moved, the job that made the socket.
        job_id: Arc<str> = "String",
        /// `host:boot:start_ns:tgid`.
        exec_id: Arc<str> = "String",
        /// Who it is, as far as weir knows.
        identity: Arc<str> = "LowCardinality(String)",
        /// Thread group id.
        pid: u32 = "UInt32",
        /// Its start, nanoseconds since the boot of the kernel.
        start_ns: u64 = "UInt64",
        /// Base name of the executable, or `comm`.
        process: Arc<str> = "LowCardinality(String)",
        /// Path of the executable.
        exe: Arc<str> = "LowCardinality(String)",
        /// Device of the executable.
        exe_dev: u32 = "UInt32",
        /// Inode of the executable.
        exe_ino: u64 = "UInt64",
        /// Thread name, chosen by the process.
        comm: String = "LowCardinality(String)",
        /// Arguments, cut by the kernel hook and masked; empty for a process that another one moved.
        argv: Vec<String> = "Array(String)",
        /// `exec_id`s of the ancestors, parent first.
        ancestors: Vec<String> = "Array(String)",
        /// User id.
        uid: u32 = "UInt32",
        /// Group id.
        gid: u32 = "UInt32",
        /// cgroup v2 id of the process; of one that was moved out, the cgroup that it left.
        cgroup_id: u64 = "UInt64",
        /// Path of that cgroup below the cgroup2 mount, empty outside of the captured one.
        cgroup: Arc<str> = "String",
        /// Destination, or the address to be bound; `::` where there is none.
        dst_ip: Ipv6Addr = "IPv6",
        /// Its port.
        dst_port: u16 = "UInt16",
        /// `tcp`, `udp`, the number of another protocol, or empty.
        proto: String = "LowCardinality(String)",
        /// How many equal alarms this row stands for.
        count: u64 = "UInt64",
        /// What happened, in words, without any payload.
        detail: String = "String",
        /// Every id of the identity's token.
        ids: Ids = "Map(LowCardinality(String), String)",
    }
}
