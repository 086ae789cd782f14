//! What the gateway may not read itself: asked of `weir guard`, which may.
//!
//! - input: the kernel's identifiers of a process
//! - output: the path of its executable; secrets of its environment; what can be seen of the capture
//! - bound: one connection and one question at a time per [`Guard`], [`PATIENCE`] for each
//! - on failure: nothing is known, and it is counted; a question later connects again
//!
//! One packet per question and answer: `exe TGID DEV INO`, `environment TGID START DEV INO` or `capture`; `=` and the answer, or `-`.

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::capture::repair::look::Look;
use crate::capture::{ExeId, Process, ProcessKey};
use crate::packet;
use crate::telemetry::Metrics;

pub mod server;

/// For one question, with those before it on this connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// A path has at most 4096 bytes; a look is some layers and 32 short entries.
const MAX_PACKET_BYTES: usize = 32 * 1024;
const KNOWN: u8 = b'=';
const UNKNOWN: &[u8] = b"-";

/// The guard is away or too slow. The next question may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// The guard, as the gateway sees it.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    link: Mutex<Option<UnixStream>>,
    metrics: Arc<Metrics>,
}

impl Guard {
    /// Connects with the first question.
    pub fn new(path: &Path, metrics: Arc<Metrics>) -> Self {
        Self { path: path.to_owned(), link: Mutex::default(), metrics }
    }

    /// Path of the executable of a process, if it still is the one that the hook saw.
    ///
    /// # Errors
    /// [`Unanswered`]
    ///
    /// # Cancel safety
    /// Safe: the connection is given up.
    pub async fn exe_path(
        &self,
        process: &Process,
    ) -> std::result::Result<Option<String>, Unanswered> {
        let (tgid, exe) = (process.key.tgid, process.exe);
        let answer = self.ask(&format!("exe {tgid} {} {}", exe.dev, exe.ino)).await?;
        Ok(answer.map(|path| String::from_utf8_lossy(&path).into_owned()))
    }

    /// What looks like a secret in the environment of a captured process, as procfs writes it.
    ///
    /// # Errors
    /// [`Unanswered`]
    ///
    /// # Cancel safety
    /// Safe: the connection is given up.
    pub async fn secrets(
        &self,
        process: &Process,
    ) -> std::result::Result<Option<Zeroizing<Vec<u8>>>, Unanswered> {
        let ExeId { dev, ino } = process.exe;
        let ProcessKey { tgid, start_time_ns } = process.key;
        let answer = self.ask(&format!("environment {tgid} {start_time_ns} {dev} {ino}")).await?;
        Ok(answer.map(Zeroizing::new))
    }

    /// What can be seen of the capture; `None` when the guard did not answer.
    ///
    /// # Cancel safety
    /// Safe: the connection is given up.
    pub async fn look(&self) -> Option<Look> {
        let answer = String::from_utf8(self.ask("capture").await.ok()??).ok()?;
        Some(Look::parse(&answer))
    }

    async fn ask(&self, question: &str) -> std::result::Result<Option<Vec<u8>>, Unanswered> {
        match timeout(PATIENCE, self.converse(question)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_late) => Err(self.failed(&ErrorKind::TimedOut.into())),
        }
    }

    fn failed(&self, error: &Error) -> Unanswered {
        self.metrics.guard_failed_total.inc();
        tracing::debug!(%error, path = %self.path.display(), "the guard did not answer");
        Unanswered
    }

    async fn converse(&self, question: &str) -> Result<Option<Vec<u8>>> {
        let mut link = self.link.lock().await;
        // Taken out: an answer that was not waited for must not be read for the next question.
        let stream = match link.take() {
            Some(stream) => stream,
            None => connect(&self.path)?,
        };
        send(&stream, question.as_bytes()).await?;
        let answer = receive(&stream).await?;
        *link = Some(stream);
        match answer.split_first() {
            Some((&KNOWN, answer)) => Ok(Some(answer.to_vec())),
            Some(_unknown) => Ok(None),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    let stream = packet::connect(path)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn send(stream: &UnixStream, bytes: &[u8]) -> Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            sent => return sent.map(drop),
        }
    }
}

/// One packet; an empty one at the end.
async fn receive(stream: &UnixStream) -> Result<Vec<u8>> {
    let mut bytes = vec![0; MAX_PACKET_BYTES];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
        }
    }
}
