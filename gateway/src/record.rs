//! The recorder: hands finished flows and exchanges to the one thread that writes the spool.
//!
//! - input: rows of finished flows and exchanges, each under a permit taken before it began
//! - output: records in the spool
//! - bound: `limits::MAX_OPEN_RECORDS` permits and queued records together;
//!   `record.max_memory` bytes of bodies
//! - on failure: [`Recorder::reserve`] refuses, so that nothing happens that cannot be recorded;
//!   what is lost all the same is counted and told by a gap row

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::mpsc::{self, OwnedPermit, Sender};
use tokio::time::timeout;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::error::{Fault, Faulty};
use crate::limits;
use crate::spool::SpoolError;
use crate::spool::fs::SpoolFs;
use crate::spool::slots;

pub mod adopt;
pub mod alarm;
pub mod budget;
pub mod exchange;
pub mod flow;
mod masking;
pub mod row;
pub mod stats;
mod writer;

#[cfg(test)]
mod tests;

pub use alarm::{Alarm, Severity};
pub use budget::{BodyBudget, BodyLease};
pub use stats::RecordStats;
pub use writer::WriterThread;

use row::{BodyRow, DnsRow, ExchangeRow, FindingRow, FlowRow, GapRow, HeartbeatRow, Producer};

/// Something to be recorded.
#[derive(Debug)]
pub enum Record {
    /// A closed flow.
    Flow(Box<FlowRow>),
    /// A finished exchange, the pieces of its bodies, and the secrets in them.
    Exchange(Box<ExchangeRow>, Vec<BodyRow>, Vec<FindingRow>),
    /// Known loss.
    Gap(GapRow),
    /// A sign of life.
    Heartbeat(Box<HeartbeatRow>),
    /// A question to the resolver.
    Dns(Box<DnsRow>),
    /// Something to look at.
    Alarm(Box<Alarm>),
}

/// Why nothing new may begin.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The spool is full.
    #[error("reserving a record: the spool is full")]
    Full,
    /// The disk of the spool fails.
    #[error("reserving a record: the spool is out of service")]
    Failed,
    /// Too many records are open or queued.
    #[error("reserving a record: all {} slots are taken", limits::MAX_OPEN_RECORDS)]
    Wait,
    /// The recorder has been shut down.
    #[error("reserving a record: the recorder has ended")]
    Closed,
    /// The spool could not be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The writer thread could not be started.
    #[error("starting the recorder: {0}")]
    Thread(std::io::Error),
    /// The writer thread ended by a panic.
    #[error("stopping the recorder: its thread panicked")]
    Panicked,
}

impl Faulty for RecordError {
    fn fault(&self) -> Fault {
        match self {
            Self::Full | Self::Wait => Fault::Capacity,
            Self::Failed | Self::Closed | Self::Thread(_) | Self::Panicked => Fault::Internal,
            Self::Spool(e) => e.fault(),
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Full => "spool_full",
            Self::Failed => "spool_failed",
            Self::Wait => "record_wait",
            Self::Closed => "recorder_closed",
            Self::Spool(e) => e.outcome(),
            Self::Thread(_) => "recorder_thread",
            Self::Panicked => "recorder_panicked",
        }
    }
}

/// Whether reservations are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Gate {
    Open = 0,
    Full = 1,
    Failed = 2,
    Closed = 3,
}

#[derive(Debug)]
struct Shared {
    gate: AtomicU8,
    stats: RecordStats,
    bodies: BodyBudget,
    max_body_bytes: usize,
    /// The spool takes no bodies now: nobody has to mask them.
    no_bodies: AtomicBool,
}

impl Shared {
    fn set_gate(&self, gate: Gate) -> bool {
        self.gate.swap(gate as u8, Ordering::Relaxed) != gate as u8
    }

    fn check(&self) -> Result<(), RecordError> {
        let gate = self.gate.load(Ordering::Relaxed);
        match gate {
            g if g == Gate::Open as u8 => Ok(()),
            g if g == Gate::Full as u8 => Err(RecordError::Full),
            g if g == Gate::Failed as u8 => Err(RecordError::Failed),
            _ => Err(RecordError::Closed),
        }
    }
}

/// The handle that every worker carries.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: Sender<Record>,
    masking: masking::Queue,
    shared: Arc<Shared>,
}

