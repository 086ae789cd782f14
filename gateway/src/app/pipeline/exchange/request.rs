//! A request on its way up: what leaves of its head and body, and when.
//!
//! - input: a request, and who looks for secrets in it
//! - output: the head and body that upstream gets
//! - bound: a body that is judged as a whole: see [`whole`]
//! - on failure: [`ExchangeError`]; nothing that was not judged has left

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body as _;
use hyper::body::Incoming;

use super::super::HttpFlow;
use super::ExchangeError;
use super::upstream::Lease;
use super::whole::{self, Read, WholeError};
use crate::config::inspect::Mode;
use crate::http::body::{BodyError, Filtered, Live, Observed, Observer, RequestBody, Whole};
use crate::http::{HttpError, framing};
use crate::inspect::judge::{Direction, Looking, Plan};
use crate::inspect::refused::Refused;
use crate::inspect::transform::{Passing, Watcher};
use crate::inspect::{body, rewrite, signed};
use crate::record::exchange::OpenExchange;

/// Judges a request. What it may ask for in answer is corrected, too.
pub(super) async fn prepare(
    http: &HttpFlow,
    exchange: &OpenExchange,
    looking: &Looking,
    lease: &Rc<Lease>,
    parts: &mut Parts,
    incoming: Incoming,
) -> Result<RequestBody, ExchangeError> {
    let side = &looking.request();
    let signed = signed::signed(parts);
    let plan = side.plan();
    if plan == Plan::Output && rewrite::request(side, parts)? && signed.is_some() {
        return Err(side.cannot_be_changed().into());
    }
    looking.request_head(&parts.headers, &parts.uri)?;
    let observer = observer(exchange, lease);
    let live = Live(incoming);
    if live.is_end_stream() || plan == Plan::Original {
        return Ok(RequestBody::Live(Observed::new(live, observer)));
    }
    if plan == Plan::Held && side.mode() == Mode::Detect {
        let guard = Passing::guarded(side.clone(), Refusing(exchange.clone()));
        let filtered = Filtered::new(live, Box::new(guard));
        return Ok(RequestBody::Filtered(Observed::new(filtered, observer)));
    }
    let budget = &http.flow.worker.shared.inspect_budget;
    let read = whole::read(live, side.max_body_bytes(), budget).await.map_err(unread)?;
    let judged = body::request(side, &parts.headers, read.data).await.map_err(|stopped| {
        // What was refused is recorded all the same, masked.
        exchange.keep(Direction::Request, &stopped.data);
        stopped.why
    })?;
    let mut trailers = read.trailers;
    if let Some(trailers) = &mut trailers {
        rewrite::trailers(looking, trailers)?;
    }
    if judged.is_changed {
        if signed.is_some() {
            exchange.keep(Direction::Request, &judged.data);
            return Err(side.cannot_be_changed().into());
        }
        let length = trailers.is_none().then_some(judged.data.len() as u64);
        framing::changed(&mut parts.headers, length);
    }
    framing::sent_whole(&mut parts.headers);
    let (data, trailers) = Read { data: judged.data, trailers, lease: read.lease }.into_bytes();
    Ok(RequestBody::Whole(Observed::new(Whole::new(data, trailers), observer)))
}

fn observer(exchange: &OpenExchange, lease: &Rc<Lease>) -> Rc<dyn Observer> {
    let (lease, ended) = (Rc::clone(lease), exchange.clone());
    exchange.observer(Direction::Request, move || {
        lease.http().finished_asking();
        lease.release(&ended);
    })
}

fn unread(error: WholeError) -> ExchangeError {
    match error {
        WholeError::Broken(BodyError::Peer(error)) => HttpError::Body(error).into(),
        other => other.into(),
    }
}

/// Notes a refusal in the row, before the broken body does.
pub(super) struct Refusing(pub(super) OpenExchange);

impl Watcher for Refusing {
    fn judged(&self, _: &Bytes) {}

    fn refused(&self, why: &Refused) {
        self.0.failed(why);
    }
}
