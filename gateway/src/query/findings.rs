//! Secrets that were found in exchanges.
//!
//! - input: [`Filter`]: a fingerprint, an exchange, a job
//! - output: [`Place`]s, newest first; [`Kind`]s of secrets, those that were seen last first
//! - bound: [`MAX_LIMIT`] rows
//! - on failure: [`QueryError`]
//!
//! Only fingerprints are asked for: a secret never gets here.

use clickhouse::Client;
use uuid::Uuid;
use weir_inspect::fingerprint::Fingerprint;

use super::QueryError;
use super::timeline::{JOB, between};
use crate::clock::WallUs;

/// Most rows of one answer.
pub const MAX_LIMIT: u32 = 100_000;

/// Which findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this secret.
    pub fingerprint: Option<Fingerprint>,
    /// Of this exchange.
    pub exchange: Option<Uuid>,
    /// Of this job: its name on the host, or the provider's id of it.
    pub job: Option<String>,
    /// Of this rule, or known value.
    pub rule: Option<String>,
    /// From here on.
    pub since: Option<WallUs>,
    /// At most so many.
    pub limit: u32,
}

/// A place where a secret was found.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
pub struct Place {
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// The exchange.
    #[serde(with = "clickhouse::serde::uuid")]
    pub exchange_id: Uuid,
    /// Host that recorded it.
    pub host_id: String,
    /// Job.
    pub job_id: String,
    /// Who.
    pub identity: String,
    /// Name of the process.
    pub process: String,
    /// Host of the exchange.
    pub dst_host: String,
    /// `request` or `response`.
    pub direction: String,
    /// Rule, or name of the known value.
    pub rule: String,
    /// How sure it is.
    pub confidence: String,
    /// Where in the message.
    pub location: String,
    /// Bytes.
    pub length: u32,
    /// Of the secret.
    pub fingerprint: String,
    /// What was done.
    pub action: String,
}

/// A secret, by its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
pub struct Kind {
    /// Of the secret.
    pub fingerprint: String,
    /// Rules that found it.
    pub rules: Vec<String>,
    /// Bytes.
    pub length: u32,
    /// How often it was found.
    pub times: u64,
    /// Jobs that carried it.
    pub jobs: Vec<String>,
    /// Hosts that it was on its way to or from.
    pub hosts: Vec<String>,
    /// What was done about it.
    pub actions: Vec<String>,
    /// First time, microseconds since the Unix epoch.
    pub first_us: i64,
    /// Last time.
    pub last_us: i64,
}

/// Where.
///
/// # Errors
/// What ClickHouse answered.
pub async fn places(client: &Client, filter: &Filter) -> Result<Vec<Place>, QueryError> {
    let sql = "SELECT toUnixTimestamp64Micro(ts) AS at_us, exchange_id, toString(host_id) AS host_id, \
               job_id, toString(identity) AS identity, toString(process) AS process, \
               toString(dst_host) AS dst_host, toString(direction) AS direction, \
               toString(rule) AS rule, toString(confidence) AS confidence, location, length, \
               toString(fingerprint) AS fingerprint, toString(action) AS action FROM findings";
    ask(client, filter, sql, "ORDER BY ts DESC, seq DESC").await
}

/// Which.
///
/// # Errors
/// What ClickHouse answered.
pub async fn kinds(client: &Client, filter: &Filter) -> Result<Vec<Kind>, QueryError> {
    let some = |column: &str| format!("arraySort(groupUniqArray(20)(toString({column})))");
    let sql = format!(
        "SELECT toString(findings.fingerprint) AS fingerprint, {} AS rules, max(findings.length) AS length, \
         count() AS times, {} AS jobs, {} AS hosts, {} AS actions, \
         toUnixTimestamp64Micro(min(findings.ts)) AS first_us, toUnixTimestamp64Micro(max(findings.ts)) AS last_us \
         FROM findings",
        some("findings.rule"),
        some("findings.job_id"),
        some("findings.dst_host"),
        some("findings.action"),
    );
    ask(client, filter, &sql, "GROUP BY findings.fingerprint ORDER BY last_us DESC, fingerprint")
        .await
}

async fn ask<R: clickhouse::RowOwned + clickhouse::RowRead>(
    client: &Client,
    filter: &Filter,
    select: &str,
    order: &str,
) -> Result<Vec<R>, QueryError> {
    let mut conditions = vec!["1".to_owned()];
    // Both are made of hexadecimal digits.
    let fingerprint = filter.fingerprint.map(|one| format!("findings.fingerprint = '{one}'"));
    let exchange = filter.exchange.map(|id| format!("findings.exchange_id = toUUID('{id}')"));
    conditions.extend(fingerprint.into_iter().chain(exchange));
    let texts =
        [("job", &filter.job, JOB), ("rule", &filter.rule, "findings.rule = {rule:String}")];
    let given = texts.iter().filter(|(_, value, _)| value.is_some());
    conditions.extend(given.map(|(_, _, condition)| (*condition).to_owned()));
    conditions.extend(between(filter.since, None));
    let (conditions, limit) = (conditions.join(" AND "), filter.limit.clamp(1, MAX_LIMIT));
    let sql = format!("{select} WHERE {conditions} {order} LIMIT {limit}");
    let mut query = client.query_raw(&sql);
    for (name, value, _) in texts {
        if let Some(value) = value {
            query = query.param(name, value);
        }
    }
    query.fetch_all::<R>().await.map_err(QueryError::failed("reading the findings"))
}
