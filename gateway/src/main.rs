//! The `weir` command.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use weir_gateway::cli::{query, sessions, show, store, timeline};
use weir_gateway::config::Config;

/// Until the command line lands: the store and the queries.
#[derive(Parser)]
struct Cli {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/weir/weir.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Store(store::Args),
    Query(query::Args),
    Sessions(sessions::Args),
    Timeline(timeline::Args),
    Show(show::Args),
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let config = Config::load(&cli.config)?;
    if let Command::Store(args) = &cli.command {
        match store::run(args, &config)? {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = std::io::stdout().lock();
    runtime.block_on(async {
        match &cli.command {
            Command::Store(_) => Ok(()),
            Command::Query(args) => query::run(args, &config, &mut out).await,
            Command::Sessions(args) => sessions::run(args, &config, &mut out).await,
            Command::Timeline(args) => timeline::run(args, &config, &mut out).await,
            Command::Show(args) => show::run(args, &config, &mut out).await,
        }
    })?;
    out.flush()?;
    Ok(())
}
