//! One exchange while it happens: collects what the row needs and sends it when the last handle
//! goes, however the exchange ends.
//!
//! - input: heads and body pieces as they pass
//! - output: one [`Record::Exchange`]
//! - bound: `record.max_body` per body out of the recorder's memory budget;
//!   `limits::MAX_CHUNK_MARKS` timestamps
//! - on failure: cannot fail; a body that finds no memory is counted as dropped

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use super::row::{BodyRow, ExchangeRow, FindingRow};
use super::{BodyBudget, BodyLease, Record, RecordPermit};
use crate::error::{Fault, Faulty};
use crate::http::body::Observer;
use crate::inspect::findings::{Action, Findings};
use crate::inspect::mask::{self, Masked};
use crate::limits::MAX_CHUNK_MARKS;
use crate::telemetry::Metrics;

/// Which of the two bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// An open exchange. Clones share it.
#[derive(Clone)]
pub struct OpenExchange(Rc<Inner>);

struct Inner {
    row: RefCell<Box<ExchangeRow>>,
    request: RefCell<BodyTrack>,
    response: RefCell<BodyTrack>,
    permit: Cell<Option<RecordPermit>>,
    findings: RefCell<Findings>,
    budget: BodyBudget,
    metrics: Arc<Metrics>,
    max_body_bytes: usize,
    stopping: CancellationToken,
    started: Instant,
    /// When the response head came; chunk marks count from here.
    answered: Cell<Option<Instant>>,
}

#[derive(Default)]
struct BodyTrack {
    bytes: u64,
    digest: Option<Context>,
    kept: Vec<u8>,
    lease: Option<BodyLease>,
    state: Kept,
    ended: bool,
    content_type: String,
    content_encoding: String,
    /// Only for streams: bodies whose length nobody announced.
    marks: Option<Marks>,
}

#[derive(Default)]
struct Marks {
    us: Vec<u64>,
    bytes: Vec<u64>,
}

/// Values of `req_body` and `resp_body`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kept {
    #[default]
    None = 0,
    Full = 1,
    Truncated = 2,
    Dropped = 3,
}

/// Pieces that a recorded body is cut into, so that no row is huge.
const PIECE_BYTES: usize = 1024 * 1024;

impl OpenExchange {
    /// Begins an exchange whose row names are already known. `stopping` tells an exchange that the
    /// drain deadline cuts from one that the client leaves.
    pub fn begin(
        row: ExchangeRow,
        permit: RecordPermit,
        budget: BodyBudget,
        metrics: Arc<Metrics>,
        max_body_bytes: usize,
        stopping: CancellationToken,
    ) -> Self {
        Self(Rc::new(Inner {
            row: RefCell::new(Box::new(row)),
            request: RefCell::default(),
            response: RefCell::default(),
            permit: Cell::new(Some(permit)),
            findings: RefCell::default(),
            budget,
            metrics,
            max_body_bytes,
            stopping,
            started: Instant::now(),
            answered: Cell::new(None),
        }))
    }

    /// Changes the row.
    pub fn edit(&self, change: impl FnOnce(&mut ExchangeRow)) {
        change(&mut self.0.row.borrow_mut());
    }

    /// Secrets that are found until it ends.
    pub fn findings(&self, findings: Findings) {
        *self.0.findings.borrow_mut() = findings;
    }

    /// Notes the request head.
    pub fn request_head(&self, headers: &HeaderMap, masked: Masked<Vec<(String, String)>>) {
        self.0.request.borrow_mut().describe(headers);
        self.edit(|row| row.req_headers = masked.into_inner());
    }

    /// Notes the response head: the moment that chunk marks count from.
    pub fn response_head(
        &self,
        status: u16,
        headers: &HeaderMap,
        masked: Masked<Vec<(String, String)>>,
    ) {
        let now = Instant::now();
        self.0.answered.set(Some(now));
        let mut response = self.0.response.borrow_mut();
        response.describe(headers);
        if !headers.contains_key(header::CONTENT_LENGTH) {
            response.marks = Some(Marks::default());
        }
        self.edit(|row| {
            row.status = status;
            row.ttfb_us = micros(self.0.started, now);
            row.resp_headers = masked.into_inner();
        });
    }

