//! One exchange with its headers and bodies.
//!
//! - input: an exchange id, or its beginning
//! - output: [`Exchange`] and [`Body`]s
//! - bound: the bytes of each body that the caller asks for
//! - on failure: [`QueryError::NotFound`], and [`QueryError::Asked`] when the beginning fits several

use clickhouse::Client;
use serde::Deserialize;
use uuid::Uuid;

use super::QueryError;
use super::timeline::id_condition;

/// One request and its response.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, Deserialize)]
pub struct Exchange {
    /// Its id.
    #[serde(with = "clickhouse::serde::uuid")]
    pub exchange_id: Uuid,
    /// The connection that carried it.
    #[serde(with = "clickhouse::serde::uuid")]
    pub flow_id: Uuid,
    /// Its session.
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// Host that recorded it.
    pub host_id: String,
    /// Job.
    pub job_id: String,
    /// Who.
    pub identity: String,
    /// How that is known, and how sure it is.
    pub known_by: String,
    /// Who vouches for it.
    pub issuer: String,
    /// Subject, as the issuer names it.
    pub subject: String,
    /// Groups of a person.
    pub groups: Vec<String>,
    /// Repository.
    pub repository: String,
    /// Workflow or pipeline.
    pub workflow: String,
    /// Run of it.
    pub run: String,
    /// Job of the run.
    pub ci_job: String,
    /// Who started it.
    pub actor: String,
    /// Runner or agent.
    pub runner: String,
    /// Name of the process.
    pub process: String,
    /// Process id.
    pub pid: u32,
    /// Request line as one URL.
    pub url: String,
    /// Request method.
    pub method: String,
    /// Original destination.
    pub destination: String,
    /// Protocols, downstream and upstream.
    pub protocols: String,
    /// Response status, 0 without one.
    pub status: u16,
    /// What policy decided, and by which rule.
    pub decision: String,
    /// `ok` or what went wrong.
    pub outcome: String,
    /// The error in words.
    pub detail: String,
    /// Request body bytes.
    pub req_bytes: u64,
    /// Response body bytes.
    pub resp_bytes: u64,
    /// To the response head, microseconds.
    pub ttfb_us: u64,
    /// To the end, microseconds.
    pub dur_us: u64,
    /// What was recorded of the request body.
    pub req_body: String,
    /// What was recorded of the response body.
    pub resp_body: String,
    /// Request header fields.
    pub req_headers: Vec<(String, String)>,
    /// Response header fields.
    pub resp_headers: Vec<(String, String)>,
}

/// The recorded part of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// `Content-Type`.
    pub content_type: String,
    /// `Content-Encoding`; the bytes are as on the wire.
    pub content_encoding: String,
    /// Recorded bytes.
    pub recorded: u64,
    /// The first of them, as many as were asked for.
    pub bytes: Vec<u8>,
}

/// Direction of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

impl Direction {
    /// Its name in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// Finds an exchange.
///
/// # Errors
/// See [`QueryError`].
pub async fn exchange(client: &Client, id: &str) -> Result<Exchange, QueryError> {
    let condition = id_condition("exchange_id", id)?;
    let sql = format!(
        "SELECT exchange_id, flow_id, session_id, toUnixTimestamp64Micro(ts) AS at_us, host_id, \
         job_id, identity, arrayStringConcat(arrayFilter(x -> x != '', [toString(identity_method), \
         toString(identity_confidence), toString(identity_state)]), ', ') AS known_by, issuer, \
         subject, groups, repository, workflow, run, ci_job, actor, runner, process, pid, \
         concat(scheme, '://', dst_host, \
         if(dst_port = if(scheme = 'http', 80, 443), '', concat(':', toString(dst_port))), path, \
         if(query_masked = '', '', concat('?', query_masked))) AS url, method, \
         concat('[', toString(dst_ip), ']:', toString(dst_port)) AS destination, \
         concat(proto, if(upstream_proto = '', '', concat(' / ', upstream_proto))) AS protocols, \
         status, concat(toString(decision), if(rule_id = '', '', concat(' by ', rule_id))) \
         AS decision, outcome, detail, req_bytes, resp_bytes, ttfb_us, dur_us, \
         toString(req_body) AS req_body, toString(resp_body) AS resp_body, \
         arrayZip(mapKeys(req_headers), mapValues(req_headers)) AS req_headers, \
         arrayZip(mapKeys(resp_headers), mapValues(resp_headers)) AS resp_headers \
         FROM exchanges WHERE {condition} ORDER BY ts LIMIT 2"
    );
    let rows = client.query_raw(&sql).fetch_all::<Exchange>().await;
    let mut rows = rows.map_err(QueryError::failed("reading the exchange"))?;
    let shown: String = id.chars().take(40).collect();
    match (rows.pop(), rows.pop()) {
        (Some(_), Some(_)) => Err(QueryError::Asked(format!(
            "several exchanges begin with {shown:?}: give more of it"
        ))),
        (Some(found), None) => Ok(found),
        (None, _) => Err(QueryError::NotFound(format!("no exchange with id {shown:?}"))),
    }
}

#[derive(clickhouse::Row, Deserialize)]
struct Piece {
    content_type: String,
    content_encoding: String,
    len: u64,
    shown: Blob,
}

/// Reads the recorded part of a body, at most `max_bytes` of it.
///
/// # Errors
/// What ClickHouse answered.
pub async fn body(
    client: &Client,
    exchange: Uuid,
    direction: Direction,
    max_bytes: usize,
) -> Result<Body, QueryError> {
    let failed = || QueryError::failed("reading the body");
    // Pieces after the first `max_bytes` are only counted.
    let sql = format!(
        "SELECT content_type, content_encoding, length(body) AS len, \
         if(before < {max_bytes}, substring(body, 1, {max_bytes} - before), '') AS shown FROM \
         (SELECT *, sum(length(body)) OVER (ORDER BY chunk ROWS BETWEEN UNBOUNDED PRECEDING AND \
         CURRENT ROW) - length(body) AS before FROM \
         (SELECT DISTINCT chunk, content_type, content_encoding, body FROM bodies WHERE \
         exchange_id = toUUID('{exchange}') AND dir = '{}')) ORDER BY chunk",
        direction.name(),
    );
    let mut cursor = client.query_raw(&sql).fetch::<Piece>().map_err(failed())?;
    let mut body = Body::default();
    while let Some(piece) = cursor.next().await.map_err(failed())? {
        body.recorded = body.recorded.saturating_add(piece.len);
        body.bytes.extend_from_slice(&piece.shown.0);
        body.content_type = piece.content_type;
        body.content_encoding = piece.content_encoding;
    }
    Ok(body)
}

/// Bytes of a ClickHouse `String`, which need not be UTF-8.
struct Blob(Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
