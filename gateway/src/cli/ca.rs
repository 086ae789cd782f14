//! `weir ca`: the certificate that clients must trust.
//!
//! - input: `tls.ca_dir`
//! - output: PEM on standard output, the bundle in a file, or shell exports
//! - bound: one certificate
//! - on failure: says how to make the CA

use std::io::Write;
use std::path::PathBuf;

use super::{CliError, Context, trust};

/// Arguments of `weir ca`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write a bundle (system roots and weir's CA) to this file instead.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Print the environment variables that `weir run` sets, for a shell to source.
    #[arg(long, conflicts_with = "bundle")]
    pub env: bool,
}

/// Prints or writes.
///
/// # Errors
/// When there is no CA yet.
pub fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    let path = config.tls.ca_dir.join("ca.pem");
    let pem = std::fs::read_to_string(&path).map_err(|error| {
        let made = "the gateway makes it at its first start";
        CliError::Failed(format!("reading {}: {error}; {made}", path.display()))
    })?;
    if args.env {
        for (name, value) in trust::variables(&config.tls.ca_dir) {
            writeln!(out, "export {name}='{value}'")?;
        }
    } else if let Some(bundle) = &args.bundle {
        trust::write_bundle(&config.tls.ca_dir, &pem, &config.tls.extra_roots)?;
        std::fs::copy(trust::bundle_path(&config.tls.ca_dir), bundle)?;
    } else {
        out.write_all(pem.as_bytes())?;
    }
    Ok(())
}
