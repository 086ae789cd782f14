//! `weir attach` and `weir detach`: the privileged, short part.
//!
//! - input: `[capture]`
//! - output: pinned programs and maps; or none
//! - bound: one set of pins per `capture.pin_dir`
//! - on failure: what was pinned by a failed attach is removed

use std::io::Write;
use std::path::PathBuf;

use super::{CliError, Context};
use crate::capture::cgroup;
use crate::capture::loader::{self, AttachSpec};
use crate::capture::pins::Status;
use crate::config::Config;

/// Arguments of `weir attach` and `weir detach`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Attaches and says to what.
///
/// # Errors
/// When the kernel cannot capture, or something is attached already.
pub fn run_attach(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let captured = attach(&context.config()?)?;
    writeln!(out, "attached to {}", captured.display())?;
    writeln!(out, "until the gateway runs, connections of its processes are refused")?;
    Ok(())
}

/// Removes hooks, pins and empty cgroups.
///
/// # Errors
/// When a pin cannot be removed.
pub fn run_detach(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let detached = loader::detach(&context.config()?.capture.pin_dir)?;
    writeln!(out, "removed {} pins", detached.pins)?;
    for dir in &detached.cgroups_left {
        writeln!(out, "{} still has processes and is left", dir.display())?;
    }
    Ok(())
}

/// Attaches as configured and answers the captured cgroup's directory.
pub(super) fn attach(config: &Config) -> Result<PathBuf, CliError> {
    let spec = spec(config)?;
    let attached = loader::attach(&spec)?;
    if let Some(mounted) = attached.bpffs_mounted {
        tracing::info!(path = %mounted.display(), "mounted bpffs");
    }
    Ok(spec.captured)
}

/// Attaches, or takes over what an earlier `weir up` left when it was killed: detaching first
/// would leave a moment in which traffic passes uncaptured. The flag says that it was taken over.
pub(super) fn attach_or_adopt(config: &Config) -> Result<(PathBuf, bool), CliError> {
    let spec = spec(config)?;
    if let Status::Attached(left) = loader::status(&spec.pin_dir)?
        && left.captured == spec.captured
        && left.gateway == spec.gateway
        && left.gateway_port == spec.gateway_port
    {
        return Ok((spec.captured, true));
    }
    Ok((attach(config)?, false))
}

fn spec(config: &Config) -> Result<AttachSpec, CliError> {
    let mount = cgroup::mount()?;
    Ok(AttachSpec {
        captured: mount.join(&config.capture.cgroup),
        gateway: mount.join(&config.capture.gateway_cgroup),
        gateway_port: config.gateway.port,
        pin_dir: config.capture.pin_dir.clone(),
        exclude: config.capture.exclude.clone(),
    })
}
