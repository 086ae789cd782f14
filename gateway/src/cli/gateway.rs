//! `weir gateway`: the data path, in the foreground.
//!
//! - input: the configuration and the pins of `weir attach`
//! - output: nothing; logs go to standard error
//! - bound: see `app`
//! - on failure: an error and exit code 1; captured connections are then refused by the kernel

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, Context, descriptors, service, trust};
use crate::app::handed::{Handed, Name};
use crate::app::handover::{self, Predecessor, Successor};
use crate::app::{Gateway, Seams, build};
use crate::capture::cgroup;
use crate::capture::maps::PinnedCapture;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::forward::dial::Direct;
use crate::spool::fs::RealFs;

/// Arguments of `weir gateway`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take the sockets of the gateway that runs, which then ends its flows and itself
    #[arg(long)]
    pub takeover: bool,
    /// End when the parent process ends, and print a line when connections are accepted
    /// (`weir up` starts it so).
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Descriptors that the gateway asks for: two per flow, and some for itself.
const DESCRIPTORS_PER_FLOW: u64 = 2;
const OWN_DESCRIPTORS: u64 = 1024;

/// Runs until SIGINT or SIGTERM, or until a newer gateway has taken over.
///
/// # Errors
/// When it cannot start, or did not stop well.
pub async fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    if args.with_parent {
        super::die_with_parent()?;
    }
    let config = context.config()?;
    // By its descriptor it was executed without one.
    nix::sys::prctl::set_name(c"weir").map_err(std::io::Error::from)?;
    let mut handed = descriptors::inherited()?;
    // First, because its error says best what is missing when nothing is attached.
    let maps = handed.maps(&config.capture.pin_dir);
    let capture = Arc::new(PinnedCapture::open(&maps)?);
    enter_cgroup(&config)?;
    raise_descriptor_limit(config.gateway.max_connections);
    refuse_core_files();
    let predecessor = take_over(args.takeover, &config, &mut handed)?;
    handed.complete(&config, true)?;
    let seams = Seams {
        capture,
        dialer: Arc::new(Direct),
        clock: Arc::new(SystemClock),
        fs: Arc::new(RealFs),
    };
    let mut stop = Stop::new()?;
    let kept = Arc::new(handed.duplicate()?);
    let successor = Offer {
        listener: handed.take_one(Name::Handover).map(Into::into),
        kept: Arc::clone(&kept),
    };
    let (ca_dir, roots) = (config.tls.ca_dir.clone(), config.tls.extra_roots.clone());
    let socket = config.handover_socket();
    let gateway = build::start_with(handed, maps, config, seams)?;
    trust::write_bundle(&ca_dir, gateway.ca_pem(), &roots)?;
    if let Some(predecessor) = predecessor {
        follow(predecessor, &gateway)?;
    }
    tracing::info!(addr = %gateway.addr(), "gateway is up");
    service::ready();
    if args.with_parent {
        writeln!(out, "ready")?;
        out.flush()?;
    }
    let successor = tokio::select! {
        () = stop.asked() => None,
        () = gateway.failed() => None,
        successor = successor.taken() => Some(successor?),
    };
    match successor {
        Some(successor) => yield_to(successor, &gateway).await,
        None => {
            tracing::info!("gateway stops");
            service::stopping(&kept);
            if let Err(error) = std::fs::remove_file(&socket) {
                tracing::debug!(%error, path = %socket.display(), "socket file left");
            }
        }
    }
    // Connections would wait in a copy of a listener, for nobody.
    drop(kept);
    let hurry = gateway.hurry();
    // Joins threads: not on this runtime's thread, which signals still need.
    let mut ended = tokio::task::spawn_blocking(move || gateway.shutdown());
    let ended = tokio::select! {
        ended = &mut ended => ended,
        () = stop.asked() => {
            hurry.cancel();
            ended.await
        }
    };
    ended.map_err(|e| CliError::Failed(format!("stopping: {e}")))??;
    Ok(())
}

/// Joins the gateway's cgroup. The hook that hands over records is on it: sockets made outside
/// have none.
pub(super) fn enter_cgroup(config: &Config) -> Result<(), CliError> {
    let own = cgroup::mount()?.join(&config.capture.gateway_cgroup);
    if !is_member(&own) {
        cgroup::join(&own, None)?;
    }
    Ok(())
}

/// Asks the gateway that runs for its sockets, if that is wanted.
pub(super) fn take_over(
    wanted: bool,
    config: &Config,
    handed: &mut Handed,
) -> Result<Option<Predecessor>, CliError> {
    if let Some(fd) = handed.take_one(Name::Predecessor) {
        return Ok(Some(Predecessor::from_descriptor(fd)));
    }
    if !wanted {
        return Ok(None);
    }
    let path = config.handover_socket();
    let failed = |e| CliError::Failed(format!("taking over at {}: {e}", path.display()));
    let (taken, predecessor) = Predecessor::take(&path).map_err(failed)?;
    handed.extend(taken);
    Ok(Some(predecessor))
}

/// Tells the older gateway to stop, and counts from where it has stopped.
fn follow(mut predecessor: Predecessor, gateway: &Gateway) -> Result<(), CliError> {
    let stopped = gateway.await_predecessor();
    predecessor.serving()?;
    std::thread::Builder::new().name("weir-handover".into()).spawn(move || {
        let accounted = predecessor.stopped();
        if let Err(error) = &accounted {
            tracing::warn!(%error, "the older gateway ended without a word");
        }
        stopped(accounted.ok().flatten());
    })?;
    Ok(())
}

/// Ends accepting, for a newer gateway that does.
async fn yield_to(successor: Successor, gateway: &Gateway) {
    let accounted = gateway.hand_over().await;
    if let Err(error) = successor.stopped(accounted) {
        tracing::warn!(%error, "the newer gateway is gone already");
    }
    tracing::info!("a newer gateway serves; this one ends its flows");
}

/// The sockets for a newer gateway.
struct Offer {
    listener: Option<std::os::unix::net::UnixListener>,
    kept: Arc<Handed>,
}

impl Offer {
    /// Returns when a newer gateway serves. Whatever happens, no copy of a listener is left then:
    /// connections would wait in it for nobody.
    async fn taken(self) -> Result<Successor, CliError> {
        match self.listener {
            Some(listener) => Ok(handover::serve(listener, self.kept).await?),
            None => std::future::pending().await,
        }
    }
}

/// SIGINT and SIGTERM.
struct Stop {
    int: Signal,
    term: Signal,
}

impl Stop {
    fn new() -> Result<Self, CliError> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Whether this process is in a cgroup, by its path in procfs.
fn is_member(dir: &Path) -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    path.is_some_and(|path| dir.ends_with(path) && !path.is_empty())
}

pub(super) fn raise_descriptor_limit(flows: usize) {
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

/// Secrets are in memory: none of it is to be in a file.
fn refuse_core_files() {
    use nix::sys::resource::{Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "a crash may leave a core file");
    }
}