    /// Notes and counts a failure; the first one stays.
    pub fn failed(&self, error: &dyn Faulty) {
        self.edit(|row| {
            if row.outcome != OK {
                return;
            }
            self.0.metrics.failed(error);
            row.outcome = error.outcome();
            row.fault = error.fault().as_str();
            row.detail = error.to_string();
            row.decision = if error.fault() == Fault::Policy { DENY } else { ERROR };
        });
    }

    /// Whether both bodies came to their end.
    pub fn both_ended(&self) -> bool {
        self.0.request.borrow().ended && self.0.response.borrow().ended
    }

    /// An observer of one body. `on_end` runs when that body has ended.
    pub fn observer(&self, direction: Direction, on_end: impl Fn() + 'static) -> Rc<dyn Observer> {
        Rc::new(Tap { exchange: self.clone(), direction, on_end })
    }

    /// Counts bytes of an upgraded connection, which have no body of their own.
    pub fn tunnelled(&self, up: u64, down: u64) {
        self.0.request.borrow_mut().bytes = up;
        self.0.response.borrow_mut().bytes = down;
        self.0.request.borrow_mut().ended = true;
        self.0.response.borrow_mut().ended = true;
    }

    fn track(&self, direction: Direction) -> &RefCell<BodyTrack> {
        match direction {
            Direction::Request => &self.0.request,
            Direction::Response => &self.0.response,
        }
    }
}

/// Outcome of an exchange that nothing went wrong with.
pub const OK: &str = "ok";
/// `decision` values.
pub const ALLOW: u8 = 1;
const DENY: u8 = 2;
const ERROR: u8 = 6;

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

struct Tap<F> {
    exchange: OpenExchange,
    direction: Direction,
    on_end: F,
}

impl<F: Fn()> Observer for Tap<F> {
    fn data(&self, chunk: &Bytes) {
        let inner = &self.exchange.0;
        let mut track = self.exchange.track(self.direction).borrow_mut();
        track.take(chunk, inner.max_body_bytes, &inner.budget);
        // An empty frame only carries the end of an HTTP/2 stream.
        if chunk.is_empty() {
            return;
        }
        if let (Some(marks), Some(answered)) = (&mut track.marks, inner.answered.get()) {
            marks.note(micros(answered, Instant::now()), chunk.len() as u64);
        }
    }

    fn ended(&self) {
        self.exchange.track(self.direction).borrow_mut().ended = true;
        (self.on_end)();
    }

    fn failed(&self, error: &hyper::Error) {
        self.exchange.failed(&match self.direction {
            Direction::Request => Cut::Request(error.to_string()),
            Direction::Response => Cut::Response(error.to_string()),
        });
    }
}

/// A body that did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("request body broke off: {0}")]
    Request(String),
    #[error("response body broke off: {0}")]
    Response(String),
    #[error("client went away before the response ended")]
    Abandoned,
    #[error("the gateway stopped before the response ended")]
    Stopped,
    #[error("the exchange panicked")]
    Panicked,
}

impl Faulty for Cut {
    fn fault(&self) -> Fault {
        match self {
            Self::Request(_) | Self::Abandoned => Fault::Downstream,
            Self::Response(_) => Fault::Upstream,
            Self::Stopped | Self::Panicked => Fault::Internal,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Request(_) => "request_cut",
            Self::Response(_) => "response_cut",
            Self::Abandoned => "client_closed",
            Self::Stopped => "gateway_stopped",
            Self::Panicked => "panic",
        }
    }
}

