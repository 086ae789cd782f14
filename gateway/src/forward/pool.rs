//! Upstream HTTP connections, kept for the next request.
//!
//! - input: a destination, the name it was verified for, whether HTTP/2 may be used
//! - output: a [`Sender`] that takes one request
//! - bound: `limits::MAX_POOL_IDLE` idle HTTP/1 connections and one HTTP/2 connection per key;
//!   closed when idle for `limits::POOL_IDLE`
//! - on failure: [`ForwardError`] of the dial
//!
//! One pool per worker: a request and its upstream connection stay on one thread, so that passing
//! data between them wakes no other core. Connections are shared between processes of the host;
//! schemes that authenticate a connection rather than a request (NTLM) therefore do not work.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::ForwardError;
use super::dial::{Dialer, Io, stream};
use crate::capture::OrigDst;
use crate::http::body::RequestBody;
use crate::http::server::LocalExecutor;
use crate::limits;
use crate::policy::Permit;
use crate::telemetry::Metrics;
use crate::tls::Protocol;
use crate::tls::upstream::Upstream;

/// What connections may be shared under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Address.
    pub dst: OrigDst,
    /// Name that the certificate was verified for; `None` in the clear.
    pub name: Option<Arc<str>>,
    /// Whether HTTP/2 was offered (or, in the clear, is spoken).
    pub h2: bool,
}

/// A connection that takes one request.
pub enum Sender {
    /// Goes back to the pool when both bodies have ended.
    H1(http1::SendRequest<RequestBody>),
    /// Shared.
    H2(http2::SendRequest<RequestBody>),
}

/// A request that could not be sent, and maybe the request itself.
pub struct SendFailed {
    /// What happened.
    pub error: hyper::Error,
    /// Given back when nothing of it was sent: safe to send again.
    pub request: Option<Request<RequestBody>>,
}

impl Sender {
    /// The protocol of the connection.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::H1(_) => Protocol::H1,
            Self::H2(_) => Protocol::H2,
        }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// [`SendFailed`], with the request when upstream cannot have seen any of it.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailed> {
        let sent = match self {
            Self::H1(sender) => sender.try_send_request(request).await,
            Self::H2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut failed| {
            let request = failed.take_message();
            SendFailed { error: failed.into_error(), request }
        })
    }
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

#[derive(Default)]
struct Entry {
    idle: Vec<Idle>,
    shared: Option<http2::SendRequest<RequestBody>>,
    /// What upstream chose the last time.
    protocol: Option<Protocol>,
    used: Option<Instant>,
}

/// The pool of one worker.
pub struct Pool {
    dialer: Arc<dyn Dialer>,
    tls: Upstream,
    connect_timeout: Duration,
    metrics: Arc<Metrics>,
    entries: RefCell<HashMap<Key, Entry>>,
    idle_count: Cell<usize>,
}

impl Pool {
    /// An empty pool.
    pub fn new(
        dialer: Arc<dyn Dialer>,
        tls: Upstream,
        connect_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (entries, idle_count) = (RefCell::default(), Cell::new(0));
        Self { dialer, tls, connect_timeout, metrics, entries, idle_count }
    }

    /// For flows that are not HTTP.
    pub fn dialer(&self) -> &dyn Dialer {
        &*self.dialer
    }

