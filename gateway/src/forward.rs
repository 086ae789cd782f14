//! Towards the real destination: dial, pool, tunnel.
//!
//! - input: a [`Permit`](crate::policy::Permit) and a destination
//! - output: a connection that an exchange can use, or a finished tunnel
//! - bound: `limits::MAX_POOL_IDLE` idle connections per worker; `gateway.connect_timeout`
//! - on failure: [`ForwardError`]; nothing is retried that may have reached upstream

use crate::error::{Fault, Faulty};
use crate::tls::TlsError;

pub mod dial;
pub mod pool;
pub mod tunnel;

/// Why forwarding failed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// TCP connect failed.
    #[error("connecting to upstream: {0}")]
    Connect(std::io::Error),
    /// Connect and handshake took longer than `gateway.connect_timeout`.
    #[error("connecting to upstream timed out")]
    Timeout,
    /// TLS towards upstream failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP exchange with upstream failed.
    #[error("exchange with upstream: {0}")]
    Http(hyper::Error),
    /// One side of a tunnel broke.
    #[error("tunnel: {source}")]
    Tunnel {
        /// Which side.
        fault: Fault,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// What is changed on the way does not let a tunnel go on.
    #[error("tunnel was closed by inspection")]
    Halted,
    /// Nothing moved in either direction for `gateway.idle_timeout`.
    #[error("idle for too long")]
    Idle,
}

impl Faulty for ForwardError {
    fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) | Self::Timeout | Self::Http(_) => Fault::Upstream,
            Self::Tls(error) => error.fault(),
            Self::Tunnel { fault, .. } => *fault,
            Self::Halted => Fault::Policy,
            Self::Idle => Fault::Downstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Connect(_) => "upstream_connect",
            Self::Timeout => "upstream_timeout",
            Self::Tls(error) => error.outcome(),
            Self::Http(_) => "upstream_http",
            Self::Tunnel { .. } => "tunnel_broken",
            Self::Halted => "tunnel_halted",
            Self::Idle => "idle_timeout",
        }
    }
}
