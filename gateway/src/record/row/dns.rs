//! The row of `dns_queries`.
//!
//! - input: an answered query
//! - output: RowBinary
//! - bound: `dns::message` bounds names and answers
//! - on failure: encoding cannot fail

use super::{Producer, Row, Table, Value, expiry};

row! {
    /// One question to the resolver and what became of it.
    DnsRow = DnsQueries, keep retain_metadata_s {
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
    }
}
