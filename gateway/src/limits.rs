//! Every bound of the gateway in one place. Configurable ones are defaults here and are read from
//! `config::Config`; the rest are fixed because no operator has a reason to change them.

use std::time::Duration;

/// Bytes of a ClientHello, all records together, before the flow is refused.
pub const MAX_CLIENT_HELLO_BYTES: usize = 64 * 1024;
/// Bytes kept of the first write of a non-TLS flow to classify it.
pub const MAX_SNIFF_BYTES: usize = 1024;
/// Bytes of one request or response head. hyper answers 431 beyond it.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Header fields in one head.
pub const MAX_HEADERS: usize = 100;
/// Concurrent HTTP/2 streams of one downstream connection.
pub const MAX_H2_STREAMS: u32 = 128;
/// Leaves kept in the certificate cache, over all shards.
pub const MAX_CACHED_LEAVES: usize = 4096;
/// Remembered upstream ALPN results per worker.
pub const MAX_CACHED_ALPN: usize = 4096;
/// Idle upstream connections per worker, and per destination.
pub const MAX_POOL_IDLE: usize = 1024;
/// See [`MAX_POOL_IDLE`].
pub const MAX_POOL_IDLE_PER_KEY: usize = 128;
/// An idle upstream connection is closed after this time.
pub const POOL_IDLE: Duration = Duration::from_secs(25);
/// Timestamps kept per streamed body; later chunks are counted into the last one.
pub const MAX_CHUNK_MARKS: usize = 1024;
/// Resolved processes and cgroup names kept.
pub const MAX_CACHED_PROCESSES: usize = 8192;
/// DNS messages over UDP; larger answers are asked for and given over TCP.
pub const MAX_DNS_UDP_BYTES: usize = 4096;
/// A DNS connection may wait so long for its next message, and for its client to read.
pub const DNS_IDLE: Duration = Duration::from_secs(10);
/// Exchanges that may be open or queued for the recorder at once.
pub const MAX_OPEN_RECORDS: usize = 32 * 1024;
/// One record in the spool; a larger one is a bug and is refused.
pub const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// How long a new exchange waits for a recorder slot before it is refused.
pub const RECORD_WAIT: Duration = Duration::from_secs(5);
