//! What an origin has seen: counts, and the heads of requests.
//!
//! - input: connections and requests; bodies where a route hands them over
//! - output: [`SeenRequest`]s in order of arrival
//! - bound: the first 10,000 requests, the first 1,000 bodies
//! - on failure: later requests are counted, not kept

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, Request, Version};

const MAX_KEPT: usize = 10_000;
const MAX_BODIES: usize = 1_000;

/// The head of one request.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Number of the HTTP connection, from 0.
    pub connection: u64,
    /// SNI of that connection.
    pub sni: Option<String>,
    /// Its TCP peer.
    pub peer: SocketAddr,
    /// Protocol.
    pub version: Version,
    /// Method.
    pub method: String,
    /// URI as it arrived.
    pub uri: String,
    /// Header fields.
    pub headers: HeaderMap,
}

/// Counters and kept requests of one origin.
#[derive(Debug)]
pub struct Seen {
    log: bool,
    tcp: AtomicU64,
    tls: AtomicU64,
    tls_failed: AtomicU64,
    http: AtomicU64,
    requests: AtomicU64,
    kept: Mutex<Vec<SeenRequest>>,
    bodies: Mutex<Vec<Bytes>>,
    received: Option<PathBuf>,
}

impl Seen {
    pub(super) fn new(log: bool, received: Option<PathBuf>) -> Self {
        Self {
            log,
            tcp: AtomicU64::new(0),
            tls: AtomicU64::new(0),
            tls_failed: AtomicU64::new(0),
            http: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
            bodies: Mutex::new(Vec::new()),
            received,
        }
    }

    pub(super) fn tcp_connection(&self) {
        self.tcp.fetch_add(1, Relaxed);
    }

    pub(super) fn tls_connection(&self) {
        self.tls.fetch_add(1, Relaxed);
    }

    pub(super) fn tls_failure(&self) {
        self.tls_failed.fetch_add(1, Relaxed);
    }

    pub(super) fn http_connection(&self) -> u64 {
        self.http.fetch_add(1, Relaxed)
    }

    pub(super) fn request<B>(
        &self,
        connection: u64,
        sni: Option<&str>,
        peer: SocketAddr,
        request: &Request<B>,
    ) {
        self.requests.fetch_add(1, Relaxed);
        if !self.log {
            return;
        }
        let mut kept = self.kept.lock().unwrap();
        if kept.len() < MAX_KEPT {
            kept.push(SeenRequest {
                connection,
                sni: sni.map(str::to_owned),
                peer,
                version: request.version(),
                method: request.method().to_string(),
                uri: request.uri().to_string(),
                headers: request.headers().clone(),
            });
        }
    }

    pub(super) fn body(&self, body: &Bytes) {
        if let Some(path) = &self.received {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(&[body, &b"\n"[..]].concat()));
            written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        }
        let mut bodies = self.bodies.lock().unwrap();
        if self.log && bodies.len() < MAX_BODIES {
            bodies.push(body.clone());
        }
    }

    /// Bodies of the first requests to `/v1/`, in order of arrival.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap().clone()
    }

    /// TCP connections accepted.
    pub fn tcp_connections(&self) -> u64 {
        self.tcp.load(Relaxed)
    }

    /// TLS handshakes that succeeded.
    pub fn tls_connections(&self) -> u64 {
        self.tls.load(Relaxed)
    }

    /// TLS handshakes that failed.
    pub fn tls_failures(&self) -> u64 {
        self.tls_failed.load(Relaxed)
    }

    /// Requests whose head arrived.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Heads of the first requests, in order of arrival.
    pub fn heads(&self) -> Vec<SeenRequest> {
        self.kept.lock().unwrap().clone()
    }
}
