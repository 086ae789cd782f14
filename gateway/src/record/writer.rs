//! The writer thread: takes records from the queue and appends them to the spool.
//!
//! - input: the queue of records
//! - output: rows in the spool, gap rows for what it could not take
//! - bound: the queue's; one record at a time
//! - on failure: the gate closes (`Full`, `Failed`) and opens again when the spool has recovered
//!
//! Senders must not pay for waking this thread: while there is traffic it naps and polls, and only
//! after a second of silence it waits for the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use uuid::Uuid;

use super::alarm::{Alarm, Desk};
use super::masking::MaskingThread;
use super::row::{BodyRow, ExchangeRow, GapRow, Row};
use super::{Gate, Record, RecordError, RecordStats, Shared};
use crate::clock::SharedClock;
use crate::spool::SpoolError;
use crate::spool::recover::{Crash, Recovered};
use crate::spool::writer::{Level, Writer};

/// Nap while there is traffic.
const NAP: Duration = Duration::from_millis(5);
/// Nap without traffic while a segment waits for its seal.
const IDLE_NAP: Duration = Duration::from_millis(50);
/// Longest wait for the queue.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Traffic counts as such for this long.
const TRAFFIC: Duration = Duration::from_secs(1);
/// Records between two looks at the clock.
const RUN: usize = 1024;
/// What open permits get at shutdown to send their record.
const GRACE: Duration = Duration::from_secs(1);

/// Gap rows that wait for space.
const MAX_OWED: usize = 64;

const CAUSE_SPOOL_FULL: u8 = 1;
const CAUSE_CRASH: u8 = 2;
const CAUSE_RESTART: u8 = 3;
const CAUSE_QUARANTINE: u8 = 8;
const BODY_DROPPED: u8 = 3;

/// The running thread.
#[derive(Debug)]
pub struct WriterThread {
    stop: Arc<Stop>,
    thread: JoinHandle<Result<(), SpoolError>>,
    /// Stands before it.
    masking: MaskingThread,
}

impl WriterThread {
    /// Writes what is queued, seals, and ends the thread. Blocks, at most about a second longer
    /// than the disk needs.
    ///
    /// # Errors
    /// `Spool` when the last segment could not be sealed; the next start then recovers it.
    pub fn shutdown(self) -> Result<(), RecordError> {
        let masked = self.masking.shutdown();
        self.stop.asked.store(true, Ordering::Release);
        self.stop.wake.notify_one();
        self.thread.thread().unpark();
        self.thread.join().map_err(|_panic| RecordError::Panicked)?.map_err(RecordError::Spool)?;
        masked
    }
}

#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    wake: Notify,
}

/// What could not be recorded since the last gap row.
#[derive(Debug)]
struct Missing {
    first_seq: u64,
    records: u64,
    bytes: u64,
    detail: String,
}

pub(super) struct Work {
    spool: Writer,
    boot_id: Uuid,
    clock: SharedClock,
    shared: Arc<Shared>,
    missing: Option<Missing>,
    /// Gap rows that the spool could not take yet.
    owed: VecDeque<GapRow>,
    sealed: u64,
    desk: Desk,
    /// Alarms without a place in the queue that the desk knows of.
    unqueued: u64,
    closing: bool,
    _gate: CloseGate,
}

