//! The sockets that queries come in by: UDP and TCP on one port of 127.0.0.1 and ::1.
//!
//! - input: datagrams and connections
//! - output: what [`Resolver`] answers
//! - bound: `dns.max_inflight` queries and `dns.max_connections` connections; further datagrams
//!   are dropped and further connections closed, both counted; `limits::DNS_IDLE` per message on
//!   a connection, one query at a time on each
//! - on failure: a socket error is logged and waited out

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::forward::framed;
use super::{Client, Resolver, Transport};
use crate::limits;
use crate::telemetry::Metrics;

const BACKLOG: i32 = 128;
/// After a socket error, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(50);
/// Ports tried when any will do.
const TRIES: u32 = 16;

/// Open sockets of one port.
#[derive(Debug)]
pub struct Sockets {
    addr: SocketAddr,
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
}

/// Runs a future on this thread; `app` gives it.
pub type Spawn = Rc<dyn Fn(Pin<Box<dyn Future<Output = ()>>>)>;

impl Sockets {
    /// Opens UDP and TCP on 127.0.0.1 and, where the host has IPv6, ::1. Port 0 picks one.
    ///
    /// # Errors
    /// The operating system's answer for 127.0.0.1.
    pub fn open(port: u16) -> io::Result<Self> {
        let mut opened = Self::on(port);
        for _ in 1..TRIES {
            // A free TCP port may be taken on UDP.
            if port != 0 || opened.is_ok() {
                break;
            }
            opened = Self::on(port);
        }
        opened
    }

    fn on(port: u16) -> io::Result<Self> {
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let tcp4 = listener(SocketAddr::new(v4, port))?;
        let addr = tcp4.local_addr()?;
        let udp4 = datagrams(addr)?;
        let mut sockets = Self { addr, udp: vec![udp4], tcp: vec![tcp4] };
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), addr.port());
        match listener(v6).and_then(|tcp| Ok((tcp, datagrams(v6)?))) {
            Ok((tcp, udp)) => {
                sockets.tcp.push(tcp);
                sockets.udp.push(udp);
            }
            Err(error) => tracing::warn!(%error, "no dns on ::1"),
        }
        Ok(sockets)
    }

    /// Opens the same port on more addresses: those of bridges, which may not be usable yet.
    ///
    /// # Errors
    /// The operating system's answer.
    pub fn open_also(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        for addr in addresses {
            let on = SocketAddr::new(*addr, self.addr.port());
            self.tcp.push(listener(on)?);
            self.udp.push(datagrams(on)?);
        }
        Ok(())
    }

    /// The descriptors, for another process or a copy.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        let tcp = self.tcp.into_iter().map(OwnedFd::from);
        tcp.chain(self.udp.into_iter().map(OwnedFd::from))
    }

    /// What [`Sockets::into_descriptors`] gave.
    ///
    /// # Errors
    /// When 127.0.0.1 is not among them.
    pub fn from_descriptors(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        let mut addr = None;
        for fd in fds {
            let socket = Socket::from(fd);
            let own = socket.local_addr()?.as_socket();
            addr = addr.or(own.filter(|own| own.ip() == Ipv4Addr::LOCALHOST));
            match socket.r#type()? {
                Type::STREAM => tcp.push(socket.into()),
                _ => udp.push(socket.into()),
            }
        }
        let addr = addr.ok_or_else(|| io::Error::other("no resolver socket on 127.0.0.1"))?;
        Ok(Self { addr, udp, tcp })
    }

    /// Address on 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn listener(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    bind(&socket, addr)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn datagrams(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    bind(&socket, addr)?;
    Ok(socket.into())
}

fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
        // An IPv6 address is tentative until its device has a carrier.
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&addr.into())
}

/// What all sockets share.
#[derive(Clone)]
pub struct Server {
    resolver: Rc<Resolver>,
    metrics: Arc<Metrics>,
    inflight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    spawn: Spawn,
}

