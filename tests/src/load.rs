//! The load generator: the same work against every proxy, and what it took.
//!
//! - input: a [`Target`] and a mode
//! - output: one JSON object per run
//! - bound: every mode has a count or a time; samples are bounded by the count
//! - on failure: errors are counted in `errors`; if nothing succeeded the run fails

mod bulk;
mod requests;
mod sse;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::client::Connection;

pub use bulk::{download, upload};
pub use requests::{connections, idle, latency, throughput};
pub use sse::sse;

const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Whom to reach, and how.
#[derive(Clone)]
pub struct Target {
    /// TCP address: the proxy's, or the origin's when capture does the rest.
    pub connect: SocketAddr,
    /// Name in SNI and `host`.
    pub name: String,
    config: Arc<ClientConfig>,
}

impl Target {
    /// Offers HTTP/2 or HTTP/1.1, and verifies nothing, so that its own cost stays small.
    pub fn new(connect: SocketAddr, name: &str, h2: bool) -> Self {
        let config = trust::anyone(if h2 { b"h2" } else { b"http/1.1" });
        Self { connect, name: name.to_owned(), config: Arc::new(config) }
    }

    async fn open(&self) -> Result<Connection> {
        let connecting = Connection::https(self.connect, &self.name, Arc::clone(&self.config));
        tokio::time::timeout(OPEN_TIMEOUT, connecting).await.context("wait for the connection")?
    }
}

/// Durations of the successes, and the number of failures.
#[derive(Default)]
struct Samples {
    micros: Vec<f64>,
    errors: u64,
    first_error: Option<String>,
}

impl Samples {
    fn ok(&mut self, took: Duration) {
        self.micros.push(took.as_secs_f64() * 1e6);
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the number of samples"
        )]
        let index = (self.micros.len().saturating_sub(1) as f64 * share).round() as usize;
        self.micros.get(index).copied().unwrap_or(0.0)
    }

    fn report(mut self, mode: &str, took: Duration) -> Result<Value> {
        if self.micros.is_empty() {
            bail!("{mode}: nothing succeeded: {}", self.first_error.unwrap_or_default());
        }
        self.micros.sort_by(f64::total_cmp);
        let count = self.micros.len();
        let seconds = took.as_secs_f64();
        Ok(json!({
            "mode": mode,
            "count": count,
            "seconds": seconds,
            "rate": count as f64 / seconds,
            "p50_us": self.percentile(0.50),
            "p99_us": self.percentile(0.99),
            "errors": self.errors,
            "first_error": self.first_error,
        }))
    }
}
