//! The `weir` command.

use std::path::PathBuf;

use clap::Parser;
use weir_gateway::config::Config;

/// Until the command line lands: the store and the queries.
#[derive(Parser)]
enum Command {
    /// Runs the embedded store.
    Store {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match Command::parse() {
        Command::Store { config } => {
            let config = Config::load(&config)?;
            match weir_gateway::store::run(&config.store)? {}
        }
    }
}
