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
use crate::capture::loader::{self, AttachSpec, LayerState};
use crate::config::Config;

/// Arguments of `weir attach` and `weir detach`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Attaches and says to what. Over an attached capture of the same cgroups and port, the programs
/// are replaced without a gap.
///
/// # Errors
/// When the kernel cannot capture, or another capture is attached already.
pub fn run_attach(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let (captured, replaced) = attach(&context.config()?)?;
    if replaced {
        writeln!(out, "replaced the programs attached to {}", captured.display())?;
        return Ok(());
    }
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

/// Attaches as configured, or replaces the programs of a capture of the same cgroups and port in
/// place: detaching first would leave a moment in which traffic passes uncaptured. Answers the
/// captured cgroup's directory, and whether it was attached already.
pub(super) fn attach(config: &Config) -> Result<(PathBuf, bool), CliError> {
    let spec = spec(config)?;
    let attached = loader::attach(&spec)?;
    if let Some(mounted) = attached.bpffs_mounted {
        tracing::info!(path = %mounted.display(), "mounted bpffs");
    }
    match attached.aborted {
        Ok(0) => {}
        Ok(count) => tracing::warn!(count, "aborted connections that captured processes had"),
        Err(reason) => tracing::warn!(%reason, "earlier connections are mute but not aborted"),
    }
    for layer in loader::layers(&spec.pin_dir)? {
        if let LayerState::Unavailable(reason) = layer.state {
            tracing::warn!(layer = layer.name, %reason, "layer is not active");
        }
    }
    Ok((spec.captured, attached.upgraded))
}

fn spec(config: &Config) -> Result<AttachSpec, CliError> {
    let mount = cgroup::mount()?;
    Ok(AttachSpec {
        captured: mount.join(&config.capture.cgroup),
        gateway: mount.join(&config.capture.gateway_cgroup),
        gateway_port: config.gateway.port,
        pin_dir: config.capture.pin_dir.clone(),
        exclude: config.capture.exclude.clone(),
        addresses: config.gateway.addresses,
        allow_dns: config.capture.allow_dns,
        devices: config.capture.devices.clone(),
        nftables: config.capture.nftables,
        lsm: true,
        upgrade: true,
    })
}
