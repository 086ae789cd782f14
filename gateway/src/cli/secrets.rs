//! `weir secrets`: which secrets were seen, and where.
//!
//! The value is hashed here, with the key of this host. Nothing but the fingerprint is asked for.

use std::io::{IsTerminal as _, Read as _, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{CliError, Context};
use crate::cli::timeline::point;
use crate::clock::WallUs;
use crate::inspect::keys;
use crate::query::findings::{Filter, kinds, places};
use crate::query::sql::new_table;
use crate::query::{terminal, when};
use crate::sink::connect_reader;

/// Longest value that is read.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

/// Arguments of `weir secrets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show where a secret was found
    Seen(SeenArgs),
    /// List the secrets that were found, by fingerprint
    List(ListArgs),
}

/// The value is hashed with the key of `inspect.fingerprint_key_file`, and does not leave this process.
#[derive(Debug, clap::Args)]
struct SeenArgs {
    /// The value, or its fingerprint (32 lower-case hexadecimal digits). "-" or nothing reads the
    /// value from standard input: arguments are visible to every process, and a value that looks like a
    /// fingerprint must be read so.
    value: Option<String>,
    /// Only since then: "15m" ago, or "2026-01-31T12:00:00Z".
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// At most so many places, the newest.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this job: its name on the host, or the provider's id of it.
    #[arg(long)]
    job: Option<String>,
    /// Only this rule, or known value.
    #[arg(long)]
    rule: Option<String>,
    /// Only since then: "15m" ago, or "2026-01-31T12:00:00Z".
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// At most so many, those that were seen last.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Answers on `out`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    match &args.command {
        Command::Seen(args) => seen(args, context, out).await,
        Command::List(args) => list(args, context, out).await,
    }
}

async fn seen(args: &SeenArgs, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    let fingerprint = match args.value.as_deref() {
        Some(text) if text != "-" => match text.parse() {
            Ok(fingerprint) => fingerprint,
            Err(_a_value) => keys::load(&config.inspect)?.fingerprint(text.as_bytes()),
        },
        _ => {
            let key = keys::load(&config.inspect)?;
            key.fingerprint(read_value(out)?.trim_ascii())
        }
    };
    let filter = Filter {
        fingerprint: Some(fingerprint),
        since: point(args.since.as_deref())?,
        limit: args.limit,
        ..Filter::default()
    };
    let client = connect_reader(&config.store)?;
    let found = places(&client, &filter).await?;
    if found.is_empty() {
        writeln!(out, "not seen: fingerprint {fingerprint}")?;
        return Ok(());
    }
    writeln!(out, "fingerprint {fingerprint}")?;
    let mut table = new_table();
    let names = ["TIME", "JOB", "IDENTITY", "PROCESS", "WHERE", "RULE", "ACTION", "EXCHANGE"];
    table.set_header(names);
    for one in &found {
        let way = if one.direction == "request" { "to" } else { "from" };
        let place = format!("{way} {}, {}", one.dst_host, one.location);
        table.add_row([
            when::show(WallUs(one.at_us)),
            terminal::line(&one.job_id).into_owned(),
            terminal::line(&one.identity).into_owned(),
            terminal::line(&one.process).into_owned(),
            terminal::line(&place).into_owned(),
            terminal::line(&one.rule).into_owned(),
            terminal::line(&one.action).into_owned(),
            one.exchange_id.to_string(),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    Ok(())
}

async fn list(args: &ListArgs, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let filter = Filter {
        job: args.job.clone(),
        rule: args.rule.clone(),
        since: point(args.since.as_deref())?,
        limit: args.limit,
        ..Filter::default()
    };
    let client = connect_reader(&context.config()?.store)?;
    let found = kinds(&client, &filter).await?;
    let mut table = new_table();
    let names =
        ["FINGERPRINT", "RULE", "BYTES", "TIMES", "JOBS", "HOSTS", "ACTIONS", "FIRST", "LAST"];
    table.set_header(names);
    for one in &found {
        table.add_row([
            terminal::line(&one.fingerprint).into_owned(),
            terminal::line(&one.rules.join(" ")).into_owned(),
            one.length.to_string(),
            one.times.to_string(),
            terminal::line(&one.jobs.join(" ")).into_owned(),
            terminal::line(&one.hosts.join(" ")).into_owned(),
            terminal::line(&one.actions.join(" ")).into_owned(),
            when::show(WallUs(one.first_us)),
            when::show(WallUs(one.last_us)),
        ]);
    }
    if !found.is_empty() {
        writeln!(out, "{}", table.trim_fmt())?;
    }
    Ok(())
}

/// The value from standard input; a terminal does not show it.
fn read_value(out: &mut dyn Write) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let stdin = std::io::stdin();
    let mut value = Zeroizing::new(Vec::with_capacity(4096));
    if !stdin.is_terminal() {
        stdin.lock().take(MAX_VALUE_BYTES).read_to_end(&mut value)?;
        return Ok(value);
    }
    write!(out, "value: ")?;
    out.flush()?;
    let hidden = Hidden::new()?;
    let mut line = Zeroizing::new(String::new());
    stdin.read_line(&mut line)?;
    drop(hidden);
    writeln!(out)?;
    value.extend_from_slice(line.as_bytes());
    Ok(value)
}

/// A terminal that shows nothing of what is typed, until it is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self, CliError> {
        let before = tcgetattr(std::io::stdin()).map_err(std::io::Error::from)?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &hidden).map_err(std::io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.0) {
            tracing::warn!(%error, "the terminal does not show what is typed");
        }
    }
}
