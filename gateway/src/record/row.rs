//! The rows of the record, as ClickHouse stores them, and their RowBinary encoding.
//!
//! - input: finished flows, exchanges, bodies; gaps and heartbeats
//! - output: RowBinary bytes, and the `RowBinaryWithNamesAndTypes` header of each table
//! - bound: a row is at most `limits::MAX_RECORD_BYTES`
//! - on failure: encoding cannot fail
//!
//! The declarations below are the only list of columns in Rust. `deploy/clickhouse/` holds the
//! DDL; the header carries names and types, so that a server refuses a row that does not fit its
//! schema, and fills columns that a newer schema added with their defaults.

use std::net::Ipv6Addr;

use uuid::Uuid;

use crate::inspect::mask::Masked;

/// Who writes: the same for all rows of one gateway start.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Stable name of the host (configured, or the machine id).
    pub host_id: String,
    /// One start of the gateway. `(host_id, boot_id, seq)` names a record in the whole fleet.
    pub boot_id: Uuid,
    /// Organisation that owns the host.
    pub org: String,
    /// Project that owns the host, empty when it is shared.
    pub project: String,
    /// Seconds that flows and exchanges are kept.
    pub retain_metadata_s: u32,
    /// Seconds that bodies are kept.
    pub retain_bodies_s: u32,
}

/// A table of the record. The number is the spool's table id: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// One row per redirected connection.
    Flows = 1,
    /// One row per request and its response.
    Exchanges = 2,
    /// Recorded bodies, in chunks.
    Bodies = 3,
    /// Known loss.
    Gaps = 4,
    /// Liveness and counters.
    Heartbeats = 5,
    /// One row per question to the resolver.
    DnsQueries = 6,
    /// What somebody should look at.
    Alarms = 7,
    /// Secrets in exchanges.
    Findings = 8,
}

impl Table {
    /// Every table, in the order in which a batch inserts them.
    pub const ALL: [Self; 8] = [
        Self::Bodies,
        Self::Findings,
        Self::Exchanges,
        Self::Flows,
        Self::DnsQueries,
        Self::Alarms,
        Self::Gaps,
        Self::Heartbeats,
    ];

    /// The table's name in ClickHouse.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Exchanges => "exchanges",
            Self::Bodies => "bodies",
            Self::Gaps => "gaps",
            Self::Heartbeats => "heartbeats",
            Self::DnsQueries => "dns_queries",
            Self::Alarms => "alarms",
            Self::Findings => "findings",
        }
    }

    /// The table with this spool id.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == id)
    }

    /// Names and types of the table's columns, in encoding order.
    pub fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Flows => FlowRow::COLUMNS,
            Self::Exchanges => ExchangeRow::COLUMNS,
            Self::Bodies => BodyRow::COLUMNS,
            Self::Gaps => GapRow::COLUMNS,
            Self::Heartbeats => HeartbeatRow::COLUMNS,
            Self::DnsQueries => DnsRow::COLUMNS,
            Self::Alarms => AlarmRow::COLUMNS,
            Self::Findings => FindingRow::COLUMNS,
        }
    }

    /// The header of `FORMAT RowBinaryWithNamesAndTypes`.
    pub fn header(self) -> Vec<u8> {
        let columns = self.columns();
        let mut out = Vec::with_capacity(columns.len() * 32);
        put_len(columns.len(), &mut out);
        for (name, _) in columns {
            name.encode(&mut out);
        }
        for (_, kind) in columns {
            kind.encode(&mut out);
        }
        out
    }
}

/// A row that the recorder can write.
pub trait Row: Send + 'static {
    /// Its table.
    const TABLE: Table;
    /// Names and ClickHouse types of its columns, in encoding order.
    const COLUMNS: &'static [(&'static str, &'static str)];
    /// Appends the row in RowBinary.
    fn encode(&self, producer: &Producer, seq: u64, out: &mut Vec<u8>);
}

/// A value that RowBinary can carry
/// (<https://clickhouse.com/docs/interfaces/formats/RowBinary>).
pub trait Value {
    /// Appends the value.
    fn encode(&self, out: &mut Vec<u8>);
}

fn put_len(n: usize, out: &mut Vec<u8>) {
    let mut n = n as u64;
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        out.push(if n == 0 { low } else { low | 0x80 });
        if n == 0 {
            return;
        }
    }
}

