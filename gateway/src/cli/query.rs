//! `weir query`: any statement that reads.

use std::io::{IsTerminal as _, Write};

use crate::config::Config;
use crate::query::{QueryError, sql};
use crate::sink::connect_reader;

/// Runs a read-only ClickHouse statement on the record.
///
/// Tables: exchanges, flows, bodies, gaps, heartbeats; views: timeline, session_summary.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The statement, such as "SELECT dst_host, count() FROM exchanges GROUP BY 1".
    #[arg(value_name = "SQL")]
    pub statement: String,
    /// How to show the answer.
    #[arg(long, value_enum, default_value_t)]
    pub format: sql::Format,
}

/// Answers on `out`.
///
/// # Errors
/// See [`QueryError`].
pub async fn run(args: &Args, config: &Config, out: &mut dyn Write) -> Result<(), QueryError> {
    let client = connect_reader(&config.store)?;
    let for_terminal = std::io::stdout().is_terminal();
    sql::run(&client, &args.statement, args.format, for_terminal, out).await
}
