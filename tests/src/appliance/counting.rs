//! An origin that counts: every connection, and the path of every request, with its time.
//!
//! - input: HTTP/1.1 without TLS
//! - output: [`Counting::seen`]
//! - bound: one request per connection; heads of at most 4 KiB
//! - on failure: a connection that asks nothing is counted as such

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::Network;

const MAX_HEAD: usize = 4096;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

/// One request.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its path.
    pub path: String,
    /// When its head was complete, since 1970.
    pub at: Duration,
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// Connections accepted.
    pub connections: usize,
    /// Connections that ended without a whole head, and when.
    pub silent: Vec<Duration>,
    /// Requests in order of arrival.
    pub requests: Vec<Arrived>,
}

/// The running origin.
pub struct Counting {
    /// Where it is.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Arrivals>>,
    stop: Arc<Notify>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Counting {
    /// In the namespace of `network`.
    pub fn start(network: &Network, port: u16) -> Self {
        let addr = SocketAddr::from((network.inside, port));
        let netns = File::open(format!("/run/netns/{}", network.name)).unwrap();
        let (seen, stop) = (Arc::default(), Arc::new(Notify::new()));
        let (sender, ready) = sync_channel(1);
        let (all, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // Of this thread only; its runtime stays on it.
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = listen(addr);
                sender.send(()).unwrap();
                tokio::select! {
                    () = serve(listener, &all) => {}
                    () = stopped.notified() => {}
                }
            });
        });
        ready.recv().expect("the origin starts");
        Self { addr, seen, stop, thread: Some(thread) }
    }

    /// What has arrived so far.
    pub fn seen(&self) -> Arrivals {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests have arrived so far.
    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn listen(addr: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

async fn serve(listener: TcpListener, seen: &Arc<Mutex<Arrivals>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.lock().unwrap().connections += 1;
        let seen = Arc::clone(seen);
        tokio::spawn(async move { answer(stream, &seen).await });
    }
}

async fn answer(mut stream: tokio::net::TcpStream, seen: &Mutex<Arrivals>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            seen.lock().unwrap().silent.push(now());
            return;
        }
    }
    let text = String::from_utf8_lossy(&head);
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().requests.push(Arrived { path, at: now() });
    // A gateway that is gone needs no answer.
    drop(stream.write_all(ANSWER).await);
    drop(stream.shutdown().await);
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