    /// The protocol that upstream speaks: remembered, or found by opening a connection, which is
    /// then waiting for the first request.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn protocol(&self, permit: &Permit, key: &Key) -> Result<Protocol, ForwardError> {
        if let Some(known) = self.entries.borrow().get(key).and_then(|e| e.protocol) {
            return Ok(known);
        }
        let sender = self.open(permit, key).await?;
        let protocol = sender.protocol();
        self.give_back(key, sender);
        Ok(protocol)
    }

    /// A connection for one request; the flag says whether it was used before.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn sender(&self, permit: &Permit, key: &Key) -> Result<(Sender, bool), ForwardError> {
        while let Some(sender) = self.take(key) {
            match sender {
                Sender::H2(sender) => return Ok((Sender::H2(sender), true)),
                Sender::H1(mut sender) => {
                    if sender.ready().await.is_ok() {
                        self.metrics.upstream_reused_total.inc();
                        return Ok((Sender::H1(sender), true));
                    }
                }
            }
        }
        Ok((self.open(permit, key).await?, false))
    }

    /// A new connection, whatever the pool holds.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn open(&self, permit: &Permit, key: &Key) -> Result<Sender, ForwardError> {
        let name = key.name.as_deref();
        let limit = self.connect_timeout;
        let (io, protocol) =
            stream(permit, &*self.dialer, &self.tls, key.dst, name, key.h2, limit).await?;
        self.metrics.upstream_connections_total.inc();
        let sender =
            handshake(io, protocol, Arc::clone(&self.metrics)).await.map_err(ForwardError::Http)?;
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= limits::MAX_CACHED_ALPN {
            entries.retain(|_, e| !e.idle.is_empty() || e.shared.is_some());
        }
        let entry = entries.entry(key.clone()).or_default();
        entry.protocol = Some(protocol);
        entry.used = Some(Instant::now());
        if let Sender::H2(shared) = &sender {
            entry.shared = Some(shared.clone());
        }
        Ok(sender)
    }

    /// Takes a connection back after its exchange. Both bodies must have ended.
    pub fn give_back(&self, key: &Key, sender: Sender) {
        let Sender::H1(sender) = sender else { return };
        if sender.is_closed() || self.idle_count.get() >= limits::MAX_POOL_IDLE {
            return;
        }
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        if entry.idle.len() < limits::MAX_POOL_IDLE_PER_KEY {
            entry.idle.push(Idle { sender, since: Instant::now() });
            self.idle_count.set(self.idle_count.get() + 1);
        }
    }

    /// Closes what has been idle for too long. Called every few seconds by the worker.
    pub fn reap(&self, now: Instant) {
        let mut entries = self.entries.borrow_mut();
        let mut idle = 0;
        for entry in entries.values_mut() {
            let fresh = |i: &Idle| now.duration_since(i.since) < limits::POOL_IDLE;
            entry.idle.retain(|i| fresh(i) && !i.sender.is_closed());
            idle += entry.idle.len();
            let unused = entry.used.is_none_or(|u| now.duration_since(u) >= limits::POOL_IDLE);
            if entry.shared.as_ref().is_some_and(|s| unused || s.is_closed()) {
                entry.shared = None;
            }
        }
        self.idle_count.set(idle);
    }

    fn take(&self, key: &Key) -> Option<Sender> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key)?;
        if let Some(shared) = entry.shared.as_ref().filter(|s| !s.is_closed()) {
            entry.used = Some(Instant::now());
            self.metrics.upstream_reused_total.inc();
            return Some(Sender::H2(shared.clone()));
        }
        // The most recently used one is the least likely to be closed by upstream.
        let idle = entry.idle.pop()?;
        self.idle_count.set(self.idle_count.get().saturating_sub(1));
        Some(Sender::H1(idle.sender))
    }
}

async fn handshake(
    io: Box<dyn Io>,
    protocol: Protocol,
    metrics: Arc<Metrics>,
) -> Result<Sender, hyper::Error> {
    let io = TokioIo::new(io);
    match protocol {
        Protocol::H1 => {
            let (sender, connection) = http1::Builder::new()
                .preserve_header_case(true)
                .max_headers(limits::MAX_HEADERS)
                .max_buf_size(limits::MAX_HEAD_BYTES)
                .handshake(io)
                .await?;
            let connection = connection.with_upgrades();
            // Ends when its sender is dropped or upstream closes; errors reach the exchange.
            tokio::task::spawn_local(async move { drop(connection.await) });
            Ok(Sender::H1(sender))
        }
        Protocol::H2 => {
            let (sender, connection) = http2::Builder::new(LocalExecutor(metrics))
                .timer(TokioTimer::new())
                .initial_stream_window_size(2 * 1024 * 1024)
                .initial_connection_window_size(8 * 1024 * 1024)
                .max_header_list_size(u32::try_from(limits::MAX_HEAD_BYTES).unwrap_or(u32::MAX))
                .keep_alive_interval(Duration::from_secs(20))
                .handshake(io)
                .await?;
            tokio::task::spawn_local(async move { drop(connection.await) });
            Ok(Sender::H2(sender))
        }
    }
}
