//! The row of `dns_queries`.
//!
//! - input: an answered query
//! - output: RowBinary
//! - bound: `dns::message` bounds names and answers
//! - on failure: encoding cannot fail

use std::net::Ipv6Addr;
use std::sync::Arc;

use uuid::Uuid;

use super::{Producer, Row, Table, Value, expiry};

row! {
    /// One question to the resolver and what became of it.
    DnsRow = DnsQueries, keep retain_metadata_s, who {
        /// Name asked for, lower case, without the final dot.
        qname: String = "String",
        /// Type asked for.
        qtype: String = "LowCardinality(String)",
        /// Response code that the client got.
        rcode: String = "LowCardinality(String)",
        /// Records of the answer section, `TYPE data` each, cut at 256 bytes.
        answers: Vec<String> = "Array(String)",
        /// `forwarded`, `refused` or `failed`.
        decision: &'static str = "LowCardinality(String)",
        /// `ok` or the stable name of what went wrong.
        outcome: &'static str = "LowCardinality(String)",
        /// Server that answered, `address:port`; empty when none did.
        upstream: String = "LowCardinality(String)",
        /// 1 when ECH parameters were taken out of the answer.
        ech_removed: u8 = "UInt8",
        /// `udp` or `tcp`.
        proto: &'static str = "LowCardinality(String)",
        /// Port of the client's socket.
        client_port: u16 = "UInt16",
        /// From the question to the answer, microseconds.
        dur_us: u64 = "UInt64",
        /// One user in one job, as in `flows`; nil when it is not known who asked.
        session_id: Uuid = "UUID",
        /// Name of the job, empty when it is not known who asked.
        job_id: Arc<str> = "String",
        /// `host:boot:start_ns:tgid` of the process.
        exec_id: Arc<str> = "String",
        /// Who it is, as far as weir knows.
        identity: Arc<str> = "LowCardinality(String)",
        /// Thread group id, 0 when it is not known.
        pid: u32 = "UInt32",
        /// `task_struct.start_boottime`, nanoseconds since boot.
        start_time_ns: u64 = "UInt64",
        /// Base name of the executable, or the thread name.
        process: Arc<str> = "LowCardinality(String)",
        /// Path of the executable, empty when the process was gone before it could be read.
        exe: Arc<str> = "LowCardinality(String)",
        /// User id.
        uid: u32 = "UInt32",
        /// Cgroup of the process, by id and by path.
        cgroup_id: u64 = "UInt64",
        /// Path below the cgroup2 mount.
        cgroup: Arc<str> = "LowCardinality(String)",
        /// Server that the process meant to ask; `::` when it is not known.
        asked_ip: Ipv6Addr = "IPv6",
    }
}
