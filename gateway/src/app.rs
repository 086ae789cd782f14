//! The gateway as a whole: builds it, runs it, stops it.
//!
//! - input: a checked configuration and the seams
//! - output: a running [`Gateway`]
//! - bound: one thread per worker, one for DNS, one for control, one for the recorder
//! - on failure: [`AppError`]; nothing is half started

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use crate::capture::Capture;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::dns::Journal;
use crate::forward::dial::Dialer;
use crate::policy::Engine;
use crate::record::row::Producer;
use crate::record::{RecordError, Recorder, WriterThread};
use crate::spool::fs::SpoolFs;
use crate::telemetry::Metrics;
use crate::tls::upstream::Upstream;
use crate::tls::{Terminator, TlsError};

pub mod build;
mod control;
mod dns;
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
