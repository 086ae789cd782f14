//! Sessions, newest first.
//!
//! - input: [`Filter`]
//! - output: [`Session`]s
//! - bound: [`MAX_LIMIT`] sessions
//! - on failure: [`QueryError`]

use clickhouse::Client;
use uuid::Uuid;

use super::QueryError;
use super::timeline::{JOB, PERSON, REPOSITORY};
use crate::clock::WallUs;

/// Most sessions of one answer.
pub const MAX_LIMIT: u32 = 10_000;

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Job: its name on the host, or the provider's id of it.
    pub job: Option<String>,
    /// Repository, with or without the id behind `#`.
    pub repository: Option<String>,
    /// Person: an identity as it is shown, a subject, or who started a job.
    pub person: Option<String>,
    /// Something happened from here on.
    pub since: Option<WallUs>,
    /// At most so many.
    pub limit: u32,
}

/// The exchanges of one identity in one job or login.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
pub struct Session {
    /// Its id.
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    /// Job.
    pub job_id: String,
    /// Who.
    pub identity: String,
    /// How that is known.
    pub identity_method: String,
    /// How sure it is.
    pub identity_confidence: String,
    /// Repository.
    pub repository: String,
    /// Run of its workflow or pipeline.
    pub run: String,
    /// Who started it.
    pub actor: String,
    /// Host that recorded it.
    pub host_id: String,
    /// Names of its processes.
    pub processes: Vec<String>,
    /// First record, microseconds since the Unix epoch.
    pub started_us: i64,
    /// End of the last record, microseconds since the Unix epoch.
    pub last_us: i64,
    /// Closed connections.
    pub flows: u64,
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes from the clients, of closed connections.
    pub up_bytes: u64,
    /// Bytes to the clients, of closed connections.
    pub down_bytes: u64,
    /// Flows and exchanges that did not end well.
    pub errors: u64,
}

/// Asks for sessions.
///
/// # Errors
/// What ClickHouse answered.
pub async fn sessions(client: &Client, filter: &Filter) -> Result<Vec<Session>, QueryError> {
    let mut conditions = vec!["1".to_owned()];
    let texts = [
        ("job", &filter.job, JOB),
        ("repository", &filter.repository, REPOSITORY),
        ("person", &filter.person, PERSON),
    ];
    for (_, _, condition) in texts.iter().filter(|(_, value, _)| value.is_some()) {
        conditions.push((*condition).to_owned());
    }
    if let Some(since) = filter.since {
        conditions.push(format!("last >= fromUnixTimestamp64Micro({})", since.0));
    }
    let sql = format!(
        "SELECT session_id, job_id, identity, identity_method, identity_confidence, \
         repository, run, actor, host_id, processes, \
         toUnixTimestamp64Micro(started) AS started_us, toUnixTimestamp64Micro(last) AS last_us, \
         flows, exchanges, up_bytes, down_bytes, errors FROM session_summary WHERE {} \
         ORDER BY last DESC, session_id LIMIT {}",
        conditions.join(" AND "),
        filter.limit.clamp(1, MAX_LIMIT),
    );
    let mut query = client.query_raw(&sql);
    for (name, value, _) in texts {
        if let Some(value) = value {
            query = query.param(name, value);
        }
    }
    query.fetch_all::<Session>().await.map_err(QueryError::failed("reading the sessions"))
}
