//! The rows of `exchanges` and `bodies`.
//!
//! - input: a finished exchange, and pieces of its bodies
//! - output: RowBinary
//! - bound: heads as `limits` bounds them; a piece of a body is at most 1 MiB
//! - on failure: encoding cannot fail

use std::net::Ipv6Addr;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{Producer, Row, Table, Value, expiry};
use crate::inspect::mask::Masked;

row! {
    /// One request and its response.
    ExchangeRow = Exchanges, keep retain_metadata_s, who {
        /// UUIDv7.
        exchange_id: Uuid = "UUID",
        /// The connection that carried it.
        flow_id: Uuid = "UUID",
        /// The exchanges of one identity in one job or login.
        session_id: Uuid = "UUID",
        /// See [`FlowRow::job_id`](super::FlowRow::job_id).
        job_id: Arc<str> = "String",
        /// See [`FlowRow::exec_id`](super::FlowRow::exec_id).
        exec_id: Arc<str> = "String",
        /// See [`FlowRow::identity`](super::FlowRow::identity).
        identity: Arc<str> = "LowCardinality(String)",
        /// See [`FlowRow::pid`](super::FlowRow::pid).
        pid: u32 = "UInt32",
        /// See [`FlowRow::process`](super::FlowRow::process).
        process: Arc<str> = "LowCardinality(String)",
        /// 1 http, 2 llm, 3 git, 4 registry, 5 tunnel, 6 mcp.
        class: u8 = "Enum8('http' = 1, 'llm' = 2, 'git' = 3, 'registry' = 4, 'tunnel' = 5, 'mcp' = 6)",
        /// `http` or `https`.
        scheme: &'static str = "LowCardinality(String)",
        /// Authority of the request without its port.
        dst_host: Arc<str> = "LowCardinality(String)",
        /// Original destination address; IPv4 is v4-mapped.
        dst_ip: Ipv6Addr = "IPv6",
        /// Original destination port.
        dst_port: u16 = "UInt16",
        /// Downstream protocol: `h1`, `h2` or `ws`.
        proto: &'static str = "LowCardinality(String)",
        /// Upstream protocol, empty when upstream was never reached.
        upstream_proto: &'static str = "LowCardinality(String)",
        /// Request method.
        method: String = "LowCardinality(String)",
        /// Request path.
        path: String = "String",
        /// Query string with credential values masked.
        query_masked: String = "String",
        /// Response status that the client saw, 0 when there was none.
        status: u16 = "UInt16",
        /// 1 allow, 2 deny, 3 hold, 4 mask, 5 observe, 6 error.
        decision: u8 = "Enum8('allow' = 1, 'deny' = 2, 'hold' = 3, 'mask' = 4, 'observe' = 5, 'error' = 6)",
        /// The rule that decided.
        rule_id: String = "LowCardinality(String)",
        /// `ok` or the stable name of what went wrong.
        outcome: &'static str = "LowCardinality(String)",
        /// Whose doing, see [`FlowRow::fault`](super::FlowRow::fault).
        fault: &'static str = "LowCardinality(String)",
        /// The error in words, without any payload.
        detail: String = "String",
        /// Request body bytes that upstream got.
        req_bytes: u64 = "UInt64",
        /// Response body bytes that upstream sent.
        resp_bytes: u64 = "UInt64",
        /// From the request head to the response head, microseconds.
        ttfb_us: u64 = "UInt64",
        /// From the request head to the end of both bodies, microseconds.
        dur_us: u64 = "UInt64",
        /// Header fields with credential values masked, in wire order.
        req_headers: Vec<(String, String)> = "Map(LowCardinality(String), String)",
        /// See `req_headers`.
        resp_headers: Vec<(String, String)> = "Map(LowCardinality(String), String)",
        /// SHA-256 of the request body as upstream got it, all zero when it did not end.
        req_sha256: [u8; 32] = "FixedString(32)",
        /// SHA-256 of the response body as upstream sent it, all zero when it did not end.
        resp_sha256: [u8; 32] = "FixedString(32)",
        /// 0 none, 1 full, 2 truncated at the cap, 3 dropped for want of space, 4 left out because it
        /// could not be masked.
        req_body: u8 = "Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3, 'unmaskable' = 4)",
        /// See `req_body`.
        resp_body: u8 = "Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3, 'unmaskable' = 4)",
        /// Streamed responses: microseconds after the response head of each chunk.
        chunk_us: Vec<u64> = "Array(UInt64)",
        /// Streamed responses: bytes of each of those chunks.
        chunk_bytes: Vec<u64> = "Array(UInt64)",
        /// Secrets that were found in the bodies, those without a row in `findings` included.
        findings: u32 = "UInt32",
        /// The strongest thing that was done about them, empty without any.
        finding_action: &'static str = "LowCardinality(String)",
    }
}

row! {
    /// A piece of a recorded body.
    BodyRow = Bodies, keep retain_bodies_s {
        /// The exchange it belongs to.
        exchange_id: Uuid = "UUID",
        /// Its session.
        session_id: Uuid = "UUID",
        /// Its job.
        job_id: Arc<str> = "String",
        /// 1 request, 2 response.
        dir: u8 = "Enum8('request' = 1, 'response' = 2)",
        /// Position of this piece, from 0.
        chunk: u32 = "UInt32",
        /// Number of pieces.
        chunks: u32 = "UInt32",
        /// `Content-Type` of the body.
        content_type: String = "LowCardinality(String)",
        /// `Content-Encoding` of the bytes: empty, they are decoded. Rows of older gateways are as on
        /// the wire.
        content_encoding: String = "LowCardinality(String)",
        /// The bytes.
        body: Masked<Bytes> = "String",
    }
}
