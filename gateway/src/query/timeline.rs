//! What happened, in order.
//!
//! - input: [`Filter`]
//! - output: [`Event`]s, oldest first: the newest `limit` that match
//! - bound: [`MAX_LIMIT`] events
//! - on failure: [`QueryError`]

use clickhouse::Client;
use uuid::Uuid;

use super::QueryError;
use crate::clock::WallUs;

/// Most events of one answer.
pub const MAX_LIMIT: u32 = 100_000;

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the process.
    pub process: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
    /// Job: its name on the host, or the provider's id of it.
    pub job: Option<String>,
    /// Repository, with or without the id behind `#`.
    pub repository: Option<String>,
    /// Who started the job, as the provider names them.
    pub actor: Option<String>,
    /// Person: an identity as it is shown, a subject, or who started a job.
    pub person: Option<String>,
    /// Session id, or its beginning.
    pub session: Option<String>,
    /// Destination host; `*.name` for all below.
    pub host: Option<String>,
    /// From here on.
    pub since: Option<WallUs>,
    /// Until before here.
    pub until: Option<WallUs>,
    /// At most so many, the newest.
    pub limit: u32,
}

/// One line of the timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
pub struct Event {
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// `exchange`, `flow`, `dns`, `alarm`, `finding` or `gap`.
    pub event: String,
    /// `info`, `warn` or `error`.
    pub severity: String,
    /// Name of the process.
    pub process: String,
    /// Process id.
    pub pid: u32,
    /// Job.
    pub job_id: String,
    /// Who.
    pub identity: String,
    /// How that is known.
    pub identity_method: String,
    /// How sure it is.
    pub identity_confidence: String,
    /// Whether its job or login has ended.
    pub identity_state: String,
    /// Who vouches for it.
    pub issuer: String,
    /// Subject, as the issuer names it.
    pub subject: String,
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
    /// Session.
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    /// Exchange, nil for other events.
    #[serde(with = "clickhouse::serde::uuid")]
    pub exchange_id: Uuid,
    /// Host that recorded it.
    pub host_id: String,
    /// What happened, in words.
    pub summary: String,
}

/// Asks for events.
///
/// # Errors
/// [`QueryError::Asked`] for a filter that makes no sense, else what ClickHouse answered.
pub async fn timeline(client: &Client, filter: &Filter) -> Result<Vec<Event>, QueryError> {
    let (conditions, params) = conditions(filter)?;
    let sql = format!(
        "SELECT toUnixTimestamp64Micro(ts) AS at_us, event, severity, process, pid, job_id, \
         identity, identity_method, identity_confidence, identity_state, issuer, subject, \
         repository, workflow, run, ci_job, actor, session_id, exchange_id, toString(host_id) AS host_id, summary FROM timeline \
         WHERE {} ORDER BY ts DESC, seq DESC LIMIT {}",
        conditions.join(" AND "),
        filter.limit.clamp(1, MAX_LIMIT),
    );
    let mut query = client.query_raw(&sql);
    for (name, value) in params {
        query = query.param(name, value);
    }
    let rows = query.fetch_all::<Event>().await;
    let mut events = rows.map_err(QueryError::failed("reading the timeline"))?;
    events.reverse();
    Ok(events)
}

/// A job by its name on the host, or by the provider's id.
pub(super) const JOB: &str = "(job_id = {job:String} OR ci_job = {job:String})";
/// A repository as it is recorded, or without the id behind it.
pub(super) const REPOSITORY: &str = "(repository = {repository:String} OR startsWith(repository, concat({repository:String}, '#')))";
/// A person who logged in or who started a job.
pub(super) const PERSON: &str =
    "(identity = {person:String} OR subject = {person:String} OR actor = {person:String})";

type Conditions = (Vec<String>, Vec<(&'static str, String)>);

fn conditions(filter: &Filter) -> Result<Conditions, QueryError> {
    let mut all = vec!["1".to_owned()];
    let mut params = Vec::new();
    for (name, value, condition) in [
        ("process", &filter.process, "process = {process:String}"),
        ("job", &filter.job, JOB),
        ("repository", &filter.repository, REPOSITORY),
        ("actor", &filter.actor, "actor = {actor:String}"),
        ("person", &filter.person, PERSON),
    ] {
        if let Some(value) = value {
            all.push(condition.to_owned());
            params.push((name, value.clone()));
        }
    }
    if let Some(pid) = filter.pid {
        all.push(format!("pid = {pid}"));
    }
    if let Some(session) = &filter.session {
        all.push(id_condition("session_id", session)?);
    }
    if let Some(host) = &filter.host {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some(below) => {
                all.push("endsWith(dst_host, {host:String})".to_owned());
                params.push(("host", below.to_owned()));
            }
            None => {
                all.push("dst_host = {host:String}".to_owned());
                params.push(("host", host));
            }
        }
    }
    all.extend(between(filter.since, filter.until));
    Ok((all, params))
}

/// Conditions on `ts`.
pub(super) fn between(since: Option<WallUs>, until: Option<WallUs>) -> Vec<String> {
    let bound = |at: WallUs, op| format!("ts {op} fromUnixTimestamp64Micro({})", at.0);
    since.map(|at| bound(at, ">=")).into_iter().chain(until.map(|at| bound(at, "<"))).collect()
}

/// An id, or at least four characters of its beginning. The text is checked to be hexadecimal,
/// so that it can stand in a statement.
pub(super) fn id_condition(column: &str, text: &str) -> Result<String, QueryError> {
    let text = text.trim().to_ascii_lowercase();
    if let Ok(id) = Uuid::parse_str(&text) {
        return Ok(format!("{column} = toUUID('{id}')"));
    }
    let plain = text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !plain || text.len() < 4 || text.len() > 36 {
        let shown: String = text.chars().take(40).collect();
        return Err(QueryError::Asked(format!(
            "{shown:?} is not an id: give a UUID or at least its first four characters"
        )));
    }
    Ok(format!("startsWith(toString({column}), '{text}')"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_conditions_and_parameters() {
        let filter = Filter {
            process: Some("curl'".into()),
            pid: Some(7),
            session: Some("0190".into()),
            host: Some("*.Example.com".into()),
            repository: Some("acme/app".into()),
            since: Some(WallUs(5)),
            until: Some(WallUs(6)),
            ..Filter::default()
        };
        let (all, params) = conditions(&filter).unwrap();
        assert_eq!(
            all.join(" AND "),
            "1 AND process = {process:String} AND (repository = {repository:String} OR \
             startsWith(repository, concat({repository:String}, '#'))) AND pid = 7 AND \
             startsWith(toString(session_id), '0190') AND endsWith(dst_host, {host:String}) AND \
             ts >= fromUnixTimestamp64Micro(5) AND ts < fromUnixTimestamp64Micro(6)"
        );
        let want = [("process", "curl'"), ("repository", "acme/app"), ("host", ".example.com")];
        assert_eq!(params, want.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn ids_cannot_carry_sql() {
        for text in ["", "abc", "' OR 1", "0190' OR 1=1 --", "zzzz", &"a".repeat(37)] {
            assert!(matches!(id_condition("x", text), Err(QueryError::Asked(_))), "{text}");
        }
        let whole = "01902E4F-0000-7000-8000-000000000001";
        let want = "x = toUUID('01902e4f-0000-7000-8000-000000000001')";
        assert_eq!(id_condition("x", whole).unwrap(), want);
    }
}