/// The right to record one thing. Dropping it gives the slot back.
#[derive(Debug)]
#[must_use = "dropping a permit gives its slot back"]
pub struct RecordPermit {
    slot: OwnedPermit<Record>,
    shared: Arc<Shared>,
}

impl RecordPermit {
    /// Queues the record. Never blocks and never fails: the slot was reserved.
    pub fn send(self, record: Record) {
        if self.shared.gate.load(Ordering::Relaxed) == Gate::Closed as u8 {
            // the shutdown has told this permit as a gap
            RecordStats::add(&self.shared.stats.lost_at_shutdown, 1);
        }
        // the returned sender is another handle of the same queue
        drop(self.slot.send(record));
    }
}

impl Recorder {
    /// Takes a slot for one flow or exchange before it begins.
    ///
    /// # Errors
    /// `Full`, `Failed` and `Closed` at once; `Wait` when no slot is free within
    /// `limits::RECORD_WAIT`.
    ///
    /// # Cancel safety
    /// Nothing is held when it is cancelled.
    pub async fn reserve(&self) -> Result<RecordPermit, RecordError> {
        self.grant().await.inspect_err(|e| self.shared.stats.refuse(e))
    }

    async fn grant(&self) -> Result<RecordPermit, RecordError> {
        self.shared.check()?;
        // no timer when a slot is free
        let slot = match self.queue.clone().try_reserve_owned() {
            Ok(slot) => slot,
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(RecordError::Closed),
            Err(mpsc::error::TrySendError::Full(queue)) => {
                match timeout(limits::RECORD_WAIT, queue.reserve_owned()).await {
                    Ok(Ok(slot)) => slot,
                    Ok(Err(mpsc::error::SendError(()))) => return Err(RecordError::Closed),
                    Err(tokio::time::error::Elapsed { .. }) => return Err(RecordError::Wait),
                }
            }
        };
        // the spool may have filled up meanwhile
        self.shared.check()?;
        Ok(RecordPermit { slot, shared: Arc::clone(&self.shared) })
    }

    /// Raises an alarm. Never waits and never fails: equal alarms become one row, floods are summed up
    /// (`alarm::Desk`), and one that finds no place in the queue is counted and told.
    pub fn alarm(&self, alarm: Alarm) {
        let count = alarm.count;
        if self.queue.try_send(Record::Alarm(Box::new(alarm))).is_err() {
            RecordStats::add(&self.shared.stats.alarms_unqueued, count);
        }
    }

    /// Whether new flows and exchanges can be recorded now.
    ///
    /// # Errors
    /// `Full`, `Failed` or `Closed`.
    pub fn health(&self) -> Result<(), RecordError> {
        self.shared.check()
    }

    /// Queues a finished exchange for masking. Never blocks and never fails, as [`RecordPermit::send`].
    fn finished(&self, job: masking::Job) {
        self.masking.send(job);
    }

    /// Memory for bodies on their way to the spool.
    pub fn body_budget(&self) -> &BodyBudget {
        &self.shared.bodies
    }

    /// Counters of the recorder and its spool.
    pub fn stats(&self) -> &RecordStats {
        &self.shared.stats
    }
}

/// Opens the spool, tells what an earlier crash may have lost, and starts the writer thread.
///
/// # Errors
/// `Spool` when the directory is locked or cannot be brought in order, `Thread`.
pub fn start(
    config: &Config,
    producer: &Producer,
    clock: SharedClock,
    fs: Arc<dyn SpoolFs>,
) -> Result<(Recorder, WriterThread), RecordError> {
    let (spool, recovered) = slots::open(&fs, &config.spool, producer, &clock)?;
    let shared = Arc::new(Shared {
        gate: AtomicU8::new(Gate::Open as u8),
        stats: RecordStats::default(),
        bodies: BodyBudget::new(config.record.max_memory_bytes),
        max_body_bytes: config.record.max_body_bytes,
        no_bodies: AtomicBool::new(false),
    });
    let (queue, records) = mpsc::channel(limits::MAX_OPEN_RECORDS);
    let work = writer::Work::new(spool, producer.boot_id, clock, Arc::clone(&shared));
    let (masking, masker) = masking::MaskingThread::start(&shared)?;
    let thread = work.start(recovered, records, masker)?;
    Ok((Recorder { queue, masking, shared }, thread))
}
