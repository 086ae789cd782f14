//! A proxy before Docker's socket: what captured jobs ask of Docker stays within their job.
//!
//! - input: HTTP/1.1 of Docker's API on a unix socket
//! - output: the same requests to dockerd, some changed, some refused
//! - bound: [`MAX_CONNECTIONS`] at a time; [`MAX_BODY_BYTES`] of a body that is read; others stream
//! - on failure: 403 or 502 in Docker's JSON shape; a caller that cannot be identified gets 403
//!
//! Callers outside of the captured cgroup are passed through unchanged. Design:
//! `docs/decisions/0012-docker.md`.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Fault, Faulty};

pub mod binds;
pub mod caller;
pub mod create;
pub mod proxy;
pub mod query;
pub mod route;
mod rules;
pub mod upstream;

/// Connections served at once; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 256;
/// Largest body that is read whole: the JSON of `create`, `exec`, `update`, and of `inspect`.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// For a request head, and for a body that is read whole.
pub const HEAD_TIME: Duration = Duration::from_secs(30);
/// For what the proxy itself asks dockerd.
pub const ASK_TIME: Duration = Duration::from_secs(30);

/// What the proxy knows about its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its own socket, which containers may be given.
    pub listen: PathBuf,
    /// dockerd's socket.
    pub upstream: PathBuf,
    /// The captured cgroup's path below the cgroup2 mount.
    pub captured: PathBuf,
    /// What must not be mounted, beside [`binds::PROTECTED`].
    pub protect: Vec<PathBuf>,
}

/// Why a request is not passed on.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// A captured caller must not ask for this.
    #[error("{0}")]
    Refused(String),
    /// dockerd does not answer, or not as its API says.
    #[error("docker: {0}")]
    Upstream(String),
    /// The caller's request is no good.
    #[error("{0}")]
    Malformed(String),
}

impl Faulty for DockerError {
    fn fault(&self) -> Fault {
        match self {
            Self::Refused(_) => Fault::Policy,
            Self::Upstream(_) => Fault::Upstream,
            Self::Malformed(_) => Fault::Downstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Refused(_) => "docker_refused",
            Self::Upstream(_) => "docker_upstream",
            Self::Malformed(_) => "docker_malformed",
        }
    }
}

/// Shorthand for a refusal.
pub fn refused(what: impl Into<String>) -> DockerError {
    DockerError::Refused(what.into())
}
