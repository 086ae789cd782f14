//! The thread that masks recorded bodies: beside the data path, before the spool.
//!
//! - input: finished exchanges with the bodies that were kept of them
//! - output: the same with masked bodies and what was found in them, for the writer
//! - bound: the open permits; memory as the leases of the bodies say; one core
//! - on failure: a body that cannot be masked is left out, and its row says so
//!
//! Like the writer's, this thread naps and polls while there is traffic: senders do not pay for
//! waking it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::exchange::Kept;
use super::row::{BodyRow, ExchangeRow, FindingRow};
use super::{BodyLease, Record, RecordError, RecordPermit, RecordStats, Shared};
use crate::inspect::findings::Action;
use crate::inspect::judge::{Direction, Looking};
use crate::inspect::mask::Masked;
use crate::inspect::recorded::{self, Raw};
use crate::limits;

/// Nap while there is traffic.
const NAP: Duration = Duration::from_millis(5);
/// Nap without.
const IDLE_NAP: Duration = Duration::from_millis(100);
/// Traffic counts as such for this long.
const TRAFFIC: Duration = Duration::from_secs(1);
/// What queued bodies get at shutdown; later ones are left out.
const GRACE: Duration = Duration::from_secs(5);
/// Pieces that a recorded body is cut into, so that no row is huge.
const PIECE_BYTES: usize = 1024 * 1024;

/// A finished exchange.
pub(super) struct Job {
    pub(super) permit: RecordPermit,
    pub(super) row: Box<ExchangeRow>,
    pub(super) bodies: Vec<KeptBody>,
    pub(super) looking: Looking,
}

/// What was kept of a body, as it passed.
pub(super) struct KeptBody {
    pub(super) direction: Direction,
    pub(super) data: Vec<u8>,
    pub(super) lease: BodyLease,
    pub(super) content_type: String,
    pub(super) content_encoding: String,
    /// Whether this is all of it.
    pub(super) is_whole: bool,
}

/// Where finished exchanges go.
#[derive(Clone, Debug)]
pub(super) struct Queue(Sender<Job>);

impl Queue {
    /// Never blocks: without a place, bodies are left out.
    pub(super) fn send(&self, job: Job) {
        if job.bodies.is_empty() {
            return job.without_bodies();
        }
        if let Err(mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) =
            self.0.try_send(job)
        {
            job.without_bodies();
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct MaskingThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl MaskingThread {
    /// Starts it.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<(Queue, Self), RecordError> {
        let (sender, queue) = mpsc::channel(limits::MAX_MASKING);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work { shared: Arc::clone(shared), stop: Arc::clone(&stop), end: None };
        let thread = std::thread::Builder::new()
            .name("weir-mask".into())
            .spawn(move || work.run(queue))
            .map_err(RecordError::Thread)?;
        Ok((Queue(sender), Self { stop, thread }))
    }

    /// Masks what is queued, at most [`GRACE`] long, and ends the thread.
    pub(super) fn shutdown(self) -> Result<(), RecordError> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().map_err(|_panic| RecordError::Panicked)
    }
}

struct Work {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    /// After this moment bodies are left out.
    end: Option<Instant>,
}

impl Work {
    fn run(mut self, mut queue: Receiver<Job>) {
        let mut traffic = Instant::now();
        loop {
            if self.end.is_none() && self.stop.load(Ordering::Acquire) {
                self.end = Some(Instant::now() + GRACE);
            }
            match queue.try_recv() {
                Ok(job) => {
                    self.mask(job);
                    traffic = Instant::now();
                }
                Err(TryRecvError::Empty) if self.end.is_none() => {
                    let is_busy = traffic.elapsed() < TRAFFIC;
                    std::thread::park_timeout(if is_busy { NAP } else { IDLE_NAP });
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn mask(&self, job: Job) {
        // Rows that wait here must not outgrow what is left of a spool that fills up.
        let is_late = self.end.is_some_and(|end| Instant::now() >= end);
        if is_late || self.shared.no_bodies.load(Ordering::Relaxed) {
            RecordStats::add(&self.shared.stats.bodies_dropped, job.bodies.len() as u64);
            return job.without_bodies();
        }
        let Job { permit, mut row, bodies, looking } = job;
        let mut rows = Vec::new();
        for body in bodies {
            let direction = body.direction;
            match self.mask_body(&looking, body) {
                Some((data, is_truncated, content_type)) => {
                    if is_truncated {
                        set_state(&mut row, direction, Kept::Truncated);
                    }
                    rows.extend(pieces(&row, direction, &content_type, &data));
                }
                None => {
                    set_state(&mut row, direction, Kept::Unmaskable);
                    RecordStats::add(&self.shared.stats.bodies_unmaskable, 1);
                }
            }
        }
        send(permit, row, rows, &looking);
    }

    /// Its bytes, whether some are left out, and its type.
    fn mask_body(
        &self,
        looking: &Looking,
        body: KeptBody,
    ) -> Option<(Masked<Bytes>, bool, String)> {
        let raw = Raw {
            data: &body.data,
            content_type: &body.content_type,
            content_encoding: &body.content_encoding,
            is_whole: body.is_whole,
            max: body.data.len().max(self.shared.max_body_bytes),
        };
        let masked =
            catch_unwind(AssertUnwindSafe(|| recorded::mask(looking, body.direction, &raw)));
        let recorded = masked
            .inspect_err(|_panic| tracing::error!("masking a body panicked: it is not recorded"))
            .ok()?
            .ok()?;
        let mut lease = body.lease;
        let data = recorded.data;
        let more = data.len().saturating_sub(lease.len());
        if !lease.grow(more) {
            return None;
        }
        let data = data.held_by(|data| lease.attach(data));
        Some((data, recorded.is_truncated, recorded.content_type.into_inner()))
    }
}

/// Queues the row with what was found, now that everybody has looked.
fn send(permit: RecordPermit, mut row: Box<ExchangeRow>, bodies: Vec<BodyRow>, looking: &Looking) {
    let found = looking.findings().take();
    row.findings = found.count;
    row.finding_action = found.action.map_or("", Action::as_str);
    let findings = found.all.into_iter().map(|one| FindingRow::of(&row, one)).collect();
    permit.send(Record::Exchange(row, bodies, findings));
}

fn set_state(row: &mut ExchangeRow, direction: Direction, kept: Kept) {
    match direction {
        Direction::Request => row.req_body = kept as u8,
        Direction::Response => row.resp_body = kept as u8,
    }
}

impl Job {
    /// The row without the bodies, which it calls dropped.
    fn without_bodies(self) {
        let Self { permit, mut row, bodies, looking } = self;
        for body in bodies {
            set_state(&mut row, body.direction, Kept::Dropped);
        }
        send(permit, row, Vec::new(), &looking);
    }
}

/// Rows of one body.
fn pieces<'a>(
    row: &'a ExchangeRow,
    direction: Direction,
    content_type: &'a str,
    data: &'a Masked<Bytes>,
) -> impl Iterator<Item = BodyRow> + 'a {
    let chunks = data.bytes().len().div_ceil(PIECE_BYTES);
    (0..chunks).map(move |chunk| BodyRow {
        ts: row.ts,
        exchange_id: row.exchange_id,
        session_id: row.session_id,
        job_id: Arc::clone(&row.job_id),
        dir: match direction {
            Direction::Request => 1,
            Direction::Response => 2,
        },
        chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
        chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
        content_type: content_type.to_owned(),
        content_encoding: String::new(),
        body: data.slice(chunk * PIECE_BYTES, PIECE_BYTES),
    })
}
