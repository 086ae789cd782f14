//! The row of an exchange as it begins.
//!
//! - input: a request head and its flow
//! - output: an [`ExchangeRow`] without what the answer will tell
//! - bound: the head's own
//! - on failure: cannot fail

use std::sync::Arc;

use http::Request;
use uuid::Uuid;

use super::super::HttpFlow;
use crate::inspect::mask;
use crate::record::exchange::{ALLOW, OK};
use crate::record::flow::mapped;
use crate::record::row::ExchangeRow;
use crate::tls::Protocol;

/// `class` values of the record.
const HTTP: u8 = 1;
pub(super) const TUNNEL: u8 = 5;

/// The recorded name of a protocol.
pub(super) fn proto(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::H1 => "h1",
        Protocol::H2 => "h2",
    }
}

/// The row of a request that has just arrived.
pub(super) fn row<B>(http: &HttpFlow, request: &Request<B>, id: Uuid) -> ExchangeRow {
    let flow = &http.flow;
    let identity = &flow.identity;
    let dst = flow.captured.orig_dst.0;
    let lens = flow.lens();
    let query = request.uri().query().map(|q| mask::query(&lens, q).into_inner());
    ExchangeRow {
        ts: flow.worker.shared.seams.clock.wall().0,
        exchange_id: id,
        flow_id: flow.record.id(),
        session_id: identity.session_id,
        job_id: Arc::clone(&identity.job_id),
        exec_id: Arc::clone(&identity.exec_id),
        identity: Arc::clone(&identity.who.display),
        pid: flow.captured.process.key.tgid,
        process: Arc::clone(&identity.process),
        class: HTTP,
        scheme: http.scheme,
        dst_host: Arc::clone(&http.name),
        dst_ip: mapped(dst.ip()),
        dst_port: dst.port(),
        proto: proto(http.downstream),
        upstream_proto: "",
        method: mask::text(&lens, request.method().to_string()).into_inner(),
        path: mask::path(&lens, request.uri().path()).into_inner(),
        query_masked: query.unwrap_or_default(),
        status: 0,
        decision: ALLOW,
        rule_id: http.permit.rule().to_owned(),
        outcome: OK,
        fault: "",
        detail: String::new(),
        req_bytes: 0,
        resp_bytes: 0,
        ttfb_us: 0,
        dur_us: 0,
        req_headers: Vec::new(),
        resp_headers: Vec::new(),
        req_sha256: [0; 32],
        resp_sha256: [0; 32],
        req_body: 0,
        resp_body: 0,
        chunk_us: Vec::new(),
        chunk_bytes: Vec::new(),
        findings: 0,
        finding_action: "",
        who: Arc::clone(&identity.who),
    }
}
