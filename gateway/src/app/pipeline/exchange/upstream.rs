//! The upstream side of an exchange: sends the request, holds the connection.
//!
//! - input: a request whose head is upstream's
//! - output: the response head; a [`Lease`] that gives the connection back
//! - bound: one retry, on a connection that was used before
//! - on failure: [`ExchangeError`], with whose doing it was

use std::cell::Cell;
use std::rc::Rc;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;

use super::super::HttpFlow;
use super::ExchangeError;
use crate::forward::ForwardError;
use crate::forward::pool::{Key, Sender};
use crate::http::HttpError;
use crate::http::body::RequestBody;
use crate::record::exchange::OpenExchange;

/// Tells a request body that broke off, which hyper calls the user's error, from upstream's doing.
fn unsent(error: hyper::Error) -> ExchangeError {
    if error.is_user() { HttpError::Body(error).into() } else { ForwardError::Http(error).into() }
}

/// Sends a request; on a pooled connection that upstream closed meanwhile, once more on a new one
/// where that is safe: when nothing of it was sent, or when it is a safe method without a body
/// (RFC 9110 section 9.2.2).
pub(super) async fn send(
    http: &HttpFlow,
    mut sender: Sender,
    used: bool,
    request: Request<RequestBody>,
) -> Result<(Sender, Response<Incoming>), ExchangeError> {
    let copy = if used { repeatable(&request) } else { None };
    let failed = match sender.send(request).await {
        Ok(response) => return Ok((sender, response)),
        Err(failed) => failed,
    };
    let broke_off = !failed.error.is_parse() && !failed.error.is_user();
    let again = failed.request.or(copy).filter(|_| used && broke_off);
    let Some(request) = again else { return Err(unsent(failed.error)) };
    tracing::debug!(error = %failed.error, "pooled connection was closed");
    let worker = &http.flow.worker;
    worker.shared.metrics.upstream_retried_total.inc();
    let mut sender = Box::pin(worker.pool.open(&http.permit, &http.key)).await?;
    match sender.send(request).await {
        Ok(response) => Ok((sender, response)),
        Err(failed) => Err(unsent(failed.error)),
    }
}

fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Holds an upstream connection until both bodies have ended, then gives it back to the pool.
/// An exchange that breaks off drops it, which closes an HTTP/1 connection.
pub(super) struct Lease {
    http: Rc<HttpFlow>,
    sender: Cell<Option<Sender>>,
}

impl Lease {
    pub(super) fn new(http: &Rc<HttpFlow>) -> Rc<Self> {
        Rc::new(Self { http: Rc::clone(http), sender: Cell::new(None) })
    }

    pub(super) fn http(&self) -> &HttpFlow {
        &self.http
    }

    pub(super) fn fill(&self, sender: Sender) {
        self.sender.set(Some(sender));
    }

    pub(super) fn release(&self, exchange: &OpenExchange) {
        if !exchange.both_ended() {
            return;
        }
        if let Some(sender) = self.sender.take() {
            let key: &Key = &self.http.key;
            self.http.flow.worker.pool.give_back(key, sender);
        }
    }
}
