//! A name server that answers what a test tells it to, and a client with raw messages.
//!
//! - input: a function from question to bytes
//! - output: those bytes, over UDP and TCP on one port
//! - bound: the test's run time
//! - on failure: panics, since it is test set-up

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What a name server sends for one question.
#[derive(Clone, Debug)]
pub enum Sent {
    /// These bytes.
    Own(Vec<u8>),
    /// These bytes from another port (UDP only).
    Stranger(Vec<u8>),
}

/// From the question, and whether it came over TCP, to what is sent.
pub type Script = Arc<dyn Fn(&Message, bool) -> Vec<Sent> + Send + Sync>;

/// A scripted name server on 127.0.0.1.
pub struct FakeDns {
    addr: SocketAddr,
    asked: Arc<AtomicU64>,
    raw: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl FakeDns {
    /// Starts one.
    pub async fn start(
        script: impl Fn(&Message, bool) -> Vec<Sent> + Send + Sync + 'static,
    ) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            match UdpSocket::bind(listener.local_addr().unwrap()).await {
                Ok(socket) => break (listener, socket),
                Err(_) => continue,
            }
        };
        let server = Self {
            addr: listener.local_addr().unwrap(),
            asked: Arc::default(),
            raw: Arc::default(),
        };
        let script: Script = Arc::new(script);
        let seen = (Arc::clone(&server.asked), Arc::clone(&server.raw));
        tokio::spawn(udp(socket, Arc::clone(&script), seen.clone()));
        tokio::spawn(tcp(listener, script, seen));
        server
    }

    /// Where it listens, UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Questions so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Those questions as they came.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        self.raw.lock().unwrap().clone()
    }
}

type Seen = (Arc<AtomicU64>, Arc<Mutex<Vec<Vec<u8>>>>);

fn note(seen: &Seen, raw: &[u8]) -> Message {
    seen.0.fetch_add(1, Ordering::Relaxed);
    seen.1.lock().unwrap().push(raw.to_vec());
    Message::from_vec(raw).expect("weir forwards questions that parse")
}

async fn udp(socket: UdpSocket, script: Script, seen: Seen) {
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        for sent in script(&note(&seen, &buffer[..length]), false) {
            match sent {
                Sent::Own(raw) => socket.send_to(&raw, peer).await.unwrap(),
                Sent::Stranger(raw) => stranger.send_to(&raw, peer).await.unwrap(),
            };
        }
    }
}

async fn tcp(listener: TcpListener, script: Script, seen: Seen) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (script, seen) = (Arc::clone(&script), seen.clone());
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut raw = vec![0; usize::from(length)];
                stream.read_exact(&mut raw).await.unwrap();
                for sent in script(&note(&seen, &raw), true) {
                    let (Sent::Own(raw) | Sent::Stranger(raw)) = sent;
                    // A resolver that has enough hangs up.
                    drop(stream.write_all(&framed(&raw)).await);
                }
            }
        });
    }
}

fn framed(raw: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(raw.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(raw);
    out
}

/// A name.
pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A question with recursion desired; with `edns`, datagrams of that size.
pub fn question(id: u16, qname: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(qname), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

/// The answer to a question.
pub fn answer(question: &Message, records: Vec<Record>) -> Message {
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_queries(question.queries.iter().cloned());
    message.add_answers(records);
    message
}

/// A record with a lifetime of a minute.
pub fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

/// An A record.
pub fn a(owner: &str, ip: Ipv4Addr) -> Record {
    record(owner, RData::A(hickory_proto::rr::rdata::A(ip)))
}

/// Asks over UDP.
pub async fn ask_udp(server: SocketAddr, question: &Message) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer));
    let length = received.await.context("waiting for an answer")??;
    buffer.truncate(length);
    Ok(buffer)
}

/// Sends raw messages on one TCP connection, each after the answer to the one before.
pub async fn ask_tcp(server: SocketAddr, questions: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut answers = Vec::new();
    for question in questions {
        stream.write_all(&framed(question)).await?;
        let read = async {
            let mut raw = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut raw).await?;
            Ok::<_, std::io::Error>(raw)
        };
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        answers.push(read.context("waiting for an answer")??);
    }
    Ok(answers)
}
