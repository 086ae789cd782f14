//! Turns a configuration into a running gateway. Touches files, network and threads; validates
//! nothing again.
//!
//! - input: [`Config`], [`Seams`]
//! - output: [`Gateway`]
//! - bound: see the stages
//! - on failure: [`AppError`]; what was started is stopped by dropping it

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handed::Handed;
use super::{
    AppError, Ending, Gateway, Seams, Shared, alive, control, dns, identity, namespaces, worker,
};
use crate::capture::maps::Maps;
use crate::config::Config;
use crate::identify::guard::Guard;
use crate::inspect::Inspection;
use crate::limits;
use crate::policy::Engine;
use crate::record::BodyBudget;
use crate::record::row::Producer;
use crate::telemetry::Metrics;
use crate::tls::Terminator;
use crate::tls::authority::Authority;
use crate::tls::mint::Mint;
use crate::tls::upstream::Upstream;
use crate::{record, sink};

/// Starts a gateway that opens its sockets itself. It accepts connections when this returns.
///
/// # Errors
/// See [`AppError`].
pub fn start(config: Config, seams: Seams) -> Result<Gateway, AppError> {
    let mut handed = Handed::default();
    handed.complete(&config, false)?;
    let maps = handed.maps(&config.capture.pin_dir);
    start_with(handed, maps, config, seams)
}

/// Starts a gateway on these descriptors. It accepts connections when this returns.
///
/// # Errors
/// See [`AppError`].
pub fn start_with(
    mut handed: Handed,
    maps: Maps,
    config: Config,
    seams: Seams,
) -> Result<Gateway, AppError> {
    let producer = producer(&config);
    let now = seams.clock.wall();
    let authority = Authority::load_or_create(&config.tls.ca_dir, &producer.host_id, now)?;
    let metrics = Arc::<Metrics>::default();
    let mint = Mint::new(
        authority,
        config.tls.leaf_lifetime,
        Arc::clone(&seams.clock),
        Arc::clone(&metrics),
    )?;
    let terminator = Terminator::new(Arc::new(mint))?;
    let upstream = Upstream::new(&config.tls.extra_roots)?;
    let issuers = identity::Issuers::start(&config, &seams.clock)?;
    let inspection = Inspection::load(&config.inspect, Arc::clone(&seams.clock))?;
    let client = sink::connect(&config.store)?;
    let (recorder, writer) =
        record::start(&config, &producer, Arc::clone(&seams.clock), Arc::clone(&seams.fs))?;
    let guard = Guard::new(&config.guard_socket(), Arc::clone(&metrics));
    let shared = Arc::new(Shared {
        engine: Engine::new(&config),
        config,
        producer,
        terminator,
        upstream,
        recorder,
        metrics,
        journal: Arc::default(),
        seams,
        delivered: Arc::default(),
        open_flows: AtomicUsize::new(0),
        shutdown: CancellationToken::new(),
        ending: Ending::default(),
        baseline: Mutex::default(),
        maps,
        guard,
        registry: Arc::default(),
        inspection: Arc::new(inspection),
        inspect_budget: BodyBudget::new(limits::MAX_INSPECTED_BYTES),
        logins: OnceLock::new(),
    });
    let sockets = handed.dns(shared.config.dns.port)?;
    let dns_addr = sockets.addr();
    let admin = handed.admin();
    if shared.engine.asks_identity() {
        // Before the first connection: jobs and people of an earlier gateway go on.
        identity::adopt(&shared, &issuers);
    }
    let (mut workers, addr) = workers(&shared, &mut handed)?;
    workers.push({
        let shared = Arc::clone(&shared);
        spawn("weir-dns", move || {
            if let Err(error) = dns::run(Arc::clone(&shared), sockets) {
                tracing::error!(%error, "dns failed");
                shared.shutdown.cancel();
            }
        })?
    });
    if let Some(socket) = handed.identity() {
        let shared = Arc::clone(&shared);
        workers.push(spawn("weir-identity", move || {
            if let Err(error) = identity::run(shared, issuers, socket) {
                tracing::error!(%error, "nobody is identified any more");
            }
        })?);
    }
    if let Some(socket) = handed.orders() {
        namespaces::begin(&shared);
        let shared = Arc::clone(&shared);
        workers.push(spawn("weir-netns", move || {
            if let Err(error) = namespaces::run(shared, socket) {
                tracing::error!(%error, "listeners in other network namespaces ended");
            }
        })?);
    }
    // Everything listens: from the first beat on nothing passes unseen any more.
    shared.seams.capture.beat()?;
    workers.push({
        let shared = Arc::clone(&shared);
        spawn("weir-alive", move || alive::run(&shared))?
    });
    let stop_control = CancellationToken::new();
    let control = {
        let (shared, stop) = (Arc::clone(&shared), stop_control.clone());
        spawn("weir-control", move || control::start(&shared, client, admin, &stop))?
    };
    let (control, writer) = (Some(control), Some(writer));
    Ok(Gateway { shared, addr, dns_addr, workers, control, stop_control, writer })
}

/// Shares the listeners out and starts the workers.
fn workers(
    shared: &Arc<Shared>,
    handed: &mut Handed,
) -> Result<(Vec<thread::JoinHandle<()>>, SocketAddr), AppError> {
    let all = handed.listeners(shared.config.gateway.workers)?;
    let mut addr = SocketAddr::from(([127, 0, 0, 1], shared.config.gateway.port));
    if let Some(first) = all.first().and_then(|one| one.first()) {
        let failed = |source| AppError::Listen { port: addr.port(), source };
        // 127.0.0.1 is the lowest of them.
        addr = first.local_addr().map_err(failed)?;
    }
    let mut handles = Vec::new();
    for (i, listeners) in all.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        let serving = shared.ending.serving.token();
        handles.push(spawn(&format!("weir-worker-{i}"), move || {
            let _serving = serving;
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
