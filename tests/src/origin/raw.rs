//! Origins that misbehave: a script of reads, writes and endings, with or without TLS.
//!
//! - input: [`Step`]s, run once per connection
//! - output: the bytes each connection received
//! - bound: 1 MiB kept per connection, 30 s per step
//! - on failure: a step that fails ends that connection's script

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const MAX_KEPT: usize = 1 << 20;
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a raw origin does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads until an empty line has arrived.
    ReadHead,
    /// Reads this many bytes.
    Read(usize),
    /// Reads until the peer shuts down its side.
    ReadToEnd,
    /// Writes these bytes.
    Write(Bytes),
    /// Writes these bytes one at a time, with a pause before each.
    Drip(Bytes, Duration),
    /// Waits.
    Wait(Duration),
    /// Shuts down the writing side (with TLS: close_notify, then FIN).
    Shutdown,
    /// Returns every byte until the peer shuts down its side.
    Echo,
    /// Closes with a TCP reset, without close_notify.
    Reset,
}

impl Step {
    /// Writes a text.
    pub fn text(text: &str) -> Self {
        Self::Write(Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// A running raw origin; it ends when dropped.
pub struct RawOrigin {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawOrigin {
    /// Listens on loopback and runs `script` on every connection; at its end the connection closes.
    pub async fn start(tls: Option<Arc<ServerConfig>>, script: Vec<Step>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind loopback");
        let addr = listener.local_addr().expect("local address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, tls, script.into(), Arc::clone(&received)));
        Self { addr, received, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bytes received by each connection so far (after decryption), in order of arrival.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    script: Arc<[Step]>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let index = {
            let mut received = received.lock().unwrap();
            received.push(Vec::new());
            received.len() - 1
        };
        let (tls, script) = (tls.clone(), Arc::clone(&script));
        let keep = Keep { received: Arc::clone(&received), index };
        connections.spawn(async move {
            if script.iter().any(|step| matches!(step, Step::Reset)) {
                // Linger 0 turns the close into a reset.
                let socket = socket2::SockRef::from(&tcp);
                drop(socket.set_linger(Some(Duration::ZERO)));
            }
            drop(tcp.set_nodelay(true));
            match tls {
                None => drop(run(tcp, &script, &keep).await),
                Some(tls) => {
                    if let Ok(stream) = TlsAcceptor::from(tls).accept(tcp).await {
                        drop(run(stream, &script, &keep).await);
                    }
                }
            }
        });
    }
}

struct Keep {
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    index: usize,
}

impl Keep {
    fn add(&self, data: &[u8]) {
        let mut received = self.received.lock().unwrap();
        let mine = &mut received[self.index];
        let room = MAX_KEPT.saturating_sub(mine.len());
        mine.extend_from_slice(&data[..data.len().min(room)]);
    }
}

async fn run<S>(mut stream: S, script: &[Step], keep: &Keep) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for step in script {
        timeout(STEP_TIMEOUT, one(&mut stream, step, keep)).await??;
        if matches!(step, Step::Reset) {
            return Ok(());
        }
    }
    stream.shutdown().await
}

async fn one<S>(stream: &mut S, step: &Step, keep: &Keep) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match step {
        Step::ReadHead => {
            let mut last = [0_u8; 4];
            while &last != b"\r\n\r\n" {
                let byte = stream.read_u8().await?;
                last.rotate_left(1);
                last[3] = byte;
                keep.add(&[byte]);
            }
        }
        Step::Read(length) => {
            let mut buffer = vec![0; *length];
            stream.read_exact(&mut buffer).await?;
            keep.add(&buffer);
        }
        Step::ReadToEnd => copy(stream, keep, false).await?,
        Step::Echo => copy(stream, keep, true).await?,
        Step::Write(data) => {
            stream.write_all(data).await?;
            stream.flush().await?;
        }
        Step::Drip(data, pause) => {
            for byte in data {
                tokio::time::sleep(*pause).await;
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
            }
        }
        Step::Wait(time) => tokio::time::sleep(*time).await,
        Step::Shutdown => stream.shutdown().await?,
        Step::Reset => {}
    }
    Ok(())
}

async fn copy<S>(stream: &mut S, keep: &Keep, echo: bool) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        keep.add(&buffer[..length]);
        if echo {
            stream.write_all(&buffer[..length]).await?;
            stream.flush().await?;
        }
    }
}
