//! A client for tests: TCP, TLS and one HTTP connection, each step visible.
//!
//! - input: the address to connect to, the name to ask for, and whom to trust
//! - output: hyper's request sender, or the bare stream
//! - bound: whole-body helpers take a maximum
//! - on failure: errors name the step

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Request body of every helper.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body held in memory.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// One HTTP connection.
pub enum Sender {
    /// HTTP/1.1.
    H1(http1::SendRequest<Body>),
    /// HTTP/2.
    H2(http2::SendRequest<Body>),
}

/// A connection and the task that drives it.
pub struct Connection {
    /// Where requests go in.
    pub sender: Sender,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects with TCP and TLS. `name` is the SNI and the name verified.
pub async fn tls(
    addr: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await.with_context(|| format!("connect to {addr}"))?;
    tcp.set_nodelay(true)?;
    let server = ServerName::try_from(name.to_owned())?;
    TlsConnector::from(config)
        .connect(server, tcp)
        .await
        .with_context(|| format!("TLS handshake with {name} at {addr}"))
}

impl Connection {
    /// Connects with TLS and speaks what ALPN chose.
    pub async fn https(addr: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Result<Self> {
        let stream = tls(addr, name, config).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Self::over(stream, h2).await
    }

    /// Connects without TLS, HTTP/1.1.
    pub async fn http(addr: SocketAddr) -> Result<Self> {
        let tcp = TcpStream::connect(addr).await.with_context(|| format!("connect to {addr}"))?;
        tcp.set_nodelay(true)?;
        Self::over(tcp, false).await
    }

    /// Speaks HTTP over any stream.
    pub async fn over<S>(stream: S, h2: bool) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        if h2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .handshake(io)
                .await
                .context("HTTP/2 handshake")?;
            // The end of a connection shows at the sender.
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok(Self { sender: Sender::H2(sender), driver })
        } else {
            let (sender, connection) = http1::handshake(io).await.context("HTTP/1 handshake")?;
            let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
            Ok(Self { sender: Sender::H1(sender), driver })
        }
    }

    /// True after ALPN chose HTTP/2.
    pub fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(_))
    }

    /// Sends a request and waits for the response head.
    ///
    /// For HTTP/1 the URI should be the path and `host` a header; for HTTP/2 the URI is absolute.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>> {
        let response = match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await.context("wait for the connection")?;
                sender.send_request(request).await
            }
            Sender::H2(sender) => {
                sender.ready().await.context("wait for the connection")?;
                sender.send_request(request).await
            }
        };
        response.context("send the request")
    }

    /// Builds a request for either protocol and sends it.
    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.send(request(self.is_h2(), method, host, path, body)?).await
    }

    /// `GET path`, with the whole body of at most 64 MiB.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Response<Bytes>> {
        let response = self.request("GET", host, path, empty()).await?;
        collect(response, 64 << 20).await
    }

    /// `POST path`, with the whole response body of at most 64 MiB.
    pub async fn post(&mut self, host: &str, path: &str, body: Body) -> Result<Response<Bytes>> {
        let response = self.request("POST", host, path, body).await?;
        collect(response, 64 << 20).await
    }
}

/// A request with `host` where the protocol wants it.
pub fn request(
    h2: bool,
    method: &str,
    host: &str,
    path: &str,
    body: Body,
) -> Result<Request<Body>> {
    let builder = Request::builder().method(method);
    let builder = if h2 {
        builder.uri(format!("https://{host}{path}"))
    } else {
        builder.uri(path).header("host", host)
    };
    Ok(builder.body(body)?)
}

/// Reads a body of at most `max` bytes.
pub async fn collect(response: Response<Incoming>, max: usize) -> Result<Response<Bytes>> {
    let (head, mut body) = response.into_parts();
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("read the body")?.into_data() {
            if out.len() + data.len() > max {
                bail!("body is longer than {max} bytes");
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(Response::from_parts(head, out.freeze()))
}
