//! `weir timeline`: what happened, in order.

use std::io::Write;

use crate::clock::{SystemClock, WallUs};
use crate::config::Config;
use crate::query::{QueryError, terminal, timeline, when};
use crate::sink::connect_reader;

/// Shows exchanges, refused and undecrypted flows, and gaps, oldest first.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only processes of this name.
    #[arg(long)]
    pub process: Option<String>,
    /// Only this process id.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Only this job.
    #[arg(long)]
    pub job: Option<String>,
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
        session: args.session.clone(),
        host: args.host.clone(),
        since: point(args.since.as_deref())?,
        until: point(args.until.as_deref())?,
        limit: args.limit,
    };
    let client = connect_reader(&config.store)?;
    let events = timeline::timeline(&client, &filter).await?;
    let who: Vec<String> = events.iter().map(who).collect();
    let width = who.iter().map(|w| w.chars().count()).max().unwrap_or(0).min(40);
    for (event, who) in events.iter().zip(&who) {
        let at = when::show(WallUs(event.at_us));
        let mark = match event.severity.as_str() {
            "info" => ' ',
            "warn" => '!',
            _ => 'E',
        };
        let summary = terminal::line(&event.summary);
        let kind = terminal::line(&event.event);
        write!(out, "{at} {mark} {who:<width$}  {kind:<8}  {summary}")?;
        if args.ids && !event.exchange_id.is_nil() {
            write!(out, "  {}", event.exchange_id)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn who(event: &timeline::Event) -> String {
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
