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
use crate::capture::repair::{self, Repaired};
use crate::config::Config;

/// Arguments of `weir attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look for what is not as it was attached, put it right, and say what was done
    #[arg(long)]
    repair: bool,
}

/// Arguments of `weir detach`.
#[derive(Debug, clap::Args)]
pub struct DetachArgs {}

/// What everybody who attaches with the option is told.
pub(super) const FAILS_OPEN: &str =
    "WARNING   capture.danger_fail_open is true: without a live gateway, connections pass unseen";

/// How the answer begins when a capture was attached already; `weir up` reads it.
pub(super) const REPLACED: &str = "replaced the programs attached to";

/// Attaches and says to what. Over an attached capture of the same cgroups and port, the programs
/// are replaced without a gap.
///
/// # Errors
/// When the kernel cannot capture, or another capture is attached already.
pub fn run_attach(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    if args.repair {
        return run_repair(&spec(&config)?, out);
    }
    let (captured, replaced) = attach(&config)?;
    if replaced {
        writeln!(out, "{REPLACED} {}", captured.display())?;
    } else {
        writeln!(out, "attached to {}", captured.display())?;
    }
    if config.capture.danger_fail_open {
        writeln!(out, "{FAILS_OPEN}")?;
    } else if !replaced {
        writeln!(out, "until the gateway runs, connections of its processes are refused")?;
    }
    Ok(())
}

/// Removes hooks, pins and empty cgroups.
///
/// # Errors
/// When a pin cannot be removed.
pub fn run_detach(
    _args: &DetachArgs,
    context: &Context,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let detached = loader::detach(&context.config()?.capture.pin_dir)?;
    writeln!(out, "removed {} pins", detached.pins)?;
    for dir in &detached.cgroups_left {
        writeln!(out, "{} still has processes and is left", dir.display())?;
    }
    Ok(())
}

fn run_repair(spec: &AttachSpec, out: &mut dyn Write) -> Result<(), CliError> {
    let done = repair::repair(spec, None)?;
    if done.is_empty() {
        writeln!(out, "nothing to repair")?;
    }
    let mut failed = 0;
    for Repaired { finding, result } in &done {
        match result {
            Ok(()) => writeln!(out, "repaired {}: {finding}", finding.layer())?,
            Err(reason) => {
                failed += 1;
                writeln!(out, "not repaired {}: {finding}: {reason}", finding.layer())?;
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(CliError::Failed(format!("{failed} not repaired"))) }
}

/// Attaches as configured, or replaces the programs of a capture of the same cgroups and port in
/// place: detaching first would leave a moment in which traffic passes uncaptured. Answers the
/// captured cgroup's directory, and whether it was attached already.
fn attach(config: &Config) -> Result<(PathBuf, bool), CliError> {
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

/// What `weir attach` attaches.
///
/// # Errors
/// When cgroup2 is not mounted.
pub(super) fn spec(config: &Config) -> Result<AttachSpec, CliError> {
    let mount = cgroup::mount()?;
    Ok(AttachSpec {
        captured: mount.join(&config.capture.cgroup),
        gateway: mount.join(&config.capture.gateway_cgroup),
        gateway_port: config.gateway.port,
        pin_dir: config.capture.pin_dir.clone(),
        exclude: config.capture.exclude.clone(),
        addresses: config.gateway.addresses,
        dns_port: config.dns.port,
        allow_dns: config.capture.allow_dns,
        devices: config.capture.devices.clone(),
        nftables: config.capture.nftables,
        danger_fail_open: config.capture.danger_fail_open,
        bridges: config.capture.bridges.clone(),
        lsm: true,
        upgrade: true,
    })
}
