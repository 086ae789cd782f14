//! Origin servers: what weir's clients would reach without weir.
//!
//! - input: a listen address, TLS or not, protocols by ALPN
//! - output: the endpoints of [`routes`], and counts and heads of what was asked
//! - bound: 10,000 logged requests; no body is held whole except where a route says so
//! - on failure: set-up panics or returns the error; a broken connection ends that connection

pub mod body;
pub mod git;
pub mod llm;
pub mod raw;
pub mod routes;
pub mod seen;
#[cfg(test)]
mod tests;
mod upgrade;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::ca::{Flaw, TestCa};
use seen::Seen;

/// Protocols offered unless a test says otherwise.
pub const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// How to start an [`Origin`].
pub struct Options {
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// TLS, or plain HTTP/1 without it.
    pub tls: Option<Arc<ServerConfig>>,
    /// Directory of bare repositories, served below `/git/`.
    pub git_root: Option<PathBuf>,
    /// Keep the heads of requests, and bodies of `/v1/`; off for load tests.
    pub log: bool,
    /// File to which bodies of `/v1/` are appended.
    pub received: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { listen, tls: None, git_root: None, log: true, received: None }
    }
}

/// A running origin server; it ends, with all its connections, when dropped.
pub struct Origin {
    addr: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// An HTTPS origin on loopback, HTTP/2 and HTTP/1.1, with a good leaf of `ca` for `names`.
    pub async fn start(ca: &TestCa, names: &[&str]) -> Self {
        Self::flawed(ca, names, Flaw::None).await
    }

    /// An HTTPS origin on loopback whose leaf has a flaw.
    pub async fn flawed(ca: &TestCa, names: &[&str], flaw: Flaw) -> Self {
        let tls = Some(ca.server_config(names, flaw, &ALPN));
        Self::with(Options { tls, ..Options::default() }).await.expect("start an origin")
    }

    /// An HTTPS origin on loopback that offers only `alpn` (none if empty).
    pub async fn speaking(ca: &TestCa, names: &[&str], alpn: &[&str]) -> Self {
        let tls = Some(ca.server_config(names, Flaw::None, alpn));
        Self::with(Options { tls, ..Options::default() }).await.expect("start an origin")
    }

    /// A plain HTTP/1 origin on loopback.
    pub async fn plain() -> Self {
        Self::with(Options::default()).await.expect("start an origin")
    }

    /// An origin with all choices open.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn with(options: Options) -> io::Result<Self> {
        let listener = listen(options.listen)?;
        let addr = listener.local_addr()?;
        let seen = Arc::new(Seen::new(options.log, options.received));
        let context = Arc::new(Context { seen: Arc::clone(&seen), git_root: options.git_root });
        let task = tokio::spawn(accept(listener, options.tls.map(TlsAcceptor::from), context));
        Ok(Self { addr, seen, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What it has seen, for a thread that outlives neither.
    pub fn shared_seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Serves until the task is cancelled: for the `origin` binary.
    pub async fn wait(mut self) {
        drop((&mut self.task).await);
    }
}

/// What every connection needs.
struct Context {
    seen: Arc<Seen>,
    git_root: Option<PathBuf>,
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    // Load tests open a thousand connections at once.
    socket.listen(4096)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, peer)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(tcp, peer, tls.clone(), Arc::clone(&context)));
    }
}

async fn connection(
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    context: Arc<Context>,
) {
    context.seen.tcp_connection();
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = tls else { return serve(tcp, peer, None, false, context).await };
    match tls.accept(tcp).await {
        Ok(stream) => {
            let session = stream.get_ref().1;
            let sni = session.server_name().map(str::to_owned);
            let h2 = session.alpn_protocol() == Some(b"h2");
            context.seen.tls_connection();
            serve(stream, peer, sni, h2, context).await;
        }
        Err(_) => context.seen.tls_failure(),
    }
}

async fn serve<S>(stream: S, peer: SocketAddr, sni: Option<String>, h2: bool, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let id = context.seen.http_connection();
    let service = service_fn(|request| {
        context.seen.request(id, sni.as_deref(), peer, &request);
        routes::route(Arc::clone(&context), peer, request)
    });
    let io = TokioIo::new(stream);
    // A connection may end in any way the client likes; the test looks at its own side.
    if h2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_concurrent_streams(1024)
            .serve_connection(io, service);
        drop(server.await);
    } else {
        let server = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(io, service)
            .with_upgrades();
        drop(server.await);
    }
}
