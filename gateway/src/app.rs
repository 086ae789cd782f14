//! The gateway as a whole: builds it, runs it, stops it.
//!
//! - input: a checked configuration and the seams
//! - output: a running [`Gateway`]
//! - bound: one thread per worker, one for DNS, one for control, one for the recorder
//! - on failure: [`AppError`]; nothing is half started

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reconcile::{Baseline, Counts, Reconcile};
use crate::capture::maps::Maps;
use crate::capture::{Capture, CaptureError};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::dns::Journal;
use crate::error::Faulty as _;
use crate::forward::dial::Dialer;
use crate::identify::guard::Guard;
use crate::identify::login::Logins;
use crate::identify::registry::Registry;
use crate::inspect::{InspectError, Inspection};
use crate::policy::Engine;
use crate::record::row::Producer;
use crate::record::{BodyBudget, RecordError, Recorder, WriterThread};
use crate::spool::fs::SpoolFs;
use crate::telemetry::Metrics;
use crate::tls::upstream::Upstream;
use crate::tls::{Terminator, TlsError};

mod alarms;
mod alive;
pub mod build;
mod bypass;
mod control;
mod dns;
mod failopen;
pub mod handed;
pub mod handover;
mod identity;
mod namespaces;
mod pipeline;
mod reconcile;
pub mod tasks;
mod worker;

/// The seams that differ between an installation and a test without root.
#[derive(Clone)]
pub struct Seams {
    /// Original destination and process.
    pub capture: Arc<dyn Capture>,
    /// The network.
    pub dialer: Arc<dyn Dialer>,
    /// Time.
    pub clock: SharedClock,
    /// The spool's disk.
    pub fs: Arc<dyn SpoolFs>,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) producer: Producer,
    pub(crate) engine: Engine,
    pub(crate) terminator: Terminator,
    pub(crate) upstream: Upstream,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    /// What names resolved to.
    pub(crate) journal: Arc<Journal>,
    pub(crate) seams: Seams,
    pub(crate) delivered: Arc<crate::sink::deliver::Counters>,
    pub(crate) open_flows: AtomicUsize,
    /// Stop accepting; let open exchanges finish.
    pub(crate) shutdown: CancellationToken,
    pub(crate) ending: Ending,
    pub(crate) baseline: Mutex<Baseline>,
    /// The programs' maps.
    pub(crate) maps: Maps,
    pub(crate) guard: Guard,
    /// Who is who.
    pub(crate) registry: Arc<Registry>,
    /// Secrets.
    pub(crate) inspection: Arc<Inspection>,
    /// Memory for bodies that are judged as a whole.
    pub(crate) inspect_budget: BodyBudget,
    /// How people log in, once somebody listens to them.
    pub(crate) logins: OnceLock<Arc<Logins>>,
}

impl Shared {
    /// Where it is known who acts for whom; `None` where nobody is asked.
    fn vouched(&self) -> Option<Arc<Registry>> {
        self.engine.asks_identity().then(|| Arc::clone(&self.registry))
    }

    /// Whether no other gateway is about: none that this one takes over from, or that took over.
    fn is_alone(&self) -> bool {
        let baseline = self.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        !self.ending.handed_over.is_cancelled() && !matches!(*baseline, Baseline::Awaited)
    }

    /// Connections accepted with a record.
    fn accepted(&self) -> u64 {
        let without = self.metrics.outcome_count(CaptureError::NoRecord.outcome());
        self.metrics.flows_total.value().saturating_sub(without)
    }

    /// Waits until every task of `tasks` has ended, or its time is over; false then.
    ///
    /// At shutdown somebody waits for this process, so that flows get `gateway.drain_timeout`.
    /// After a handover nobody does.
    pub(crate) async fn drain(&self, tasks: &tasks::Tasks) -> bool {
        let gateway = &self.config.gateway;
        let deadline = async {
            if self.ending.handed_over.is_cancelled() {
                tokio::select! {
                    () = tokio::time::sleep(gateway.handover_timeout) => return,
                    () = self.ending.soon.cancelled() => {}
                }
            }
            tokio::time::sleep(gateway.drain_timeout).await;
        };
        tokio::select! {
            () = tasks.drained() => true,
            () = deadline => false,
        }
    }
}

