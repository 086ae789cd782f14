//! `weir gateway`: the data path, in the foreground.
//!
//! - input: the configuration and the pins of `weir attach`
//! - output: nothing; logs go to standard error
//! - bound: see `app`
//! - on failure: an error and exit code 1; captured connections are then refused by the kernel

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Context, trust};
use crate::app::{Seams, build};
use crate::capture::cgroup;
use crate::capture::maps::PinnedCapture;
use crate::clock::SystemClock;
use crate::forward::dial::Direct;
use crate::spool::fs::RealFs;

/// Arguments of `weir gateway`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when the parent process ends (`weir up` starts it so).
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Descriptors that the gateway asks for: two per flow, and some for itself.
const DESCRIPTORS_PER_FLOW: u64 = 2;
const OWN_DESCRIPTORS: u64 = 1024;

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// When it cannot start, or did not stop well.
pub async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if args.with_parent {
        super::die_with_parent()?;
    }
    let config = context.config()?;
    // First, because its error says best what is missing when nothing is attached.
    let capture = Arc::new(PinnedCapture::open(&config.capture.pin_dir)?);
    let own = cgroup::mount()?.join(&config.capture.gateway_cgroup);
    if !is_member(&own) {
        // The hook that hands over records is on this cgroup: sockets made outside have none.
        cgroup::join(&own, None)?;
    }
    raise_descriptor_limit(config.gateway.max_connections);
    let seams = Seams {
        capture,
        dialer: Arc::new(Direct),
        clock: Arc::new(SystemClock),
        fs: Arc::new(RealFs),
    };
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (ca_dir, roots) = (config.tls.ca_dir.clone(), config.tls.extra_roots.clone());
    let gateway = build::start(config, seams)?;
    trust::write_bundle(&ca_dir, gateway.ca_pem(), &roots)?;
    tracing::info!(addr = %gateway.addr(), "gateway is up");
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        () = gateway.failed() => {}
    }
    tracing::info!("gateway stops");
    // Joins threads: not on this runtime's thread, which signals still need.
    tokio::task::spawn_blocking(move || gateway.shutdown())
        .await
        .map_err(|e| CliError::Failed(format!("stopping: {e}")))??;
    Ok(())
}

/// Whether this process is in a cgroup, by its path in procfs.
fn is_member(dir: &Path) -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    path.is_some_and(|path| dir.ends_with(path) && !path.is_empty())
}

fn raise_descriptor_limit(flows: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = flows as u64 * DESCRIPTORS_PER_FLOW + OWN_DESCRIPTORS;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        // Only root may raise the hard limit; others get as far as it reaches.
        setrlimit(Resource::RLIMIT_NOFILE, wanted.max(soft), wanted.max(hard))
            .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard))
    });
    if let Err(error) = raised {
        tracing::warn!(%error, wanted, "descriptor limit not raised");
    }
}
