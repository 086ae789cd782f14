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

use super::masking::{Job, KeptBody};
use super::row::ExchangeRow;
use super::{BodyBudget, BodyLease, RecordPermit, Recorder};
use crate::error::{Fault, Faulty};
use crate::http::body::{BodyError, Observer};
use crate::inspect::judge::{Direction, Looking};
use crate::inspect::mask::Masked;
use crate::limits::MAX_CHUNK_MARKS;
use crate::telemetry::Metrics;

/// An open exchange. Clones share it.
#[derive(Clone)]
pub struct OpenExchange(Rc<Inner>);

struct Inner {
    row: RefCell<Box<ExchangeRow>>,
    request: RefCell<BodyTrack>,
    response: RefCell<BodyTrack>,
    permit: Cell<Option<RecordPermit>>,
    recorder: Recorder,
    /// Who looks for secrets in it.
    looking: RefCell<Looking>,
    metrics: Arc<Metrics>,
    max_body_bytes: usize,
    stopping: CancellationToken,
    started: Instant,
    /// When the response head came; chunk marks count from here.
    answered: Cell<Option<Instant>>,
    /// The client has not got all of an answer that upstream has sent.
    undelivered: Cell<bool>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kept {
    #[default]
    None = 0,
    Full = 1,
    Truncated = 2,
    Dropped = 3,
    Unmaskable = 4,
}

impl OpenExchange {
    /// Begins an exchange whose row names are already known. `stopping` tells an exchange that the
    /// drain deadline cuts from one that the client leaves.
    pub fn begin(
        row: ExchangeRow,
        permit: RecordPermit,
        recorder: Recorder,
        looking: Looking,
        metrics: Arc<Metrics>,
        max_body_bytes: usize,
        stopping: CancellationToken,
    ) -> Self {
        Self(Rc::new(Inner {
            row: RefCell::new(Box::new(row)),
            request: RefCell::default(),
            response: RefCell::default(),
            permit: Cell::new(Some(permit)),
            recorder,
            looking: RefCell::new(looking),
            metrics,
            max_body_bytes,
            stopping,
            started: Instant::now(),
            answered: Cell::new(None),
            undelivered: Cell::new(false),
        }))
    }

    /// Changes the row.
    pub fn edit(&self, change: impl FnOnce(&mut ExchangeRow)) {
        change(&mut self.0.row.borrow_mut());
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

    /// Notes who looks for secrets in it, now that its host is known.
    pub fn looked_at_by(&self, looking: &Looking) {
        self.0.looking.replace(looking.clone());
    }

    /// What is kept of a body from now on has no content encoding any more.
    pub fn decoded(&self, direction: Direction) {
        self.track(direction).borrow_mut().content_encoding.clear();
    }

    /// Whether both bodies came to their end.
    pub fn both_ended(&self) -> bool {
        self.0.request.borrow().ended && self.0.response.borrow().ended
    }

    /// An observer of one body: counts, hashes and keeps it. `on_end` runs when that body has ended.
    pub fn observer(&self, direction: Direction, on_end: impl Fn() + 'static) -> Rc<dyn Observer> {
        Rc::new(Tap { exchange: self.clone(), direction, keeps: true, on_end })
    }

    /// The same, but what is kept of the body comes by [`OpenExchange::keep`].
    pub fn counter(&self, direction: Direction, on_end: impl Fn() + 'static) -> Rc<dyn Observer> {
        Rc::new(Tap { exchange: self.clone(), direction, keeps: false, on_end })
    }

    /// An observer of what the client gets of an answer that upstream may have sent long before.
    pub fn delivery(&self) -> Rc<dyn Observer> {
        self.0.undelivered.set(true);
        Rc::new(Delivery(self.clone()))
    }

    /// Keeps a piece of a body, as far as there is room.
    pub fn keep(&self, direction: Direction, piece: &[u8]) {
        let inner = &self.0;
        let mut track = self.track(direction).borrow_mut();
        track.keep(piece, inner.max_body_bytes, inner.recorder.body_budget());
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
    keeps: bool,
    on_end: F,
}

impl<F: Fn()> Observer for Tap<F> {
    fn data(&self, chunk: &Bytes) {
        let inner = &self.exchange.0;
        let mut track = self.exchange.track(self.direction).borrow_mut();
        track.count(chunk);
        if self.keeps {
            track.keep(chunk, inner.max_body_bytes, inner.recorder.body_budget());
        }
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

    fn failed(&self, error: &BodyError) {
        self.exchange.failed(&match self.direction {
            Direction::Request => Cut::Request(error.to_string()),
            Direction::Response => Cut::Response(error.to_string()),
        });
    }
}

struct Delivery(OpenExchange);

impl Observer for Delivery {
    fn data(&self, _: &Bytes) {}

    fn ended(&self) {
        self.0.0.undelivered.set(false);
    }

    fn failed(&self, error: &BodyError) {
        self.0.failed(&Cut::Response(error.to_string()));
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

    fn count(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.digest.get_or_insert_with(|| Context::new(&SHA256)).update(chunk);
    }

    fn keep(&mut self, chunk: &[u8], max: usize, budget: &BodyBudget) {
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

    fn kept(&mut self, direction: Direction) -> Option<KeptBody> {
        Some(KeptBody {
            direction,
            lease: self.lease.take()?,
            data: std::mem::take(&mut self.kept),
            content_type: std::mem::take(&mut self.content_type),
            content_encoding: std::mem::take(&mut self.content_encoding),
            is_whole: self.state == Kept::Full && self.ended,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut request = self.request.borrow_mut();
        let mut response = self.response.borrow_mut();
        let mut row = self.row.borrow().clone();
        if row.outcome == OK && (!response.ended || self.undelivered.get()) {
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
        let looking = self.looking.borrow().clone();
        let bodies = [request.kept(Direction::Request), response.kept(Direction::Response)];
        let bodies = bodies.into_iter().flatten().collect();
        self.recorder.finished(Job { permit, row, bodies, looking });
    }
}
