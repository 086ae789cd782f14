//! Turns a configuration into a running gateway. Touches files, network and threads; validates
//! nothing again.
//!
//! - input: [`Config`], [`Seams`]
//! - output: [`Gateway`]
//! - bound: see the stages
//! - on failure: [`AppError`]; what was started is stopped by dropping it

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AppError, Gateway, Seams, Shared, control, worker};
use crate::accept;
use crate::config::Config;
use crate::policy::Engine;
use crate::record::row::Producer;
use crate::tls::Terminator;
use crate::tls::authority::Authority;
use crate::tls::mint::Mint;
use crate::tls::upstream::Upstream;
use crate::{record, sink};

/// Starts a gateway. It accepts connections when this returns.
///
/// # Errors
/// See [`AppError`].
pub fn start(config: Config, seams: Seams) -> Result<Gateway, AppError> {
    let producer = producer(&config);
    let now = seams.clock.wall();
    let authority = Authority::load_or_create(&config.tls.ca_dir, &producer.host_id, now)?;
    let metrics = Arc::default();
    let mint = Mint::new(
        authority,
        config.tls.leaf_lifetime,
        Arc::clone(&seams.clock),
        Arc::clone(&metrics),
    )?;
    let terminator = Terminator::new(Arc::new(mint))?;
    let upstream = Upstream::new(&config.tls.extra_roots)?;
    let client = sink::connect(&config.store)?;
    let (recorder, writer) =
        record::start(&config, &producer, Arc::clone(&seams.clock), Arc::clone(&seams.fs))?;
    let shared = Arc::new(Shared {
        engine: Engine::new(&config),
        config,
        producer,
        terminator,
        upstream,
        recorder,
        metrics,
        seams,
        delivered: Arc::default(),
        open_flows: AtomicUsize::new(0),
        shutdown: CancellationToken::new(),
    });
    let (workers, addr) = workers(&shared)?;
    let stop_control = CancellationToken::new();
    let control = {
        let (shared, stop) = (Arc::clone(&shared), stop_control.clone());
        spawn("weir-control", move || control::start(&shared, client, &stop))?
    };
    let (control, writer) = (Some(control), Some(writer));
    Ok(Gateway { shared, addr, workers, control, stop_control, writer })
}

/// All listeners are open before the first worker runs: a port that is taken is an error here.
fn workers(shared: &Arc<Shared>) -> Result<(Vec<thread::JoinHandle<()>>, SocketAddr), AppError> {
    let mut port = shared.config.gateway.port;
    let failed = |port| move |source| AppError::Listen { port, source };
    let mut all = Vec::new();
    let mut addr = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..shared.config.gateway.workers {
        let listeners =
            accept::listen(port, shared.config.gateway.addresses).map_err(failed(port))?;
        if let Some(first) = listeners.first() {
            addr = first.local_addr().map_err(failed(port))?;
            port = addr.port();
        }
        all.push(listeners);
    }
    let mut handles = Vec::new();
    for (i, listeners) in all.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        handles.push(spawn(&format!("weir-worker-{i}"), move || {
            if let Err(error) = worker::run(Arc::clone(&shared), listeners) {
                // Without this worker its share of connections would hang: stop the gateway.
                tracing::error!(%error, "worker failed");
                shared.shutdown.cancel();
            }
        })?);
    }
    Ok((handles, addr))
}

fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, AppError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|source| AppError::Io { action: format!("starting thread {name}"), source })
}

fn producer(config: &Config) -> Producer {
    let seconds = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    Producer {
        host_id: config.host.id.clone().unwrap_or_else(machine_id),
        boot_id: Uuid::new_v4(),
        org: config.host.org.clone(),
        project: config.host.project.clone(),
        retain_metadata_s: seconds(config.record.retain_metadata),
        retain_bodies_s: seconds(config.record.retain_bodies),
    }
}

/// machine-id(5), or the host name where there is none.
fn machine_id() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    if !id.trim().is_empty() {
        return id.trim().to_owned();
    }
    nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
