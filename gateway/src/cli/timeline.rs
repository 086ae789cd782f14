//! `weir timeline`: what happened, in order.

use std::io::Write;

use crate::clock::{SystemClock, WallUs};
use crate::config::Config;
use crate::query::group::{self, By};
use crate::query::timeline::Event;
use crate::query::{QueryError, terminal, timeline, when};
use crate::sink::connect_reader;

/// Shows exchanges, refused and undecrypted flows, alarms and gaps, oldest first.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only processes of this name.
    #[arg(long)]
    pub process: Option<String>,
    /// Only this process id.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Only this job: its name on the host, or the provider's id of it.
    #[arg(long)]
    pub job: Option<String>,
    /// Only jobs of this repository, with or without the id behind "#".
    #[arg(long)]
    pub repository: Option<String>,
    /// Only jobs that this account started.
    #[arg(long)]
    pub actor: Option<String>,
    /// Only this person: who logged in, or who started the job.
    #[arg(long)]
    pub person: Option<String>,
    /// Puts the events of each job or person together, under a title.
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Only this session: its id, or the beginning of it.
    #[arg(long)]
    pub session: Option<String>,
    /// Only this destination: "example.com", or "*.example.com" for all below it.
    #[arg(long)]
    pub host: Option<String>,
    /// From then on: "15m" ago, or "2026-01-31T12:00:00Z".
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Until then.
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// At most so many events, the newest.
    #[arg(long, default_value_t = 200)]
    pub limit: u32,
    /// Adds the id of each exchange, for `weir show`.
    #[arg(long)]
    pub ids: bool,
}

/// Answers on `out`.
///
/// # Errors
/// See [`QueryError`].
pub async fn run(args: &Args, config: &Config, out: &mut dyn Write) -> Result<(), QueryError> {
    let filter = timeline::Filter {
        process: args.process.clone(),
        pid: args.pid,
        job: args.job.clone(),
        repository: args.repository.clone(),
        actor: args.actor.clone(),
        person: args.person.clone(),
        session: args.session.clone(),
        host: args.host.clone(),
        since: point(args.since.as_deref())?,
        until: point(args.until.as_deref())?,
        limit: args.limit,
    };
    let client = connect_reader(&config.store)?;
    let events = timeline::timeline(&client, &filter).await?;
    let Some(by) = args.by else { return lines(&events, args.ids, out) };
    for (i, (title, events)) in group::events(events, by).into_iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n" };
        writeln!(out, "{gap}== {}", terminal::line(&title))?;
        lines(&events, args.ids, out)?;
    }
    Ok(())
}

/// Columns are as wide as their widest text, up to this.
const MAX_WIDTH: usize = 40;

fn lines(events: &[Event], with_ids: bool, out: &mut dyn Write) -> Result<(), QueryError> {
    let named: Vec<(String, String)> = events.iter().map(|e| (who(e), process(e))).collect();
    let width = |text: fn(&(String, String)) -> &String| {
        named.iter().map(|n| text(n).chars().count()).max().unwrap_or(0).min(MAX_WIDTH)
    };
    let (wide, wide_process) = (width(|n| &n.0), width(|n| &n.1));
    for (event, (who, process)) in events.iter().zip(&named) {
        let at = when::show(WallUs(event.at_us));
        let mark = match event.severity.as_str() {
            "info" => ' ',
            "warn" => '!',
            _ => 'E',
        };
        let summary = terminal::line(&event.summary);
        let kind = terminal::line(&event.event);
        write!(out, "{at} {mark} {who:<wide$}  {process:<wide_process$}  {kind:<8}  {summary}")?;
        if with_ids && !event.exchange_id.is_nil() {
            write!(out, "  {}", event.exchange_id)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn who(event: &Event) -> String {
    let ended = if event.identity_state == "expired" { " (expired)" } else { "" };
    match event.identity.as_str() {
        "" => "-".to_owned(),
        name => format!("{}{ended}", terminal::line(name)),
    }
}

fn process(event: &Event) -> String {
    match event.pid {
        0 => "-".to_owned(),
        pid => format!("{}[{pid}]", terminal::line(&event.process)),
    }
}

/// A point in time of the command line.
///
/// # Errors
/// [`QueryError::Asked`] with the accepted forms.
pub(super) fn point(text: Option<&str>) -> Result<Option<WallUs>, QueryError> {
    text.map(|text| when::parse(text, &SystemClock)).transpose().map_err(QueryError::Asked)
}
