//! One request: policy, upstream, response; recorded from head to last byte.
//!
//! - input: a parsed request of a permitted flow
//! - output: a response, upstream's or weir's own
//! - bound: one recorder slot; bodies stream through, or are judged as a whole
//! - on failure: an HTTP status with the request id, and the outcome in the row

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use uuid::Uuid;

use self::response::Asked;
use self::row::proto;
use self::upstream::{Lease, send};
use self::whole::WholeError;
use super::HttpFlow;
use crate::error::{Fault, Faulty};
use crate::forward::ForwardError;
use crate::http::body::ResponseBody;
use crate::http::{HttpError, framing, head, respond};
use crate::inspect::{Refused, mask};
use crate::policy::Denied;
use crate::record::exchange::OpenExchange;
use crate::tls::Protocol;

mod request;
mod response;
mod row;
mod switch;
mod upstream;
mod whole;

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Whole(#[from] WholeError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// An answer that the client does not get.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("upstream's answer is refused: {0}")]
    Refused(Refused),
    #[error("upstream's answer is refused: {0}")]
    Whole(WholeError),
    #[error("upstream's answer is refused: it is a part of a body, which cannot be inspected")]
    Partial,
}

impl Faulty for AnswerError {
    fn fault(&self) -> Fault {
        match self {
            Self::Whole(WholeError::NoMemory) => Fault::Capacity,
            Self::Refused(_) | Self::Whole(_) | Self::Partial => Fault::Policy,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Whole(WholeError::NoMemory) => "inspect_memory",
            Self::Refused(_) | Self::Whole(_) | Self::Partial => "answer_refused",
        }
    }
}

impl ExchangeError {
    fn faulty(&self) -> &dyn Faulty {
        match self {
            Self::Http(e) => e,
            Self::Denied(e) => e,
            Self::Forward(e) => e,
            Self::Refused(e) => e,
            Self::Whole(e) => e,
            Self::Answer(e) => e,
        }
    }

    fn is_identity(&self) -> bool {
        matches!(self, Self::Denied(denied) if denied.is_identity())
    }

    fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Denied(denied) => Some(denied.rule()),
            Self::Refused(refused) | Self::Answer(AnswerError::Refused(refused)) => {
                Some(refused.rule())
            }
            Self::Whole(_) | Self::Answer(_) => Some("inspect.max_body"),
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
    let recorder = shared.recorder.clone();
    let (metrics, max) = (Arc::clone(&shared.metrics), shared.config.record.max_body_bytes);
    let looking = shared.inspection.look(&http.flow.scope, &http.name);
    let stop = shared.shutdown.clone();
    let exchange = OpenExchange::begin(row, permit, recorder, looking, metrics, max, stop);
    exchange.request_head(request.headers(), mask::headers(&http.flow.lens(), request.headers()));
    match Box::pin(forward(&http, &exchange, request)).await {
        Ok(response) => response,
        Err(error) => {
            let faulty = error.faulty();
            exchange.failed(faulty);
            let hint = if error.is_identity() { http.flow.login_hint().await } else { None };
            let mut response = respond::explain(faulty, error.rule(), hint.as_deref(), id);
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

    let looking = worker.shared.inspection.look(&http.flow.scope, &host);
    exchange.looked_at_by(&looking);
    let (up, down) = (looking.request(), looking.response());
    let wants_upgrade = head::wants_upgrade(&parts) && switch::ask(&mut parts, &looking);
    let upgrade = wants_upgrade.then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    head::strip_hop_by_hop(&mut parts.headers, upgrade.is_some());
    if down.changes() {
        framing::ask_readable(&mut parts.headers);
    }

    let lease = Lease::new(http);
    let body =
        Box::pin(request::prepare(http, exchange, &looking, &lease, &mut parts, body)).await?;
    let (sender, used) = Box::pin(worker.pool.sender(&http.permit, &http.key)).await?;
    exchange.edit(|row| row.upstream_proto = proto(sender.protocol()));
    let asked = Asked { method: parts.method.clone(), path: parts.uri.path().to_owned() };
    head::for_upstream(&mut parts, &authority, sender.protocol(), http.scheme)?;
    let request = Request::from_parts(parts, body);
    let (sender, response) = match send(http, sender, used, request).await {
        Ok(answered) => answered,
        // What broke off was the request, because of what was found in it.
        Err(_unsent) if up.is_refused() => return Err(up.refused().into()),
        Err(unsent) => return Err(unsent),
    };
    let masked = mask::headers(&http.flow.lens(), response.headers());
    exchange.response_head(response.status().as_u16(), response.headers(), masked);
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
        return Ok(switch::switch(http, exchange, &looking, response, client)?);
    }
    lease.fill(sender);
    Box::pin(response::relay(http, exchange, lease, &down, &asked, response)).await
}
