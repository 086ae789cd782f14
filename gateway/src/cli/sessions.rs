//! `weir sessions`: who used the network, newest first.

use std::io::Write;

use crate::cli::timeline::point;
use crate::clock::WallUs;
use crate::config::Config;
use crate::query::sql::new_table;
use crate::query::{QueryError, Size, sessions, terminal, when};
use crate::sink::connect_reader;

/// Lists sessions, newest first.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only this job: its name on the host, or the provider's id of it.
    #[arg(long)]
    pub job: Option<String>,
    /// Only jobs of this repository, with or without the id behind "#".
    #[arg(long)]
    pub repository: Option<String>,
    /// Only this person: who logged in, or who started the job.
    #[arg(long)]
    pub person: Option<String>,
    /// Only sessions with activity since then: "15m" ago, or "2026-01-31T12:00:00Z".
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
}

/// Answers on `out`.
///
/// # Errors
/// See [`QueryError`].
pub async fn run(args: &Args, config: &Config, out: &mut dyn Write) -> Result<(), QueryError> {
    let filter = sessions::Filter {
        job: args.job.clone(),
        repository: args.repository.clone(),
        person: args.person.clone(),
        since: point(args.since.as_deref())?,
        limit: args.limit,
    };
    let client = connect_reader(&config.store)?;
    let found = sessions::sessions(&client, &filter).await?;
    let mut table = new_table();
    table.set_header([
        "SESSION",
        "JOB",
        "IDENTITY",
        "KNOWN BY",
        "REPOSITORY",
        "RUN",
        "ACTOR",
        "PROCESSES",
        "STARTED",
        "LAST",
        "FLOWS",
        "EXCHANGES",
        "UP",
        "DOWN",
        "ERRORS",
    ]);
    for session in &found {
        table.add_row([
            session.session_id.to_string(),
            terminal::line(&session.job_id).into_owned(),
            terminal::line(&session.identity).into_owned(),
            terminal::line(&known_by(session)).into_owned(),
            terminal::line(&session.repository).into_owned(),
            terminal::line(&session.run).into_owned(),
            terminal::line(&session.actor).into_owned(),
            terminal::line(&session.processes.join(" ")).into_owned(),
            when::show(WallUs(session.started_us)),
            when::show(WallUs(session.last_us)),
            session.flows.to_string(),
            session.exchanges.to_string(),
            Size(session.up_bytes).to_string(),
            Size(session.down_bytes).to_string(),
            session.errors.to_string(),
        ]);
    }
    if !found.is_empty() {
        writeln!(out, "{}", table.trim_fmt())?;
    }
    Ok(())
}

/// `github_oidc, fork`; a user of the host is only `uid`.
fn known_by(session: &sessions::Session) -> String {
    let (method, confidence) = (&session.identity_method, &session.identity_confidence);
    if confidence.is_empty() || confidence == method {
        return method.clone();
    }
    format!("{method}, {confidence}")
}