impl Work {
    pub(super) fn new(
        spool: Writer,
        boot_id: Uuid,
        clock: SharedClock,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            spool,
            boot_id,
            clock,
            _gate: CloseGate(Arc::clone(&shared)),
            shared,
            missing: None,
            owed: VecDeque::new(),
            sealed: 0,
            desk: Desk::default(),
            unqueued: 0,
            closing: false,
        }
    }

    /// Writes the gaps of earlier starts, then starts the thread.
    pub(super) fn start(
        mut self,
        recovered: Recovered,
        queue: Receiver<Record>,
        masking: MaskingThread,
    ) -> Result<WriterThread, RecordError> {
        self.tell_recovered(recovered);
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(RecordError::Thread)?;
        let stop = Arc::new(Stop::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("weir-record".into())
            .spawn(move || self.run(queue, &stopped, &runtime))
            .map_err(RecordError::Thread)?;
        Ok(WriterThread { stop, thread, masking })
    }

    fn tell_recovered(&mut self, recovered: Recovered) {
        let stats = &self.shared.stats;
        for segment in &recovered.segments {
            RecordStats::add(&stats.recovered_segments, 1);
            RecordStats::add(&stats.recovered_records, segment.records);
            RecordStats::add(&stats.recovered_cut_bytes, segment.cut_bytes);
        }
        RecordStats::add(&stats.recovered_quarantined, recovered.quarantined.len() as u64);
        for gap in recovered_gaps(recovered, &self.clock) {
            self.owe(gap);
        }
        if let Err(e) = self.spool.sync() {
            tracing::error!(error = %e, "the spool failed at the start");
        }
        self.publish();
    }

    fn run(
        mut self,
        mut queue: Receiver<Record>,
        stop: &Stop,
        runtime: &Runtime,
    ) -> Result<(), SpoolError> {
        let mut traffic = self.clock.mono();
        while !stop.asked.load(Ordering::Acquire) {
            let (records, open) = self.drain(&mut queue);
            let now = self.tick();
            if !open {
                break;
            }
            if records > 0 {
                traffic = now;
            }
            if records == RUN {
                continue;
            }
            if now.saturating_duration_since(traffic) < TRAFFIC {
                std::thread::park_timeout(NAP);
            } else if self.is_busy() {
                std::thread::park_timeout(IDLE_NAP);
            } else if let Some(record) = runtime.block_on(wait(&mut queue, stop)) {
                traffic = self.clock.mono();
                self.write(record);
            }
        }
        self.finish(queue)
    }

    fn is_busy(&self) -> bool {
        self.spool.is_busy() || self.missing.is_some() || !self.owed.is_empty()
    }

    /// Writes at most [`RUN`] queued records; says how many, and whether senders exist.
    fn drain(&mut self, queue: &mut Receiver<Record>) -> (usize, bool) {
        for records in 0..RUN {
            match queue.try_recv() {
                Ok(record) => self.write(record),
                Err(TryRecvError::Empty) => return (records, true),
                Err(TryRecvError::Disconnected) => return (records, false),
            }
        }
        (RUN, true)
    }

    fn finish(mut self, mut queue: Receiver<Record>) -> Result<(), SpoolError> {
        // no new permits; those that exist get a moment
        queue.close();
        let end = self.clock.mono() + GRACE;
        loop {
            let (records, open) = self.drain(&mut queue);
            let now = self.tick();
            if !open || now >= end {
                break;
            }
            if records < RUN {
                std::thread::park_timeout(NAP);
            }
        }
        self.closing = true;
        self.shared.set_gate(Gate::Closed);
        // no new ones can come: this ends
        while self.drain(&mut queue).0 == RUN {}
        for row in self.desk.rest() {
            self.append(&row);
        }
        let permits = queue.max_capacity().saturating_sub(queue.capacity());
        if permits > 0 {
            let detail = "exchanges were open when the gateway stopped".into();
            let first_seq = self.spool.next_seq();
            let gap = self.gap(CAUSE_RESTART, self.boot_id, first_seq, permits as u64, detail);
            self.owe(gap);
        }
        self.tell_missing();
        let result = self.spool.close();
        if let Err(e) = &result {
            tracing::error!(error = %e, "the spool could not be closed in order");
        }
        result
    }

    fn write(&mut self, record: Record) {
        match record {
            Record::Flow(row) => self.append(row.as_ref()),
            Record::Exchange(row, bodies, findings) => {
                RecordStats::add(&self.shared.stats.findings, u64::from(row.findings));
                findings.iter().for_each(|finding| self.append(finding));
                self.write_exchange(*row, bodies);
            }
            Record::Gap(row) => self.append(&row),
            Record::Heartbeat(row) => self.append(row.as_ref()),
            Record::Dns(row) => self.append(row.as_ref()),
            Record::Alarm(alarm) => self.write_alarm(*alarm),
        }
    }

    fn write_alarm(&mut self, alarm: Alarm) {
        if let Some(row) = self.desk.take(alarm, self.clock.wall(), self.clock.mono()) {
            self.append(&row);
        }
    }

    /// Rows of alarms whose time has come.
    fn write_due_alarms(&mut self, now: Instant) {
        let unqueued = self.shared.stats.alarms_unqueued.load(Ordering::Relaxed);
        if unqueued > self.unqueued {
            self.desk.lost(unqueued - self.unqueued, self.clock.wall(), now);
            self.unqueued = unqueued;
        }
        for row in self.desk.due(now) {
            self.append(&row);
        }
    }

    /// Bodies first, so that the exchange can say whether they are there.
    fn write_exchange(&mut self, mut row: ExchangeRow, bodies: Vec<BodyRow>) {
        let mut room = bodies.is_empty() || self.spool.level() == Level::Normal;
        for body in &bodies {
            let bytes = body.body.bytes().len() as u64;
            if room && self.try_append(body).is_ok() {
                continue;
            }
            // a body that is not whole is of no use
            room = false;
            match body.dir {
                1 => row.req_body = BODY_DROPPED,
                _ => row.resp_body = BODY_DROPPED,
            }
            RecordStats::add(&self.shared.stats.bodies_dropped, 1);
            RecordStats::add(&self.shared.stats.body_bytes_dropped, bytes);
        }
        self.append(&row);
    }

    fn try_append<R: Row>(&mut self, row: &R) -> Result<(), SpoolError> {
        self.spool.append(row)?;
        RecordStats::add(&self.shared.stats.rows, 1);
        Ok(())
    }

    /// Appends a row, or remembers that it is missing.
    fn append<R: Row>(&mut self, row: &R) {
        let Err(error) = self.try_append(row) else { return };
        RecordStats::add(&self.shared.stats.lost, 1);
        let bytes = match error {
            SpoolError::TooLarge { bytes } => bytes as u64,
            _ => 0,
        };
        let first_seq = self.spool.next_seq();
        let missing = self.missing.get_or_insert_with(|| {
            tracing::error!(%error, table = R::TABLE.name(), "records are being lost");
            Missing { first_seq, records: 0, bytes: 0, detail: error.to_string() }
        });
        missing.records += 1;
        missing.bytes = missing.bytes.saturating_add(bytes);
        self.publish();
    }

    /// Lets the spool do what is due, and opens or closes the gate.
    fn tick(&mut self) -> Instant {
        let now = self.clock.mono();
        self.write_due_alarms(now);
        let was_failed = self.spool.failure().is_some();
        let result = self.spool.tick(now);
        let failed = self.spool.failure().is_some();
        if let (Err(error), false) = (&result, was_failed) {
            RecordStats::add(&self.shared.stats.spool_failures, 1);
            tracing::error!(%error, "the spool failed; new flows are refused");
        }
        if was_failed && !failed {
            tracing::warn!("the spool works again");
        }
        if let Some(lost) = self.spool.take_lost() {
            let records = (lost.last_seq - lost.first_seq).saturating_add(1);
            RecordStats::add(&self.shared.stats.lost_written, records);
            let detail = "a failed write to the spool swallowed them".into();
            let mut gap = self.gap(CAUSE_SPOOL_FULL, self.boot_id, lost.first_seq, records, detail);
            gap.last_seq = lost.last_seq;
            self.owe(gap);
        }
        if !failed {
            self.pay_owed();
        }
        if !failed && self.spool.level() != Level::Full {
            self.tell_missing();
        }
        self.publish();
        now
    }

    /// Appends a gap row, now or when the spool takes it.
    fn owe(&mut self, gap: GapRow) {
        if self.owed.len() < MAX_OWED {
            self.owed.push_back(gap);
        } else {
            RecordStats::add(&self.shared.stats.lost, 1);
        }
        self.pay_owed();
    }

    fn pay_owed(&mut self) {
        while let Some(gap) = self.owed.pop_front() {
            if self.try_append(&gap).is_err() {
                self.owed.push_front(gap);
                return;
            }
        }
    }

    fn tell_missing(&mut self) {
        let Some(missing) = self.missing.take() else { return };
        let Missing { first_seq, records, ref detail, .. } = missing;
        let mut gap = self.gap(CAUSE_SPOOL_FULL, self.boot_id, first_seq, records, detail.clone());
        gap.bytes = missing.bytes;
        match self.try_append(&gap) {
            Ok(()) => tracing::warn!(records, "records were lost"),
            Err(_still_full) => self.missing = Some(missing),
        }
    }

    fn gap(&self, cause: u8, boot: Uuid, first_seq: u64, records: u64, detail: String) -> GapRow {
        gap(&self.clock, cause, boot, first_seq, records, detail)
    }

    fn publish(&mut self) {
        let is_normal = self.spool.level() == Level::Normal;
        self.shared.no_bodies.store(!is_normal, Ordering::Relaxed);
        let gate = match self.spool.level() {
            _ if self.spool.failure().is_some() => Gate::Failed,
            Level::Full => Gate::Full,
            Level::Normal | Level::NoBodies => Gate::Open,
        };
        if !self.closing && self.shared.set_gate(gate) {
            tracing::warn!(?gate, "reservations changed");
        }
        let stats = &self.shared.stats;
        RecordStats::set(&stats.spool_bytes_now, self.spool.used_bytes());
        RecordStats::set(&stats.synced_seq_now, self.spool.synced_seq());
        let sealed = self.spool.sealed_segments();
        RecordStats::add(&stats.segments_sealed, sealed.saturating_sub(self.sealed));
        self.sealed = sealed;
    }
}