/// How this gateway ends.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// A newer gateway serves, and delivers: this one ends its flows.
    pub(crate) handed_over: CancellationToken,
    /// After a handover: it was asked to stop all the same.
    pub(crate) soon: CancellationToken,
    /// The loops that accept.
    pub(crate) accepting: TaskTracker,
    /// The workers, until their last flow has ended.
    pub(crate) serving: TaskTracker,
}

/// Why the gateway did not start or stop well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Recorder or spool.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What the kernel side says.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The captured port.
    #[error("listening on port {port}: {source}")]
    Listen {
        /// Which port.
        port: u16,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Threads, sockets, files.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Rules and values of `[inspect]`.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The store could not be reached with what is configured.
    #[error(transparent)]
    Sink(#[from] crate::sink::SinkError),
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    addr: SocketAddr,
    dns_addr: SocketAddr,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    /// Ends the control thread, after the recorder has sealed its last segment.
    stop_control: CancellationToken,
    writer: Option<WriterThread>,
}

impl Gateway {
    /// Where captured connections arrive (127.0.0.1).
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the resolver listens (127.0.0.1, UDP and TCP).
    pub fn dns_addr(&self) -> SocketAddr {
        self.dns_addr
    }

    /// What names resolved to.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.shared.journal
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The recorder's counters.
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// The certificate that clients must trust.
    pub fn ca_pem(&self) -> &str {
        self.shared.terminator.mint().authority().pem()
    }

    /// Returns when a thread has given up and the gateway should be stopped.
    pub async fn failed(&self) {
        self.shared.shutdown.cancelled().await;
    }

    /// A newer gateway accepts on these sockets: this one stops to accept and to deliver, and ends
    /// its flows. Returns when it accepts no more, with what it has accounted for of the kernel's
    /// joined connections, if it knows. [`Gateway::shutdown`] is still to be called.
    pub async fn hand_over(&self) -> Option<u64> {
        let shared = &self.shared;
        shared.ending.handed_over.cancel();
        shared.shutdown.cancel();
        shared.ending.accepting.close();
        shared.ending.accepting.wait().await;
        let accepted = shared.accepted();
        let mut baseline = shared.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *baseline, Baseline::Ended) {
            Baseline::Known(reconcile) => Some(reconcile.accounted(accepted)),
            Baseline::Unknown | Baseline::Awaited | Baseline::Ended => None,
        }
    }

    /// An older gateway still accepts on these sockets: what the kernel counts is not ours alone.
    /// The answer is to be called when it accepts no more, with how many of the kernel's joined
    /// connections it has accounted for.
    pub fn await_predecessor(&self) -> impl FnOnce(Option<u64>) + Send + 'static {
        let shared = Arc::clone(&self.shared);
        *shared.baseline.lock().unwrap_or_else(PoisonError::into_inner) = Baseline::Awaited;
        move |accounted| {
            let mut baseline = shared.baseline.lock().unwrap_or_else(PoisonError::into_inner);
            // A still newer gateway may have taken over meanwhile.
            if matches!(*baseline, Baseline::Awaited) {
                let from = |joined| Reconcile::from(Counts { joined, accepted: 0 });
                *baseline = accounted.map_or(Baseline::Unknown, |n| Baseline::Known(from(n)));
            }
        }
    }

    /// After [`Gateway::hand_over`]: ends it within `gateway.drain_timeout`.
    pub fn hurry(&self) -> CancellationToken {
        self.shared.ending.soon.clone()
    }

    /// Stops in order: stop accepting, drain flows, seal the open segment, flush the sink once.
    ///
    /// # Errors
    /// When a thread had panicked or the last segment could not be sealed.
    pub fn shutdown(mut self) -> Result<(), AppError> {
        self.shared.shutdown.cancel();
        let mut panicked = false;
        for worker in self.workers.drain(..) {
            panicked |= worker.join().is_err();
        }
        if let Some(writer) = self.writer.take() {
            writer.shutdown()?;
        }
        self.stop_control.cancel();
        if let Some(control) = self.control.take() {
            panicked |= control.join().is_err();
        }
        if panicked {
            let source = std::io::Error::other("a thread panicked");
            return Err(AppError::Io { action: "stopping".into(), source });
        }
        Ok(())
    }
}
