//! Connections that leave HTTP.
//!
//! - input: a 101 from upstream and the client's side
//! - output: a 101 for the client, and a tunnel between both
//! - bound: the tunnel's own; `gateway.idle_timeout`; messages of a WebSocket that is looked into
//!   are at most `inspect.max_body`
//! - on failure: the outcome in the row

use std::rc::Rc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use http::header::{SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use weir_inspect::stream::{Sender, Stream};

use super::super::HttpFlow;
use super::ExchangeError;
use super::request::Refusing;
use super::row::TUNNEL;
use crate::forward::ForwardError;
use crate::forward::tunnel::{self, Change, Halted, Moved};
use crate::http::body::{ResponseBody, Stopped};
use crate::http::head;
use crate::inspect::judge::{Looking, Plan, Side};
use crate::inspect::refused::Refused;
use crate::inspect::transform::Passing;
use crate::policy::Denied;
use crate::record::exchange::OpenExchange;

/// Prepares the head of a request to switch. Where frames are looked into, only WebSockets without
/// extensions are understood: others are not asked for.
pub(super) fn ask(parts: &mut Parts, looking: &Looking) -> bool {
    if !is_looked_into(looking) {
        return true;
    }
    parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    is_websocket(&parts.headers)
}

fn is_looked_into(looking: &Looking) -> bool {
    let (up, down) = (looking.request(), looking.response());
    up.plan() != Plan::Original || down.changes()
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers 101 and tunnels both upgraded connections (RFC 9110 section 7.8).
pub(super) fn switch(
    http: &Rc<HttpFlow>,
    exchange: &OpenExchange,
    looking: &Looking,
    mut response: Response<Incoming>,
    client: OnUpgrade,
) -> Result<Response<ResponseBody>, Refused> {
    exchange.edit(|row| {
        row.class = TUNNEL;
        row.proto = "ws";
    });
    let mut changes: [Box<dyn Change>; 2] =
        [Box::new(tunnel::Unchanged), Box::new(tunnel::Unchanged)];
    if is_looked_into(looking) {
        let (up, down) = (looking.request(), looking.response());
        // Bits that an extension defines would hide the text.
        if response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return Err(down.cannot_be_read("upstream chose a WebSocket extension"));
        }
        changes = [
            Messages::boxed(up, Sender::Client(random_key), exchange),
            Messages::boxed(down, Sender::Server, exchange),
        ];
    }
    let server = hyper::upgrade::on(&mut response);
    let (exchange, idle) = (exchange.clone(), http.flow.worker.shared.config.gateway.idle_timeout);
    // The flow lasts as long as its tunnel: its row counts these bytes, and it keeps its place.
    let flow = Rc::clone(&http.flow);
    http.flow.worker.tasks.spawn(async move {
        let moved = Moved::default();
        let tunnel = async {
            let (client, server) = tokio::try_join!(client, server).map_err(ForwardError::Http)?;
            let (client, server) = (TokioIo::new(client), TokioIo::new(server));
            tunnel::copy_changed(client, server, idle, &moved, changes).await
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
    Ok(Response::from_parts(parts, ResponseBody::Own(http_body_util::Full::default())))
}

/// One direction of a WebSocket.
struct Messages {
    passing: Passing<Refusing>,
    sender: Sender,
    max_message: usize,
}

impl Messages {
    fn boxed(side: Side, sender: Sender, exchange: &OpenExchange) -> Box<dyn Change> {
        let max_message = side.max_body_bytes();
        let framing = || Stream::websocket(sender, max_message);
        let passing = Passing::judged(side, framing, Refusing(exchange.clone()));
        Box::new(Self { passing, sender, max_message })
    }

    fn settle(&mut self, done: Result<Bytes, Stopped>, out: &mut Vec<u8>) -> Result<(), Halted> {
        match done {
            Ok(bytes) => {
                out.extend_from_slice(&bytes);
                Ok(())
            }
            Err(_refused) => {
                out.extend(self.passing.abort());
                Err(Halted)
            }
        }
    }
}

impl Change for Messages {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Halted> {
        // Connections last: what the other direction made known meanwhile counts here.
        let (sender, max_message) = (self.sender, self.max_message);
        self.passing.refresh(|| Stream::websocket(sender, max_message));
        let done = self.passing.push(bytes);
        self.settle(done, out)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Halted> {
        let done = self.passing.finish();
        self.settle(done, out)
    }
}

/// A key that nobody can foresee (RFC 6455 section 5.3).
fn random_key() -> [u8; 4] {
    let mut key = [0; 4];
    if SystemRandom::new().fill(&mut key).is_err() {
        // Cannot happen after start. A fixed key only loses the protection of caches between.
        tracing::error!("no random bytes for the key of a WebSocket frame");
    }
    key
}
