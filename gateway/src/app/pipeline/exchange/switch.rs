//! Connections that leave HTTP.
//!
//! - input: a 101 from upstream and the client's side
//! - output: a 101 for the client, and a tunnel between both
//! - bound: the tunnel's own; `gateway.idle_timeout`
//! - on failure: the outcome in the row

use std::rc::Rc;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::super::HttpFlow;
use super::ExchangeError;
use super::row::TUNNEL;
use crate::forward::ForwardError;
use crate::forward::tunnel::{self, Moved};
use crate::http::body::ResponseBody;
use crate::http::head;
use crate::policy::Denied;
use crate::record::exchange::OpenExchange;

/// Answers 101 and tunnels both upgraded connections (RFC 9110 section 7.8).
pub(super) fn switch(
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
