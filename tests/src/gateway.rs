//! A whole gateway in the test's own process, without root: real sockets, real TLS, a real spool.
//!
//! - input: changes to the configuration, a map from original destinations to local origins
//! - output: client connections "captured" for a destination; at the end every recorded row
//! - bound: one worker unless a test says otherwise; 2 s to drain
//! - on failure: panics, since it is test set-up
//!
//! Only the kernel is missing: [`Ports`] answers what the hooks would have stored with the socket,
//! and dials origins on loopback instead of their public addresses. There is no store, so sealed
//! segments stay in the spool until [`TestGateway::shutdown`] has read them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weir_gateway::app::{Gateway, Seams, build};
use weir_gateway::capture::{
    Capture, CaptureError, Captured, CgroupId, OrigDst, Process, ProcessKey, Question, SocketCookie,
};
use weir_gateway::clock::SystemClock;
use weir_gateway::config::Config;
use weir_gateway::forward::dial::{Dialer, Dialing};
use weir_gateway::record::row::Table;
use weir_gateway::spool::fs::RealFs;
use weir_gateway::spool::reader::Reader;
use weir_gateway::telemetry::Metrics;

use crate::ca::TestCa;
use crate::client::Connection;
use crate::rows::{self, Row};

/// The name of the origin in most tests.
pub const NAME: &str = "api.origin.test";
/// Its address, as the client believes.
pub const DST: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 443);
/// The address of an origin that speaks HTTP in the clear.
pub const PLAIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11)), 80);
/// Nobody answers here, not even with a reset.
pub const BLACK_HOLE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 99)), 443);

/// The server that every question is meant for.
pub const NAME_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53)), 53);

/// Dialling this panics: a bug in a flow, on demand.
pub const PANIC: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 98)), 80);

/// Both network seams: what the hooks would know, and where origins really are.
#[derive(Debug, Default)]
struct Ports {
    /// Original destination by the client's own port.
    captured: Mutex<HashMap<u16, SocketAddr>>,
    origins: Mutex<HashMap<SocketAddr, SocketAddr>>,
}

impl Capture for Ports {
    fn record(&self, socket: BorrowedFd<'_>) -> Result<Captured, CaptureError> {
        // a socket that was reset while it waited has no peer any more
        let peer = socket2::SockRef::from(&socket).peer_addr();
        let peer = peer.map_err(|_reset| CaptureError::NoRecord)?;
        let port = peer.as_socket().expect("an IP address").port();
        let captured = self.captured.lock().unwrap();
        let dst = captured.get(&port).ok_or(CaptureError::NoRecord)?;
        Ok(seen(*dst, port))
    }

    /// Whoever asks is this test, and meant a server that is not there.
    fn asker(&self, question: Question) -> Result<Captured, CaptureError> {
        Ok(seen(NAME_SERVER, question.client.port()))
    }
}

fn seen(dst: SocketAddr, port: u16) -> Captured {
    let key = ProcessKey { tgid: std::process::id(), start_time_ns: 1 };
    Captured {
        orig_dst: OrigDst(dst),
        socket_cookie: SocketCookie(u64::from(port)),
        process: Process {
            key,
            cgroup_id: CgroupId(42),
            comm: "proxy-test".into(),
            argv: vec!["proxy-test".into(), "--flag".into()],
            ..Process::default()
        },
        socket_moved: false,
    }
}

