//! `weir store`: runs the embedded ClickHouse engine.

use std::convert::Infallible;

use crate::config::Config;
use crate::store::{self, StoreError};

/// Runs the embedded ClickHouse engine in the foreground, until SIGTERM.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {}

/// Serves; ends the process itself. Call it outside of any runtime.
///
/// # Errors
/// See [`StoreError`].
pub fn run(_args: &Args, config: &Config) -> Result<Infallible, StoreError> {
    store::run(&config.store)
}