/// What recovery found, as rows.
pub(super) fn recovered_gaps(recovered: Recovered, clock: &SharedClock) -> Vec<GapRow> {
    let cut = recovered.segments.iter().map(|s| s.cut_bytes).sum::<u64>();
    let crashed = recovered.crashed.into_iter().map(|Crash { boot_id, last_seq }| {
        let first_seq = last_seq.map_or(0, |last| last.saturating_add(1));
        tracing::warn!(%boot_id, first_seq, cut, "a gateway did not end in order");
        let detail = "the gateway did not end in order; later records may be missing".into();
        gap(clock, CAUSE_CRASH, boot_id, first_seq, 0, detail)
    });
    let aside = recovered.quarantined.into_iter().map(|aside| {
        let number = aside.number;
        tracing::error!(number, reason = aside.reason, "a segment could not be read");
        let detail = format!("segment {number} could not be read: {}", aside.reason);
        gap(clock, CAUSE_QUARANTINE, Uuid::nil(), 0, 0, detail)
    });
    crashed.chain(aside).collect()
}

fn gap(
    clock: &SharedClock,
    cause: u8,
    boot: Uuid,
    first_seq: u64,
    records: u64,
    detail: String,
) -> GapRow {
    GapRow {
        ts: clock.wall().0,
        cause,
        gap_boot_id: boot,
        first_seq,
        last_seq: 0,
        records,
        bytes: 0,
        detail,
    }
}

/// Waits for the queue, the end, or the time to look after the spool.
async fn wait(queue: &mut Receiver<Record>, stop: &Stop) -> Option<Record> {
    tokio::select! {
        biased;
        record = queue.recv() => record,
        () = stop.wake.notified() => None,
        () = tokio::time::sleep(IDLE_WAIT) => None,
    }
}

/// Closes the gate when the thread ends, also by a panic.
struct CloseGate(Arc<Shared>);

impl Drop for CloseGate {
    fn drop(&mut self) {
        self.0.set_gate(Gate::Closed);
    }
}