macro_rules! little_endian {
    ($($t:ty),*) => { $(impl Value for $t {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
    })* };
}
little_endian!(u8, u16, u32, u64, i64);

impl Value for str {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Value for &str {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl Value for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Value for std::sync::Arc<str> {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl Value for Masked<bytes::Bytes> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.bytes().len(), out);
        out.extend_from_slice(self.bytes());
    }
}

/// ClickHouse keeps a UUID as two little-endian halves, the high one first.
impl Value for Uuid {
    fn encode(&self, out: &mut Vec<u8>) {
        let (high, low) = self.as_u64_pair();
        high.encode(out);
        low.encode(out);
    }
}

impl Value for Ipv6Addr {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }
}

/// `FixedString(N)`.
impl<const N: usize> Value for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<T: Value> Value for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        for item in self {
            item.encode(out);
        }
    }
}

/// One entry of a `Map`; a `Vec` of them is the map.
impl<K: Value, V: Value> Value for (K, V) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

/// Declares a row: the producer's columns come first, then `ts`, `expires_at`, then its own. With
/// `who`, those of [`who`] are the last.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident = $table:ident, keep $retain:ident, who { $($own:tt)* }) => {
        row! { $(#[$doc])* $name = $table, keep $retain { $($own)* } and {
            /// Who the process acts for: shared by all rows of one identity.
            who: std::sync::Arc<crate::identify::who::Who> = [
                ("identity_method", "LowCardinality(String)"),
                ("identity_confidence", "LowCardinality(String)"),
                ("identity_state", "LowCardinality(String)"),
                ("issuer", "LowCardinality(String)"),
                ("subject", "String"),
                ("groups", "Array(LowCardinality(String))"),
                ("repository", "LowCardinality(String)"),
                ("workflow", "LowCardinality(String)"),
                ("run", "String"),
                ("ci_job", "String"),
                ("actor", "LowCardinality(String)"),
                ("runner", "String"),
            ]
        } }
    };
    ($(#[$doc:meta])* $name:ident = $table:ident, keep $retain:ident {
        $($(#[$fdoc:meta])* $field:ident: $ty:ty = $ch:literal,)*
    } $(and {
        $(#[$gdoc:meta])* $group:ident: $gty:ty = [$($columns:expr,)*]
    })?) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            /// When it began, microseconds since the Unix epoch.
            pub ts: i64,
            $($(#[$fdoc])* pub $field: $ty,)*
            $($(#[$gdoc])* pub $group: $gty,)?
        }

        impl Row for $name {
            const TABLE: Table = Table::$table;
            const COLUMNS: &'static [(&'static str, &'static str)] = &[
                ("host_id", "LowCardinality(String)"),
                ("boot_id", "UUID"),
                ("seq", "UInt64"),
                ("org", "LowCardinality(String)"),
                ("project", "LowCardinality(String)"),
                ("ts", "DateTime64(6, 'UTC')"),
                ("expires_at", "DateTime('UTC')"),
                $((stringify!($field), $ch),)*
                $($($columns,)*)?
            ];

            fn encode(&self, producer: &Producer, seq: u64, out: &mut Vec<u8>) {
                producer.host_id.encode(out);
                producer.boot_id.encode(out);
                seq.encode(out);
                producer.org.encode(out);
                producer.project.encode(out);
                self.ts.encode(out);
                expiry(self.ts, producer.$retain).encode(out);
                $(self.$field.encode(out);)*
                $(self.$group.encode(out);)?
            }
        }
    };
}

mod alarm;
mod dns;
mod exchange;
mod finding;
mod health;
mod who;
pub use alarm::AlarmRow;
pub use dns::DnsRow;
pub use exchange::{BodyRow, ExchangeRow};
pub use finding::FindingRow;
pub use health::{GapRow, HeartbeatRow};
pub use who::Ids;

/// Seconds since the epoch at which a row expires; saturates at the type's end (2106).
fn expiry(ts_us: i64, retain_s: u32) -> u32 {
    let end = ts_us / 1_000_000 + i64::from(retain_s);
    u32::try_from(end.max(0)).unwrap_or(u32::MAX)
}

row! {
    /// One redirected connection, decrypted or not.
    FlowRow = Flows, keep retain_metadata_s, who {
        /// UUIDv7.
        flow_id: Uuid = "UUID",
        /// The exchanges of one identity in one job or login.
        session_id: Uuid = "UUID",
        /// Name of the job: the captured cgroup below weir's own.
        job_id: std::sync::Arc<str> = "String",
        /// `host:boot:start_ns:tgid` of the process.
        exec_id: std::sync::Arc<str> = "String",
        /// Who it is, as far as weir knows.
        identity: std::sync::Arc<str> = "LowCardinality(String)",
        /// The same as `identity_method`, under its first name.
        identity_src: &'static str = "LowCardinality(String)",
        /// Thread group id.
        pid: u32 = "UInt32",
        /// Base name of the executable, or `comm` when the file is not known.
        process: std::sync::Arc<str> = "LowCardinality(String)",
        /// Path of the executable, empty when the process was gone before it could be read.
        exe: std::sync::Arc<str> = "LowCardinality(String)",
        /// Device of the executable.
        exe_dev: u32 = "UInt32",
        /// Inode of the executable.
        exe_ino: u64 = "UInt64",
        /// Thread name, chosen by the process.
        comm: String = "LowCardinality(String)",
        /// Arguments, cut by the kernel hook.
        argv: Vec<String> = "Array(String)",
        /// `exec_id`s of the ancestors, parent first.
        ancestors: Vec<String> = "Array(String)",
        /// User id.
        uid: u32 = "UInt32",
        /// Group id.
        gid: u32 = "UInt32",
        /// cgroup v2 id of the process.
        cgroup_id: u64 = "UInt64",
        /// Path of that cgroup below the cgroup2 mount, empty when it is gone.
        cgroup: std::sync::Arc<str> = "String",
        /// Network namespace cookie.
        netns_cookie: u64 = "UInt64",
        /// The client's socket.
        socket_cookie: u64 = "UInt64",
        /// Original destination address; IPv4 is v4-mapped.
        dst_ip: Ipv6Addr = "IPv6",
        /// Original destination port.
        dst_port: u16 = "UInt16",
        /// Server name of the ClientHello, empty without one.
        sni: String = "LowCardinality(String)",
        /// Negotiated downstream protocol: `h2`, `http/1.1` or empty.
        alpn: &'static str = "LowCardinality(String)",
        /// `terminated`, `plain`, `opaque`, `passthrough` or `refused`.
        mode: &'static str = "LowCardinality(String)",
        /// `ok` or the stable name of what went wrong.
        outcome: &'static str = "LowCardinality(String)",
        /// Whose doing: empty, `downstream`, `upstream`, `policy`, `capacity` or `internal`.
        fault: &'static str = "LowCardinality(String)",
        /// The error in words, without any payload.
        detail: String = "String",
        /// Bytes on the downstream wire from the client.
        up_bytes: u64 = "UInt64",
        /// Bytes on the downstream wire to the client.
        down_bytes: u64 = "UInt64",
        /// Exchanges that the flow carried.
        exchanges: u32 = "UInt32",
        /// From accept to close, microseconds.
        dur_us: u64 = "UInt64",
        /// `known`, `unknown` or `mismatch`: whether `sni` was resolved to `dst_ip`. Empty
        /// without a server name, and when nothing was checked.
        dns_check: &'static str = "LowCardinality(String)",
        /// Every id of the identity's token; exchanges of the flow find them here.
        ids: Ids = "Map(LowCardinality(String), String)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_leb128() {
        for (n, want) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (300, vec![0xac, 2])]
        {
            let mut out = Vec::new();
            put_len(n, &mut out);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn uuid_halves_are_little_endian() {
        let mut out = Vec::new();
        Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff).encode(&mut out);
        assert_eq!(hex::encode(out), "7766554433221100ffeeddccbbaa9988");
    }

    #[test]
    fn table_ids_round_trip() {
        for table in Table::ALL {
            assert_eq!(Table::from_id(table as u8), Some(table));
        }
        assert_eq!(Table::from_id(0), None);
    }

    #[test]
    fn expiry_saturates_instead_of_wrapping() {
        assert_eq!(expiry(5_000_000, 10), 15);
        assert_eq!(expiry(i64::MAX, u32::MAX), u32::MAX);
        assert_eq!(expiry(-5_000_000, 0), 0);
    }
}