impl Server {
    /// Serves with at most so many queries and connections at once, until `stop`.
    pub fn new(
        resolver: Resolver,
        metrics: Arc<Metrics>,
        max_inflight: usize,
        max_connections: usize,
        stop: CancellationToken,
        spawn: Spawn,
    ) -> Self {
        Self {
            resolver: Rc::new(resolver),
            metrics,
            inflight: Arc::new(Semaphore::new(max_inflight)),
            connections: Arc::new(Semaphore::new(max_connections)),
            stop,
            spawn,
        }
    }

    /// Starts the loops of all sockets.
    ///
    /// # Errors
    /// When the runtime does not take a socket.
    pub fn start(&self, sockets: Sockets) -> io::Result<()> {
        for socket in sockets.udp {
            let (server, socket) = (self.clone(), Rc::new(UdpSocket::from_std(socket)?));
            (self.spawn)(Box::pin(async move { server.datagrams(socket).await }));
        }
        for listener in sockets.tcp {
            let (server, listener) = (self.clone(), TcpListener::from_std(listener)?);
            (self.spawn)(Box::pin(async move { server.connections(listener).await }));
        }
        Ok(())
    }

    async fn datagrams(&self, socket: Rc<UdpSocket>) {
        // A loop ends when it is asked to, or by a panic: then everything must stop.
        let _guard = self.stop.clone().drop_guard();
        let mut buffer = vec![0; limits::MAX_DNS_UDP_BYTES + 1];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = self.stop.cancelled() => return,
            };
            let (length, client) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "receiving a dns query");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let raw = buffer.get(..length).unwrap_or_default();
            if length > limits::MAX_DNS_UDP_BYTES {
                self.metrics.dns_malformed_total.inc();
            } else if let Ok(place) = Arc::clone(&self.inflight).try_acquire_owned() {
                let client = self.resolver.client(client, Some(raw));
                self.datagram(Rc::clone(&socket), raw.to_vec(), client, place);
            } else {
                // The client asks again; a flood costs nothing more than this.
                self.metrics.dns_over_limit_total.inc();
            }
        }
    }

    fn datagram(
        &self,
        socket: Rc<UdpSocket>,
        raw: Vec<u8>,
        client: Client,
        place: OwnedSemaphorePermit,
    ) {
        let resolver = Rc::clone(&self.resolver);
        (self.spawn)(Box::pin(async move {
            let _place = place;
            if let Some(reply) = resolver.answer(&raw, Transport::Udp, &client).await {
                // The client may be gone.
                drop(socket.send_to(&reply, client.addr).await);
            }
        }));
    }

    async fn connections(&self, listener: TcpListener) {
        let _guard = self.stop.clone().drop_guard();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Err(error) => {
                    tracing::warn!(%error, "accepting a dns connection");
                    tokio::time::sleep(PAUSE).await;
                }
                Ok((stream, client)) => {
                    let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                        self.metrics.dns_over_limit_total.inc();
                        continue;
                    };
                    let server = self.clone();
                    let client = self.resolver.client(client, None);
                    (self.spawn)(Box::pin(async move {
                        let _place = place;
                        if let Err(error) = server.connection(stream, client).await {
                            tracing::debug!(%error, "dns connection ended");
                        }
                    }));
                }
            }
        }
    }

    /// Answers the queries of one connection, one after the other.
    async fn connection(&self, mut stream: TcpStream, client: Client) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let read = tokio::time::timeout(limits::DNS_IDLE, message(&mut stream));
            let raw = tokio::select! {
                read = read => match read {
                    Ok(raw) => raw?,
                    Err(_idle) => return Ok(()),
                },
                () = self.stop.cancelled() => return Ok(()),
            };
            let Some(raw) = raw else { return Ok(()) };
            let place = Arc::clone(&self.inflight).acquire_owned().await;
            let _place = place.map_err(io::Error::other)?;
            let Some(reply) = self.resolver.answer(&raw, Transport::Tcp, &client).await else {
                return Ok(());
            };
            let reply = framed(&reply)?;
            let write = tokio::time::timeout(limits::DNS_IDLE, stream.write_all(&reply));
            write.await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        }
    }
}

/// One framed message; `None` when the client has closed between two.
async fn message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let mut raw = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut raw).await?;
    Ok(Some(raw))
}
