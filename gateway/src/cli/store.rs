//! `weir store`: runs the embedded ClickHouse engine.
//!
//! - input: `[store]`
//! - output: a unix socket that speaks the ClickHouse HTTP subset
//! - bound: see `store`
//! - on failure: an error that says what to do; exit code 1

use std::convert::Infallible;

use super::account::Account;
use super::{CliError, Context};
use crate::store;

/// Arguments of `weir store`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when the parent process ends (`weir up` starts it so).
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Serves; ends the process itself. Call it outside of any runtime.
///
/// # Errors
/// See [`store::StoreError`].
pub fn run(args: &Args, context: &Context) -> Result<Infallible, CliError> {
    if args.with_parent {
        super::die_with_parent()?;
    }
    let config = context.config()?;
    // A store that is root lets the gateway's account in; another shares its group with it.
    let gateway = match nix::unistd::geteuid().is_root() {
        true => Some(Account::of(&config)?.uid.as_raw()),
        false => None,
    };
    Ok(store::run(&config.store, gateway)?)
}
