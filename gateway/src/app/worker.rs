//! One worker: a thread with its own runtime, listeners, upstream pool and identity cache.
//!
//! - input: connections of its `SO_REUSEPORT` listeners
//! - output: flows, each a task on this thread
//! - bound: `gateway.max_connections` over all workers
//! - on failure: a listener error is logged and waited out; flows end at the drain deadline

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::tasks::Tasks;
use super::{Shared, pipeline};
use crate::accept::accept;
use crate::capture::cgroup;
use crate::forward::pool::Pool;
use crate::identify::Identifier;
use crate::identify::guard::Guard;
use crate::record::RecordPermit;
use crate::telemetry::Metrics;

/// State of one worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) identifier: Identifier,
    pub(crate) tasks: Tasks,
}

/// How often idle upstream connections are looked at.
const REAP_EVERY: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors), so that the error does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs until shutdown. `listeners` belong to this worker alone.
pub(super) fn run(
    shared: Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, serve(shared, listeners))
}

async fn serve(shared: Arc<Shared>, listeners: Vec<std::net::TcpListener>) -> std::io::Result<()> {
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        worker.tasks.spawn(accept_loop(Rc::clone(&worker), listener));
    }
    worker.tasks.spawn(reap_loop(Rc::clone(&worker)));
    shared.shutdown.cancelled().await;
    if !shared.drain(&worker.tasks).await {
        tracing::warn!("flows were still open at the drain deadline and are cut");
    }
    Ok(())
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let pool = Pool::new(
            Arc::clone(&shared.seams.dialer),
            shared.upstream.clone(),
            config.gateway.connect_timeout,
            Arc::clone(&shared.metrics),
        );
        let identifier = identifier(&shared);
        let tasks = Tasks::new(Arc::clone(&shared.metrics));
        Self { shared, pool, identifier, tasks }
    }
}

/// One for each thread that names processes.
pub(super) fn identifier(shared: &Shared) -> Identifier {
    let cgroup = &shared.config.capture.cgroup;
    let root = cgroup::mount().ok().map(|mount| mount.join(cgroup));
    let prefix = cgroup.to_string_lossy().into_owned();
    let guard = Guard::new(&shared.config.guard_socket(), Arc::clone(&shared.metrics));
    Identifier::new(shared.producer.host_id.as_str().into(), root, prefix, guard)
}

/// Stops the gateway when a listener's loop panics: its share of connections would hang.
struct StopOnPanic(CancellationToken);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

/// Cancel safe: a connection is still queued, or a task of its own.
pub(super) async fn accept_loop(worker: Rc<Worker>, listener: TcpListener) {
    let shared = &worker.shared;
    let _guard = StopOnPanic(shared.shutdown.clone());
    let _accepting = shared.ending.accepting.token();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &shared.seams.capture, &shared.metrics) => accepted,
            () = shared.shutdown.cancelled() => return,
        };
        match accepted {
            Err(error) => {
                tracing::error!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // Closed by dropping it. Counted in `accept`; there is nobody to attribute a row to.
            Ok(Err(error)) => tracing::warn!(%error, "connection refused"),
            Ok(Ok(accepted)) => {
                let Some(place) = Place::take(&worker) else {
                    shared.metrics.flows_over_limit_total.inc();
                    continue;
                };
                let worker = Rc::clone(&worker);
                let tasks = worker.tasks.clone();
                tasks.spawn(async move {
                    if let Some(permit) = reserve(&worker).await {
                        pipeline::flow(&worker, accepted, permit, place).await;
                    }
                });
            }
        }
    }
}

/// A flow that cannot be recorded does not begin.
async fn reserve(worker: &Worker) -> Option<RecordPermit> {
    match worker.shared.recorder.reserve().await {
        Ok(permit) => Some(permit),
        Err(error) => {
            worker.shared.metrics.failed(&error);
            worker.shared.metrics.flows_unrecordable_total.inc();
            tracing::debug!(%error, "flow refused");
            None
        }
    }
}

async fn reap_loop(worker: Rc<Worker>) {
    let mut every = tokio::time::interval(REAP_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {
                worker.pool.reap(Instant::now());
                worker.shared.inspection.sweep();
            }
            () = worker.shared.shutdown.cancelled() => return,
        }
    }
}

/// One of `gateway.max_connections`, given back when dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Place {
    fn take(worker: &Worker) -> Option<Self> {
        let shared = &worker.shared;
        let max = shared.config.gateway.max_connections;
        let free = |open: usize| (open < max).then_some(open + 1);
        shared.open_flows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        shared.metrics.flows_active.inc();
        Some(Self { shared: Arc::clone(shared), metrics: Arc::clone(&shared.metrics) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open_flows.fetch_sub(1, Ordering::Relaxed);
        self.metrics.flows_active.dec();
    }
}
