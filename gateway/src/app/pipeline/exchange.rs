//! One request: policy, upstream, response; recorded from head to last byte.
//!
//! - input: a parsed request of a permitted flow
//! - output: a response, upstream's or weir's own
//! - bound: one recorder slot; bodies stream through
//! - on failure: an HTTP status with the request id, and the outcome in the row

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use uuid::Uuid;

use self::row::proto;
use self::upstream::{Lease, send};
use super::HttpFlow;
use crate::error::Faulty;
use crate::forward::ForwardError;
use crate::http::body::{Live, Observed, RequestBody, ResponseBody};
use crate::http::{HttpError, head, respond};
use crate::inspect::mask;
use crate::policy::Denied;
use crate::record::exchange::{Direction, OpenExchange};
use crate::tls::Protocol;

mod row;
mod switch;
mod upstream;

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl ExchangeError {
    fn faulty(&self) -> &dyn Faulty {
        match self {
            Self::Http(e) => e,
            Self::Denied(e) => e,
            Self::Forward(e) => e,
        }
    }

    fn is_identity(&self) -> bool {
        matches!(self, Self::Denied(denied) if denied.is_identity())
    }

    fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Denied(denied) => Some(denied.rule()),
            Self::Http(_) | Self::Forward(_) => None,
        }
    }
}

/// Answers one request.
pub(super) async fn handle(
    http: Rc<HttpFlow>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let shared = &http.flow.worker.shared;
    shared.metrics.exchanges_total.inc();
    http.finished_asking();
    let id = Uuid::now_v7();
    let permit = match shared.recorder.reserve().await {
        Ok(permit) => permit,
        Err(error) => {
            // What cannot be recorded does not happen.
            shared.metrics.failed(&error);
            return respond::refuse(&error, None, id);
        }
    };
    http.flow.record.edit(|row| row.exchanges += 1);
    let row = row::row(&http, &request, id);
    let budget = shared.recorder.body_budget().clone();
    let (metrics, max) = (Arc::clone(&shared.metrics), shared.config.record.max_body_bytes);
    let exchange = OpenExchange::begin(row, permit, budget, metrics, max, shared.shutdown.clone());
    exchange.request_head(request.headers(), mask::headers(request.headers()));
    match Box::pin(forward(&http, &exchange, request)).await {
        Ok(response) => response,
        Err(error) => {
            let faulty = error.faulty();
            exchange.failed(faulty);
            let mut response = respond::refuse(faulty, error.rule(), id);
            let unclear = response.status() == StatusCode::BAD_REQUEST;
            if (unclear || error.is_identity()) && http.downstream == Protocol::H1 {
                // What follows may be the rest of what was not understood; or come after a login,
                // which new connections see.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let rule = error.rule().unwrap_or_default();
            exchange.edit(|row| {
                row.status = response.status().as_u16();
                rule.clone_into(&mut row.rule_id);
            });
            response
        }
    }
}

async fn forward(
    http: &Rc<HttpFlow>,
    exchange: &OpenExchange,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ExchangeError> {
    let (mut parts, body) = request.into_parts();
    let authority = head::authority(&parts)?;
    let host = head::host_of(&authority);
    exchange.edit(|row| row.dst_host = host.as_str().into());
    if parts.method == Method::CONNECT {
        return Err(HttpError::Connect.into());
    }
    let worker = &http.flow.worker;
    let port = http.key.dst.0.port();
    let engine = &worker.shared.engine;
    engine.request(&http.permit, &http.name, port, &host, authority.port_u16())?;
    // Again with every request: jobs end and tokens expire while connections are open.
    http.flow.vouched((http.scheme == "https").then_some(host.as_str()))?;

    let upgrade =
        head::wants_upgrade(&parts).then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    head::strip_hop_by_hop(&mut parts.headers, upgrade.is_some());

    let lease = Lease::new(http);
    let body = Observed::new(Live(body), {
        let (lease, ended) = (Rc::clone(&lease), exchange.clone());
        exchange.observer(Direction::Request, move || {
            lease.http().finished_asking();
            lease.release(&ended);
        })
    });
    let (sender, used) = Box::pin(worker.pool.sender(&http.permit, &http.key)).await?;
    exchange.edit(|row| row.upstream_proto = proto(sender.protocol()));
    head::for_upstream(&mut parts, &authority, sender.protocol(), http.scheme)?;
    let request = Request::from_parts(parts, RequestBody::Live(body));
    let (sender, response) = send(http, sender, used, request).await?;
    let masked = mask::headers(response.headers());
    exchange.response_head(response.status().as_u16(), response.headers(), masked);
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
        return Ok(switch::switch(http, exchange, response, client));
    }
    lease.fill(sender);
    Ok(relay(http, exchange, lease, response))
}

/// Passes upstream's response on, its body as it comes.
fn relay(
    http: &HttpFlow,
    exchange: &OpenExchange,
    lease: Rc<Lease>,
    response: Response<Incoming>,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    head::strip_hop_by_hop(&mut parts.headers, false);
    parts.version = match http.downstream {
        Protocol::H1 => Version::HTTP_11,
        Protocol::H2 => Version::HTTP_2,
    };
    let observer = {
        let ended = exchange.clone();
        exchange.observer(Direction::Response, move || lease.release(&ended))
    };
    Response::from_parts(parts, ResponseBody::Live(Observed::new(Live(body), observer)))
}
