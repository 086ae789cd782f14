//! The row of `findings`.
//!
//! - input: a finding of an exchange
//! - output: RowBinary
//! - bound: `limits::MAX_FINDINGS` rows of an exchange, texts by [`MAX_TEXT_BYTES`]
//! - on failure: encoding cannot fail

use std::sync::Arc;

use uuid::Uuid;
use weir_inspect::fingerprint::Fingerprint;
use weir_inspect::rule::{Confidence, Tier};

use super::{ExchangeRow, Producer, Row, Table, Value, expiry};
use crate::inspect::findings::Finding;
use crate::inspect::judge::Direction;

/// Of a location, which a hostile body can make long.
const MAX_TEXT_BYTES: usize = 512;

row! {
    /// One secret in one place of an exchange. Nothing of the secret is in it.
    FindingRow = Findings, keep retain_metadata_s, who {
        /// The exchange that carried it.
        exchange_id: Uuid = "UUID",
        /// Its connection.
        flow_id: Uuid = "UUID",
        /// See [`ExchangeRow::session_id`].
        session_id: Uuid = "UUID",
        /// See [`ExchangeRow::job_id`].
        job_id: Arc<str> = "String",
        /// See [`ExchangeRow::exec_id`].
        exec_id: Arc<str> = "String",
        /// See [`ExchangeRow::identity`].
        identity: Arc<str> = "LowCardinality(String)",
        /// See [`ExchangeRow::pid`].
        pid: u32 = "UInt32",
        /// See [`ExchangeRow::process`].
        process: Arc<str> = "LowCardinality(String)",
        /// Host of the exchange.
        dst_host: Arc<str> = "LowCardinality(String)",
        /// 1 request, 2 response.
        direction: u8 = "Enum8('request' = 1, 'response' = 2)",
        /// Rule, or name of the known value.
        rule: Arc<str> = "LowCardinality(String)",
        /// `known`, `prefixed` or `contextual`.
        tier: &'static str = "LowCardinality(String)",
        /// `low`, `medium` or `high`.
        confidence: &'static str = "LowCardinality(String)",
        /// Where it stood, from the outside in.
        location: String = "String",
        /// Bytes of the secret.
        length: u32 = "UInt32",
        /// Keyed hash of the secret: the same for the same secret.
        fingerprint: Fingerprint = "FixedString(32)",
        /// `kept`, `tokenised`, `redacted` or `refused`.
        action: &'static str = "LowCardinality(String)",
        /// What took its place and can be restored; empty otherwise.
        placeholder: String = "String",
    }
}

impl FindingRow {
    /// A finding of an exchange.
    pub(in crate::record) fn of(exchange: &ExchangeRow, finding: Finding) -> Self {
        let mut location = finding.location;
        location.truncate(location.floor_char_boundary(MAX_TEXT_BYTES));
        Self {
            ts: exchange.ts,
            exchange_id: exchange.exchange_id,
            flow_id: exchange.flow_id,
            session_id: exchange.session_id,
            job_id: Arc::clone(&exchange.job_id),
            exec_id: Arc::clone(&exchange.exec_id),
            identity: Arc::clone(&exchange.identity),
            pid: exchange.pid,
            process: Arc::clone(&exchange.process),
            dst_host: Arc::clone(&exchange.dst_host),
            direction: match finding.direction {
                Direction::Request => 1,
                Direction::Response => 2,
            },
            rule: finding.rule,
            tier: match finding.tier {
                Tier::Known => "known",
                Tier::Prefixed => "prefixed",
                Tier::Contextual => "contextual",
            },
            confidence: match finding.confidence {
                Confidence::Low => "low",
                Confidence::Medium => "medium",
                Confidence::High => "high",
            },
            location,
            length: u32::try_from(finding.length).unwrap_or(u32::MAX),
            fingerprint: finding.fingerprint,
            action: finding.action.as_str(),
            placeholder: finding.placeholder,
            who: Arc::clone(&exchange.who),
        }
    }
}

/// As people write it: 32 hexadecimal digits.
impl Value for Fingerprint {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.to_string().as_bytes());
    }
}