impl Dialer for Ports {
    fn dial(&self, dst: OrigDst) -> Dialing {
        assert!(dst.0 != PANIC, "a panic on purpose");
        let origin = self.origins.lock().unwrap().get(&dst.0).copied();
        Box::pin(async move {
            match origin {
                Some(addr) => TcpStream::connect(addr).await,
                None if dst.0 == BLACK_HOLE => std::future::pending().await,
                None => Err(std::io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// A running gateway.
pub struct TestGateway {
    /// Signs the origins' certificates; the gateway trusts it.
    pub ca: TestCa,
    gateway: Gateway,
    ports: Arc<Ports>,
    dir: TempDir,
    spool: std::path::PathBuf,
    /// Connections made to it.
    opened: AtomicU64,
}

/// Everything that a gateway left behind.
pub struct Recorded {
    /// Rows of `flows`, in order of their end.
    pub flows: Vec<Row>,
    /// Rows of `exchanges`.
    pub exchanges: Vec<Row>,
    /// Rows of `bodies`.
    pub bodies: Vec<Row>,
    /// Rows of `gaps`.
    pub gaps: Vec<Row>,
    /// Rows of `heartbeats`.
    pub heartbeats: Vec<Row>,
    /// Rows of `dns_queries`.
    pub dns: Vec<Row>,
    /// Rows of `alarms`.
    pub alarms: Vec<Row>,
    /// Rows of `findings`.
    pub findings: Vec<Row>,
    /// All bytes of all segments but those of the table `bodies`.
    pub raw_without_bodies: Vec<u8>,
    /// All bytes of all segments.
    pub raw: Vec<u8>,
    /// The counters at the end.
    pub metrics: Arc<Metrics>,
    counters: HashMap<String, u64>,
}

impl TestGateway {
    /// Starts a gateway. `change` edits the configuration; `origins` maps original destinations
    /// to listeners.
    pub fn start(
        ca: TestCa,
        change: impl FnOnce(&mut Config),
        origins: &[(SocketAddr, SocketAddr)],
    ) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut config = Config::parse("").expect("defaults");
        config.host.id = Some("test-host".into());
        config.gateway.port = 0;
        config.dns.port = 0;
        config.gateway.workers = 1;
        config.gateway.drain_timeout = Duration::from_secs(2);
        config.tls.ca_dir = dir.path().join("ca");
        config.inspect.state_dir = dir.path().join("inspect");
        config.inspect.fingerprint_key_file = dir.path().join("inspect/fingerprint.key");
        config.tls.extra_roots = vec![ca.write(dir.path(), "origin-ca")];
        config.spool.dir = dir.path().join("spool");
        config.spool.sync_every = Duration::from_millis(20);
        config.store.socket = dir.path().join("no-store.sock");
        config.admin.socket = dir.path().join("admin.sock");
        change(&mut config);
        let spool = config.spool.dir.clone();
        let ports = Arc::new(Ports::default());
        ports.origins.lock().unwrap().extend(origins.iter().copied());
        let (capture, dialer) = (Arc::clone(&ports), Arc::clone(&ports));
        let seams = Seams { capture, dialer, clock: Arc::new(SystemClock), fs: Arc::new(RealFs) };
        weir_gateway::telemetry::init_logging();
        let gateway = build::start(config, seams).expect("start the gateway");
        Self { ca, gateway, ports, dir, spool, opened: AtomicU64::new(0) }
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        self.gateway.metrics()
    }

    /// The running gateway itself.
    pub fn inner(&self) -> &Gateway {
        &self.gateway
    }

    /// Its temporary directory.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Connects as a captured process that asked for `dst`.
    pub async fn tcp(&self, dst: SocketAddr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let port = socket.local_addr()?.port();
        self.ports.captured.lock().unwrap().insert(port, dst);
        let stream = socket.connect(self.gateway.addr()).await.context("connect to the gateway")?;
        self.opened.fetch_add(1, Relaxed);
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects without a capture record.
    pub async fn uncaptured(&self) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let port = socket.local_addr()?.port();
        self.ports.captured.lock().unwrap().remove(&port);
        let stream = socket.connect(self.gateway.addr()).await?;
        self.opened.fetch_add(1, Relaxed);
        Ok(stream)
    }

    /// Roots that hold only the gateway's CA.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.gateway.ca_pem().as_bytes()).unwrap();
        roots.add(der).unwrap();
        roots
    }

    /// A client that trusts the gateway's CA and offers `alpn`.
    pub fn trusting(&self, alpn: &[&str]) -> ClientConfig {
        let mut config =
            ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// TLS to `dst`. `name` is the SNI, unless it is an address, and the name verified.
    pub async fn tls(
        &self,
        dst: SocketAddr,
        name: &str,
        config: ClientConfig,
    ) -> Result<TlsStream<TcpStream>> {
        let tcp = self.tcp(dst).await?;
        let name = ServerName::try_from(name.to_owned())?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS handshake")
    }

    /// HTTPS to `NAME` at `DST`, offering `alpn`.
    pub async fn https(&self, alpn: &[&str]) -> Result<Connection> {
        let stream = self.tls(DST, NAME, self.trusting(alpn)).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Connection::over(stream, h2).await
    }

    /// HTTP/1 in the clear to `PLAIN`.
    pub async fn http(&self) -> Result<Connection> {
        Connection::over(self.tcp(PLAIN).await?, false).await
    }

    /// Waits until a condition holds, at most 10 s.
    ///
    /// # Panics
    /// When it does not come to hold.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Metrics) -> bool) {
        let wait = async {
            while !holds(self.metrics()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(waited.is_ok(), "{what} did not happen; {:?}", self.metrics().snapshot());
    }

    /// Waits until every connection was accepted and no flow is open.
    pub async fn quiet(&self) {
        let opened = self.opened.load(Relaxed);
        let mut before = false;
        self.until("the end of all flows", |m| {
            let now = m.flows_total.value() == opened && m.flows_active.value() == 0;
            // twice, since a flow is counted a moment before it is active
            std::mem::replace(&mut before, now) && now
        })
        .await;
    }

    /// Stops the gateway and reads everything that it recorded.
    ///
    /// # Panics
    /// When any flow had panicked, or anything recorded does not decode.
    pub async fn shutdown(self) -> Recorded {
        self.shutdown_after_panics(0).await
    }

    /// The same after a test that made flows panic.
    ///
    /// # Panics
    /// When another number of flows had panicked.
    pub async fn shutdown_after_panics(self, panics: u64) -> Recorded {
        let Self { gateway, dir, spool, .. } = self;
        let metrics = Arc::clone(gateway.metrics());
        let recorder = gateway.recorder().clone();
        let stopped = tokio::task::spawn_blocking(move || gateway.shutdown());
        stopped.await.expect("no panic").expect("an orderly shutdown");
        assert_eq!(metrics.flow_panics_total.value(), panics, "panics of flows");
        assert_eq!(metrics.flows_active.value(), 0, "flows_active after shutdown");
        let stats = recorder.stats().snapshot();
        let own = stats.into_iter().map(|(name, n)| (name.to_owned(), n));
        let counters = metrics.snapshot().into_iter().chain(own).collect();
        let recorded = Recorded::read(&spool, metrics, counters);
        drop(dir);
        recorded
    }
}

impl Recorded {
    fn read(dir: &std::path::Path, metrics: Arc<Metrics>, counters: HashMap<String, u64>) -> Self {
        let reader = Reader::open(dir, Arc::new(RealFs)).expect("open the spool");
        let mut all = Self {
            flows: Vec::new(),
            exchanges: Vec::new(),
            bodies: Vec::new(),
            gaps: Vec::new(),
            heartbeats: Vec::new(),
            dns: Vec::new(),
            alarms: Vec::new(),
            findings: Vec::new(),
            raw_without_bodies: Vec::new(),
            raw: Vec::new(),
            metrics,
            counters,
        };
        for segment in reader.sealed().expect("list the spool") {
            let segment = reader.load(&segment).expect("an intact segment");
            for batch in segment.batches {
                let decoded = rows::decode(&batch.data);
                assert_eq!(decoded.len() as u64, batch.rows);
                all.raw.extend_from_slice(&batch.data);
                if batch.table != Table::Bodies {
                    all.raw_without_bodies.extend_from_slice(&batch.data);
                }
                match batch.table {
                    Table::Flows => all.flows.extend(decoded),
                    Table::Exchanges => all.exchanges.extend(decoded),
                    Table::Bodies => all.bodies.extend(decoded),
                    Table::Gaps => all.gaps.extend(decoded),
                    Table::Heartbeats => all.heartbeats.extend(decoded),
                    Table::DnsQueries => all.dns.extend(decoded),
                    Table::Alarms => all.alarms.extend(decoded),
                    Table::Findings => all.findings.extend(decoded),
                }
            }
        }
        all.exchanges.sort_by_key(|row| row.text("exchange_id").to_owned());
        all.flows.sort_by_key(|row| row.text("flow_id").to_owned());
        all
    }

    /// A counter of the gateway or its recorder, 0 when it never moved.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }

    /// The only flow.
    pub fn flow(&self) -> &Row {
        assert_eq!(self.flows.len(), 1, "{:#?}", self.flows);
        &self.flows[0]
    }

    /// The only exchange.
    pub fn exchange(&self) -> &Row {
        assert_eq!(self.exchanges.len(), 1, "{:#?}", self.exchanges);
        &self.exchanges[0]
    }

    /// The exchange with this path.
    pub fn at(&self, path: &str) -> &Row {
        let found: Vec<_> = self.exchanges.iter().filter(|row| row.text("path") == path).collect();
        assert_eq!(found.len(), 1, "exchanges at {path}: {found:#?}");
        found[0]
    }

    /// The recorded body of an exchange, its pieces put together.
    pub fn body(&self, exchange: &Row, dir: &str) -> Bytes {
        let id = exchange.text("exchange_id");
        let mine = |row: &&Row| row.text("exchange_id") == id && row.text("dir") == dir;
        let mut pieces: Vec<&Row> = self.bodies.iter().filter(mine).collect();
        pieces.sort_by_key(|row| row.number("chunk"));
        assert!(pieces.iter().all(|row| row.number("chunks") == pieces.len() as u64));
        Bytes::from(pieces.iter().flat_map(|row| row.bytes("body")).collect::<Vec<_>>())
    }
}
