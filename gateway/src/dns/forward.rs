//! Asks the upstream servers.
//!
//! - input: a [`Query`] and its deadline
//! - output: the first usable answer, and who gave it
//! - bound: one deadline; two rounds over at most [`MAX_UPSTREAMS`] servers; one socket at a time
//! - on failure: [`DnsError`]; answers that do not match the question are counted and ignored
//!
//! Every attempt has its own socket, port and random id. The socket is connected, so that the
//! kernel drops datagrams of anybody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::message::{Answer, NotOurs, Query};
use super::{DnsError, Transport};
use crate::config;
use crate::limits;
use crate::telemetry::Metrics;

/// Upstream servers that are asked; further ones are left out.
pub const MAX_UPSTREAMS: usize = 8;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
const ROUNDS: u32 = 2;

/// The servers, in the order in which they are asked.
#[derive(Debug)]
pub struct Upstreams {
    servers: Vec<SocketAddr>,
    metrics: Arc<Metrics>,
}

impl Upstreams {
    /// The configured servers, or those of resolv.conf(5); never `own`.
    pub fn new(config: &config::Dns, own: SocketAddr, metrics: Arc<Metrics>) -> Self {
        let mut servers = config.upstream.clone();
        if servers.is_empty() {
            servers = of_host(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        }
        let is_own = |addr: &SocketAddr| addr.ip().is_loopback() && addr.port() == own.port();
        servers.retain(|addr| !is_own(addr));
        servers.truncate(MAX_UPSTREAMS);
        if servers.is_empty() {
            tracing::warn!("no upstream dns server: every query will fail");
        }
        Self { servers, metrics }
    }

    /// Asks until one answers. A server that fails to resolve is believed only when no other
    /// does better.
    ///
    /// # Errors
    /// What the last server did.
    pub async fn ask(
        &self,
        query: &Query,
        transport: Transport,
        deadline: Instant,
    ) -> Result<(Answer, SocketAddr), DnsError> {
        let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / (ROUNDS * servers).max(1);
        let mut failure = DnsError::Unreachable(io::ErrorKind::NotConnected.into());
        let mut second_best = None;
        for round in 0..ROUNDS {
            for server in &self.servers {
                let until = (Instant::now() + share).min(deadline);
                match self.attempt(query, transport, *server, until).await {
                    Ok(answer) if answer.code() != ResponseCode::ServFail => {
                        return Ok((answer, *server));
                    }
                    Ok(answer) => second_best = Some((answer, *server)),
                    Err(error) => failure = error,
                }
                if Instant::now() >= deadline {
                    return second_best.ok_or(failure);
                }
            }
            // Who says SERVFAIL has tried.
            if round == 0 && second_best.is_some() {
                break;
            }
        }
        second_best.ok_or(failure)
    }

    async fn attempt(
        &self,
        query: &Query,
        transport: Transport,
        server: SocketAddr,
        until: Instant,
    ) -> Result<Answer, DnsError> {
        let exchange = async {
            match transport {
                Transport::Tcp => tcp(query, server).await,
                Transport::Udp => match self.udp(query, server).await? {
                    Some(answer) => Ok(answer),
                    None => tcp(query, server).await,
                },
            }
        };
        timeout_at(until, exchange).await.unwrap_or(Err(DnsError::Timeout))
    }

    /// `None` when the answer does not fit into our buffer.
    async fn udp(&self, query: &Query, server: SocketAddr) -> Result<Option<Answer>, DnsError> {
        let any = match server.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await.map_err(DnsError::Unreachable)?;
        socket.connect(server).await.map_err(DnsError::Unreachable)?;
        let id = random_id()?;
        socket.send(&query.with_id(id)).await.map_err(DnsError::Unreachable)?;
        let mut buffer = vec![0; limits::MAX_DNS_UDP_BYTES + 1];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(DnsError::Unreachable)?;
            let raw = buffer.get(..length).unwrap_or_default().to_vec();
            let whole = length <= limits::MAX_DNS_UDP_BYTES;
            match Answer::parse(query, id, raw) {
                Ok(answer) if whole => return Ok(Some(answer)),
                Err(NotOurs::Mismatch) => self.metrics.dns_mismatched_total.inc(),
                Err(NotOurs::Malformed) if whole => return Err(DnsError::Malformed),
                Ok(_) | Err(NotOurs::Malformed) => return Ok(None),
            }
        }
    }
}

async fn tcp(query: &Query, server: SocketAddr) -> Result<Answer, DnsError> {
    let id = random_id()?;
    let raw = exchange(&query.with_id(id), server).await.map_err(DnsError::Unreachable)?;
    // On a stream of our own nothing else may come first.
    Answer::parse(query, id, raw).map_err(|_not_ours| DnsError::Malformed)
}

async fn exchange(message: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&framed(message)?).await?;
    let length = stream.read_u16().await?;
    let mut raw = vec![0; usize::from(length)];
    stream.read_exact(&mut raw).await?;
    Ok(raw)
}

/// A message with its length in front (RFC 1035 section 4.2.2).
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(message.len() + 2);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    Ok(out)
}

fn random_id() -> Result<u16, DnsError> {
    let mut id = [0; 2];
    let filled = aws_lc_rs::rand::fill(&mut id);
    filled.map_err(|_unspecified| DnsError::Unreachable(io::Error::other("no random numbers")))?;
    Ok(u16::from_be_bytes(id))
}

/// The name servers of a resolv.conf(5). Without any, libc asks this host.
fn of_host(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let servers: Vec<SocketAddr> = words
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect();
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, PORT).into()] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_gives_its_servers_in_order() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1\noptions ndots:2\nnameserver fe80::1%eth0\n";
        let want: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(of_host(text), want);
        assert_eq!(of_host(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn it_never_asks_itself() {
        let own: SocketAddr = "127.0.0.1:15053".parse().unwrap();
        let mut config = config::Config::parse("").unwrap().dns;
        let other: SocketAddr = "127.0.0.1:53".parse().unwrap();
        config.upstream = vec![own, "[::1]:15053".parse().unwrap(), other];
        assert_eq!(Upstreams::new(&config, own, Arc::default()).servers, [other]);
    }
}