impl Marks {
    fn note(&mut self, at_us: u64, bytes: u64) {
        if self.us.len() < MAX_CHUNK_MARKS {
            self.us.push(at_us);
            self.bytes.push(bytes);
        } else if let Some(last) = self.bytes.last_mut() {
            *last += bytes;
        }
    }
}

impl BodyTrack {
    fn describe(&mut self, headers: &HeaderMap) {
        let text =
            |name| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        self.content_type = text(header::CONTENT_TYPE).unwrap_or_default();
        self.content_encoding = text(header::CONTENT_ENCODING).unwrap_or_default();
    }

    fn take(&mut self, chunk: &Bytes, max: usize, budget: &BodyBudget) {
        self.bytes += chunk.len() as u64;
        self.digest.get_or_insert_with(|| Context::new(&SHA256)).update(chunk);
        if max == 0 || matches!(self.state, Kept::Truncated | Kept::Dropped) || chunk.is_empty() {
            return;
        }
        let room = max - self.kept.len();
        let part = chunk.get(..room.min(chunk.len())).unwrap_or_default();
        let granted = match &mut self.lease {
            Some(lease) => lease.grow(part.len()),
            None => {
                self.lease = budget.try_take(part.len());
                self.lease.is_some()
            }
        };
        if !granted {
            self.state = Kept::Dropped;
            self.kept = Vec::new();
            self.lease = None;
            return;
        }
        self.kept.extend_from_slice(part);
        self.state = if part.len() < chunk.len() { Kept::Truncated } else { Kept::Full };
    }

    /// The digest of a body that ended, all zero of one that did not.
    fn sha256(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        if self.ended {
            let digest = self.digest.take().unwrap_or_else(|| Context::new(&SHA256)).finish();
            out.copy_from_slice(digest.as_ref().get(..32).unwrap_or(&[0; 32]));
        }
        out
    }

    fn pieces(&mut self, row: &ExchangeRow, dir: u8) -> Vec<BodyRow> {
        let Some(lease) = self.lease.take() else { return Vec::new() };
        let body = mask::body(lease.attach(std::mem::take(&mut self.kept))).into_inner();
        let chunks = body.len().div_ceil(PIECE_BYTES);
        let piece = |chunk: usize| {
            let from = chunk * PIECE_BYTES;
            BodyRow {
                ts: row.ts,
                exchange_id: row.exchange_id,
                session_id: row.session_id,
                job_id: Arc::clone(&row.job_id),
                dir,
                chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
                chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
                content_type: self.content_type.clone(),
                content_encoding: self.content_encoding.clone(),
                body: body.slice(from..body.len().min(from + PIECE_BYTES)),
            }
        };
        (0..chunks).map(piece).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut request = self.request.borrow_mut();
        let mut response = self.response.borrow_mut();
        let mut row = self.row.borrow().clone();
        if row.outcome == OK && !response.ended {
            let cut = match self.stopping.is_cancelled() {
                _ if std::thread::panicking() => Cut::Panicked,
                true => Cut::Stopped,
                false => Cut::Abandoned,
            };
            self.metrics.failed(&cut);
            row.outcome = cut.outcome();
            row.fault = cut.fault().as_str();
            row.detail = cut.to_string();
        }
        row.req_bytes = request.bytes;
        row.resp_bytes = response.bytes;
        row.dur_us = micros(self.started, Instant::now());
        row.req_sha256 = request.sha256();
        row.resp_sha256 = response.sha256();
        row.req_body = request.state as u8;
        row.resp_body = response.state as u8;
        if let Some(marks) = response.marks.take() {
            row.chunk_us = marks.us;
            row.chunk_bytes = marks.bytes;
        }
        let mut bodies = request.pieces(&row, 1);
        bodies.extend(response.pieces(&row, 2));
        let found = self.findings.borrow().take();
        row.findings = found.count;
        row.finding_action = found.action.map_or("", Action::as_str);
        let findings = found.all.into_iter().map(|one| FindingRow::of(&row, one)).collect();
        permit.send(Record::Exchange(row, bodies, findings));
    }
}
