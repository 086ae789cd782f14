//! One request: policy, upstream, response; recorded from head to last byte.
//!
//! - input: a parsed request of a permitted flow
//! - output: a response, upstream's or weir's own
//! - bound: one recorder slot; bodies stream through
//! - on failure: an HTTP status with the request id, and the outcome in the row

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use uuid::Uuid;

use super::HttpFlow;
use crate::error::Faulty;
use crate::forward::ForwardError;
use crate::forward::pool::{Key, Sender};
use crate::forward::tunnel::{self, Moved};
use crate::http::body::{Observed, RequestBody, ResponseBody};
use crate::http::{HttpError, head, respond};
use crate::inspect::mask;
use crate::policy::Denied;
use crate::record::exchange::{ALLOW, Direction, OK, OpenExchange};
use crate::record::flow::mapped;
use crate::record::row::ExchangeRow;
use crate::tls::Protocol;

/// `class` values of the record.
const HTTP: u8 = 1;
const TUNNEL: u8 = 5;

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
    let row = row(&http, &request, id);
    let budget = shared.recorder.body_budget().clone();
    let (metrics, max) = (Arc::clone(&shared.metrics), shared.config.record.max_body_bytes);
    let exchange = OpenExchange::begin(row, permit, budget, metrics, max, shared.shutdown.clone());
    exchange.request_head(request.headers(), mask::headers(request.headers()));
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

    let upgrade =
        head::wants_upgrade(&parts).then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    head::strip_hop_by_hop(&mut parts.headers, upgrade.is_some());

    let lease = Rc::new(Lease { http: Rc::clone(http), sender: Cell::new(None) });
    let body = Observed::new(body, {
        let (lease, ended) = (Rc::clone(&lease), exchange.clone());
        exchange.observer(Direction::Request, move || {
            lease.http.finished_asking();
            lease.release(&ended);
        })
    });
    let (sender, used) = Box::pin(worker.pool.sender(&http.permit, &http.key)).await?;
    exchange.edit(|row| row.upstream_proto = proto(sender.protocol()));
    head::for_upstream(&mut parts, &authority, sender.protocol(), http.scheme)?;
    let request = Request::from_parts(parts, RequestBody::Downstream(body));
    let (sender, response) = send(http, sender, used, request).await?;
    let masked = mask::headers(response.headers());
    exchange.response_head(response.status().as_u16(), response.headers(), masked);
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
        return Ok(switch(http, exchange, response, client));
    }
    lease.fill(sender);
    Ok(relay(http, exchange, lease, response))
}

/// Tells a request body that broke off, which hyper calls the user's error, from upstream's doing.
fn unsent(error: hyper::Error) -> ExchangeError {
    if error.is_user() { HttpError::Body(error).into() } else { ForwardError::Http(error).into() }
}

/// Sends a request; on a pooled connection that upstream closed meanwhile, once more on a new one
/// where that is safe: when nothing of it was sent, or when it is a safe method without a body
/// (RFC 9110 section 9.2.2).
async fn send(
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
    Response::from_parts(parts, ResponseBody::Upstream(Observed::new(body, observer)))
}

/// Answers 101 and tunnels both upgraded connections (RFC 9110 section 7.8).
fn switch(
    http: &Rc<HttpFlow>,
    exchange: &OpenExchange,
    mut response: Response<Incoming>,
    client: OnUpgrade,
) -> Response<ResponseBody> {
    exchange.edit(|row| {
        row.class = TUNNEL;
        row.proto = "ws";
    });
    let server = hyper::upgrade::on(&mut response);
    let (exchange, idle) = (exchange.clone(), http.flow.worker.shared.config.gateway.idle_timeout);
    // The flow lasts as long as its tunnel: its row counts these bytes, and it keeps its place.
    let flow = Rc::clone(&http.flow);
    http.flow.worker.tasks.spawn(async move {
        let moved = Moved::default();
        let tunnel = async {
            let (client, server) = tokio::try_join!(client, server).map_err(ForwardError::Http)?;
            tunnel::copy(TokioIo::new(client), TokioIo::new(server), idle, &moved).await
        };
        let done = tokio::select! {
            done = tunnel => done.map_err(ExchangeError::from),
            () = flow.standing.cut() => Err(Denied::IdentityRevoked.into()),
        };
        exchange.tunnelled(moved.up.get(), moved.down.get());
        if let Err(error) = done {
            exchange.failed(error.faulty());
            if error.is_identity() {
                flow.record.failed(error.faulty());
            }
        }
        drop(flow);
    });
    let (mut parts, _) = response.into_parts();
    head::strip_hop_by_hop(&mut parts.headers, true);
    Response::from_parts(parts, ResponseBody::Own(http_body_util::Full::default()))
}

fn proto(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::H1 => "h1",
        Protocol::H2 => "h2",
    }
}

fn row(http: &HttpFlow, request: &Request<Incoming>, id: Uuid) -> ExchangeRow {
    let flow = &http.flow;
    let identity = &flow.identity;
    let dst = flow.captured.orig_dst.0;
    let query = request.uri().query().map(|q| mask::query(q).into_inner());
    ExchangeRow {
        ts: flow.worker.shared.seams.clock.wall().0,
        exchange_id: id,
        flow_id: flow.record.id(),
        session_id: identity.session_id,
        job_id: Arc::clone(&identity.job_id),
        exec_id: Arc::clone(&identity.exec_id),
        identity: Arc::clone(&identity.who.display),
        pid: flow.captured.process.key.tgid,
        process: Arc::clone(&identity.process),
        class: HTTP,
        scheme: http.scheme,
        dst_host: Arc::clone(&http.name),
        dst_ip: mapped(dst.ip()),
        dst_port: dst.port(),
        proto: proto(http.downstream),
        upstream_proto: "",
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query_masked: query.unwrap_or_default(),
        status: 0,
        decision: ALLOW,
        rule_id: http.permit.rule().to_owned(),
        outcome: OK,
        fault: "",
        detail: String::new(),
        req_bytes: 0,
        resp_bytes: 0,
        ttfb_us: 0,
        dur_us: 0,
        req_headers: Vec::new(),
        resp_headers: Vec::new(),
        req_sha256: [0; 32],
        resp_sha256: [0; 32],
        req_body: 0,
        resp_body: 0,
        chunk_us: Vec::new(),
        chunk_bytes: Vec::new(),
        who: Arc::clone(&identity.who),
    }
}

/// Holds an upstream connection until both bodies have ended, then gives it back to the pool.
/// An exchange that breaks off drops it, which closes an HTTP/1 connection.
struct Lease {
    http: Rc<HttpFlow>,
    sender: Cell<Option<Sender>>,
}

impl Lease {
    fn fill(&self, sender: Sender) {
        self.sender.set(Some(sender));
    }

    fn release(&self, exchange: &OpenExchange) {
        if !exchange.both_ended() {
            return;
        }
        if let Some(sender) = self.sender.take() {
            let key: &Key = &self.http.key;
            self.http.flow.worker.pool.give_back(key, sender);
        }
    }
}
