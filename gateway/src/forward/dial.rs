//! Opens upstream connections.
//!
//! - input: a permit, the original destination, the name to verify
//! - output: an encrypted or plain stream and its protocol
//! - bound: one deadline over connect and handshake
//! - on failure: [`ForwardError`]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ForwardError;
use crate::capture::OrigDst;
use crate::policy::Permit;
use crate::tls::Protocol;
use crate::tls::upstream::Upstream;

/// A boxed upstream byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The future of [`Dialer::dial`].
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// The `Dialer` seam: the network, or a map to local origins in tests.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to a destination.
    fn dial(&self, dst: OrigDst) -> Dialing;
}

/// Connects to the address that the client asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl Dialer for Direct {
    fn dial(&self, dst: OrigDst) -> Dialing {
        Box::pin(TcpStream::connect(dst.0))
    }
}

/// Opens a TCP connection without delay for small writes.
///
/// # Errors
/// [`ForwardError::Connect`] or [`ForwardError::Timeout`].
pub async fn tcp(
    _permit: &Permit,
    dialer: &dyn Dialer,
    dst: OrigDst,
    limit: Duration,
) -> Result<TcpStream, ForwardError> {
    let dialed = timeout(limit, dialer.dial(dst)).await;
    let socket =
        dialed.map_err(|_elapsed| ForwardError::Timeout)?.map_err(ForwardError::Connect)?;
    socket.set_nodelay(true).map_err(ForwardError::Connect)?;
    Ok(socket)
}

/// Opens a TCP connection and, with a `name`, verifies TLS on it.
///
/// # Errors
/// See [`ForwardError`].
pub async fn stream(
    permit: &Permit,
    dialer: &dyn Dialer,
    tls: &Upstream,
    dst: OrigDst,
    name: Option<&str>,
    h2: bool,
    limit: Duration,
) -> Result<(Box<dyn Io>, Protocol), ForwardError> {
    let connect = async {
        let socket = tcp(permit, dialer, dst, limit).await?;
        match name {
            None => {
                Ok((Box::new(socket) as Box<dyn Io>, if h2 { Protocol::H2 } else { Protocol::H1 }))
            }
            Some(name) => {
                let (stream, protocol) = tls.connect(socket, name, h2).await?;
                Ok((Box::new(stream) as Box<dyn Io>, protocol))
            }
        }
    };
    timeout(limit, connect).await.unwrap_or(Err(ForwardError::Timeout))
}
