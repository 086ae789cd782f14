//! HTTP/1.1 and HTTP/2 towards the client.
//!
//! - input: a decrypted (or plain) downstream stream and a handler
//! - output: requests to the handler, its responses to the client
//! - bound: head size and count, concurrent streams, head time (`limits`, `gateway.*`)
//! - on failure: [`HttpError`]; malformed input gets a 4xx or a stream error from hyper
//!
//! Each message is parsed once and written anew: what was ambiguous on the way in is not passed on.

use crate::error::{Fault, Faulty};

pub mod body;
pub mod framing;
pub mod head;
pub mod respond;
pub mod server;

/// Why a downstream connection or request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The bytes are not HTTP.
    #[error("parsing request: {0}")]
    Malformed(hyper::Error),
    /// The client went away in the middle.
    #[error("client closed during an exchange: {0}")]
    Closed(hyper::Error),
    /// A head did not arrive in time.
    #[error("request head timed out")]
    HeadTimeout,
    /// Anything else on the connection.
    #[error("serving client: {0}")]
    Connection(hyper::Error),
    /// The request body broke off or is not framed as it says.
    #[error("reading request body: {0}")]
    Body(hyper::Error),
    /// Nothing moved for `gateway.idle_timeout`.
    #[error("idle for too long")]
    Idle,
    /// Target, Host and pseudo-headers do not name one authority.
    #[error("request does not name one host: {0}")]
    Authority(&'static str),
    /// `CONNECT`: the gateway is not a proxy that clients talk to.
    #[error("CONNECT is not served")]
    Connect,
}

impl Faulty for HttpError {
    fn fault(&self) -> Fault {
        Fault::Downstream
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_http",
            Self::Closed(_) => "client_closed",
            Self::HeadTimeout => "head_timeout",
            Self::Connection(_) => "client_connection",
            Self::Body(_) => "request_cut",
            Self::Idle => "idle_timeout",
            Self::Authority(_) => "bad_authority",
            Self::Connect => "connect_refused",
        }
    }
}

/// Whether the socket failed, rather than what came through it.
fn broke(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> Self {
        if error.is_timeout() {
            Self::HeadTimeout
        } else if error.is_parse() || error.is_parse_too_large() {
            Self::Malformed(error)
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            Self::Closed(error)
        } else if error.is_user() || broke(&error) {
            Self::Connection(error)
        } else {
            // What is left is HTTP/2's: frames, settings or header blocks against the rules.
            Self::Malformed(error)
        }
    }
}
