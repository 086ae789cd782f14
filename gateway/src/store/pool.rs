//! Engine connections and the threads that run statements on them.
//!
//! - input: [`Job`]s from the HTTP side
//! - output: pieces of answers, through the channels that each job brings
//! - bound: [`WRITERS`] + [`READERS`] threads, [`MAX_QUEUED`] waiting jobs per kind, and
//!   [`MAX_STALL`] for a client that neither sends nor reads
//! - on failure: the job's own channel carries the engine's error; the connection stays usable

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::ffi::{Api, Connection, EngineError};
use super::lockdown::Arguments;
use super::rowbinary;

/// Connections that may write.
pub(super) const WRITERS: usize = 2;
/// Connections of analysts.
pub(super) const READERS: usize = 4;
/// Jobs that wait for a connection; further ones are refused with code 202.
pub(super) const MAX_QUEUED: usize = 64;
/// A client that holds a connection without sending or reading is cut off.
const MAX_STALL: Duration = Duration::from_secs(60);
/// Bytes of an insert.
const MAX_INSERT_BYTES: usize = 512 * 1024 * 1024;
/// The client recognises an error in the middle of an answer only when it arrives in one read: the
/// rows before it must have been read. It is sent after each of these waits, until the client
/// hangs up; then the connection breaks.
const SETTLE: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// A statement to run.
pub(super) enum Job {
    /// Anything but an insert with data.
    Query(QueryJob),
    /// An insert whose data follows.
    Insert(InsertJob),
}

/// See [`Job::Query`].
pub(super) struct QueryJob {
    /// Current database of the statement.
    pub(super) database: String,
    /// The statement.
    pub(super) sql: String,
    /// Its format, when it names none itself.
    pub(super) format: String,
    /// Server-side parameters.
    pub(super) params: Vec<(String, String)>,
    /// Answered once, before the first piece.
    pub(super) head: oneshot::Sender<Result<(), EngineError>>,
    /// The formatted rows.
    pub(super) out: mpsc::Sender<Piece>,
}

/// See [`Job::Insert`].
pub(super) struct InsertJob {
    /// Current database of the statement.
    pub(super) database: String,
    /// The statement without its `FORMAT` clause.
    pub(super) sql: String,
    /// Format of the data.
    pub(super) format: String,
    /// The data; without [`Feed::End`] the insert is cancelled.
    pub(super) data: mpsc::Receiver<Feed>,
    /// Answered once: rows written.
    pub(super) done: oneshot::Sender<Result<u64, EngineError>>,
}

/// A part of an insert's data.
pub(super) enum Feed {
    /// Bytes in the insert's format.
    Data(Bytes),
    /// All bytes have come. A client that goes away says nothing, and what it sent may end
    /// between two rows: only this completes an insert.
    End,
}

/// A part of a streamed answer.
pub(super) enum Piece {
    /// Formatted rows.
    Data(Bytes),
    /// The statement failed after rows were sent.
    Failed(EngineError),
    /// After [`Piece::Failed`]: break the connection, so that nobody takes the answer for whole.
    Broken,
}

/// Where jobs go.
pub(super) struct Senders {
    writer: SyncSender<Job>,
    reader: SyncSender<Job>,
}

impl Senders {
    /// Queues a job.
    ///
    /// # Errors
    /// Code 202 when the queue is full.
    pub(super) fn submit(&self, writer: bool, job: Job) -> Result<(), EngineError> {
        let sender = if writer { &self.writer } else { &self.reader };
        sender.try_send(job).map_err(|e| {
            let what = match e {
                TrySendError::Full(_) => "too many statements wait for the store",
                TrySendError::Disconnected(_) => "the store is ending",
            };
            EngineError::new(202, "TOO_MANY_SIMULTANEOUS_QUERIES", what)
        })
    }
}

/// What a worker thread reports when it is up, and the kind of its connection.
pub(super) struct Pools {
    api: &'static Api,
    arguments: Arguments,
}

impl Pools {
    /// Checks that both kinds of connections open.
    pub(super) fn open(api: &'static Api, arguments: &Arguments) -> Result<Self, EngineError> {
        drop(Connection::open(api, &arguments.reader)?);
        Ok(Self { api, arguments: arguments.clone() })
    }

    /// Starts the threads. `handle` is of the runtime that serves the clients.
    pub(super) fn start(self, handle: &Handle) -> (Senders, Workers) {
        let (writer, writer_jobs) = sync_channel(MAX_QUEUED);
        let (reader, reader_jobs) = sync_channel(MAX_QUEUED);
        let mut threads = Vec::with_capacity(WRITERS + READERS);
        let kinds = [
            (WRITERS, writer_jobs, self.arguments.writer, true),
            (READERS, reader_jobs, self.arguments.reader, false),
        ];
        for (count, jobs, args, may_write) in kinds {
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..count {
                let worker = Worker {
                    api: self.api,
                    args: args.clone(),
                    jobs: Arc::clone(&jobs),
                    handle: handle.clone(),
                    may_write,
                };
                threads.push(std::thread::spawn(move || worker.run()));
            }
        }
        (Senders { writer, reader }, Workers(threads))
    }
}

/// The running threads.
pub(super) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Waits until every thread has closed its connection; false when time ran out.
    pub(super) fn wait(self, runtime: &Runtime, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.0.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > deadline {
                return false;
            }
            // Lets timers and half-sent answers of the runtime proceed meanwhile.
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
        self.0.into_iter().all(|thread| thread.join().is_ok())
    }
}

struct Worker {
    api: &'static Api,
    args: Vec<String>,
    jobs: Arc<Mutex<Receiver<Job>>>,
    handle: Handle,
    may_write: bool,
}

impl Worker {
    fn run(self) {
        let mut open: Option<(Connection, String)> = None;
        while let Some(job) = self.next_job() {
            let (connection, database) = match open.take() {
                Some(open) => open,
                None => match Connection::open(self.api, &self.args) {
                    Ok(connection) => (connection, "default".to_owned()),
                    Err(error) => {
                        job.refuse(error);
                        continue;
                    }
                },
            };
            let wanted = job.database();
            let switched = switch(&connection, &database, wanted);
            let database = match switched {
                Ok(()) => wanted.to_owned(),
                Err(error) => {
                    job.refuse(error);
                    open = Some((connection, database));
                    continue;
                }
            };
            match job {
                Job::Query(job) => self.query(&connection, job),
                Job::Insert(job) => self.insert(&connection, job),
            }
            open = Some((connection, database));
        }
    }

    fn next_job(&self) -> Option<Job> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.recv().ok()
    }

    fn query(&self, connection: &Connection, job: QueryJob) {
        let QueryJob { database, sql, format, params, head, out } = job;
        let reads = connection.only_reads(&sql, &database);
        if !self.may_write && !reads {
            let what = "this user may only run single statements that read";
            answer(head, Err(EngineError::new(497, "ACCESS_DENIED", what)));
            return;
        }
        let mut reply = Reply { handle: &self.handle, head: Some(head), out };
        let done = if reads && streams(&sql, &format) {
            reply.stream(connection, &sql, &format, &params)
        } else {
            reply.whole(connection, &sql, &format, &params)
        };
        reply.end(done);
    }

    fn insert(&self, connection: &Connection, job: InsertJob) {
        let InsertJob { sql, format, mut data, done, .. } = job;
        let result = (|| {
            let mut insert = connection.insert(&sql, &format)?;
            let mut bytes = 0_usize;
            loop {
                let next = async { tokio::time::timeout(MAX_STALL, data.recv()).await };
                match self.handle.block_on(next) {
                    Ok(Some(Feed::Data(piece))) => {
                        bytes = bytes.saturating_add(piece.len());
                        if bytes > MAX_INSERT_BYTES {
                            let what = format!("an insert is larger than {MAX_INSERT_BYTES} bytes");
                            return Err(EngineError::new(191, "SET_SIZE_LIMIT_EXCEEDED", what));
                        }
                        insert.append(&piece)?;
                    }
                    Ok(Some(Feed::End)) => return insert.finish(),
                    Ok(None) => {
                        let what = "the client broke off the insert";
                        return Err(EngineError::new(210, "NETWORK_ERROR", what));
                    }
                    Err(_elapsed) => {
                        let what = "the client stopped sending in the middle of an insert";
                        return Err(EngineError::new(209, "SOCKET_TIMEOUT", what));
                    }
                }
            }
        })();
        answer(done, result);
    }
}

impl Job {
    fn database(&self) -> &str {
        match self {
            Self::Query(job) => &job.database,
            Self::Insert(job) => &job.database,
        }
    }

    fn refuse(self, error: EngineError) {
        match self {
            Self::Query(job) => answer(job.head, Err(error)),
            Self::Insert(job) => answer(job.done, Err(error)),
        }
    }
}

/// The client may be gone; then nobody misses the answer.
fn answer<T>(to: oneshot::Sender<T>, what: T) {
    if to.send(what).is_err() {
        tracing::debug!("a client left before its answer");
    }
}

fn switch(connection: &Connection, current: &str, wanted: &str) -> Result<(), EngineError> {
    if current == wanted {
        return Ok(());
    }
    // `wanted` consists of letters, digits and `_`: `request` checks it.
    connection.query(&format!("USE `{wanted}`"), "Null", &[]).map(drop)
}

/// Formats whose pieces can follow each other. A `FORMAT` clause may name any other one, and what
/// looks like a clause may be inside a string, so its mere appearance means: not in pieces.
fn streams(sql: &str, format: &str) -> bool {
    const PLAIN: [&str; 8] = [
        "RowBinary",
        "RowBinaryWithNamesAndTypes",
        "TabSeparated",
        "TSV",
        "CSV",
        "JSONEachRow",
        "JSONCompactEachRow",
        "Native",
    ];
    PLAIN.contains(&format) && !super::request::mentions_format(sql)
}

/// The way back to the client.
struct Reply<'a> {
    handle: &'a Handle,
    head: Option<oneshot::Sender<Result<(), EngineError>>>,
    out: mpsc::Sender<Piece>,
}

impl Reply<'_> {
    fn stream(
        &mut self,
        connection: &Connection,
        sql: &str,
        format: &str,
        params: &[(String, String)],
    ) -> Result<(), EngineError> {
        let mut stream = match connection.stream(sql, format, params) {
            Err(e) if e.text.contains("Streaming query is not supported") => {
                return self.whole(connection, sql, format, params);
            }
            other => other?,
        };
        let strip = format == "RowBinaryWithNamesAndTypes";
        let mut first = true;
        while let Some(piece) = stream.next()? {
            let mut rows = piece.bytes();
            if strip && !first {
                let header = rowbinary::header_len(rows).unwrap_or(rows.len());
                rows = rows.get(header..).unwrap_or_default();
            }
            first = false;
            if !self.send(rows) {
                return Ok(());
            }
        }
        if first {
            // No piece at all, but the format may begin with a header: ask for the empty answer.
            drop(stream);
            return self.whole(connection, sql, format, params);
        }
        Ok(())
    }

    fn whole(
        &mut self,
        connection: &Connection,
        sql: &str,
        format: &str,
        params: &[(String, String)],
    ) -> Result<(), EngineError> {
        let answer = connection.query(sql, format, params)?;
        for part in answer.bytes().chunks(1024 * 1024) {
            if !self.send(part) {
                break;
            }
        }
        Ok(())
    }

    /// False when the client is gone or has stopped reading.
    fn send(&mut self, rows: &[u8]) -> bool {
        if let Some(head) = self.head.take() {
            answer(head, Ok(()));
        }
        self.put(Piece::Data(Bytes::copy_from_slice(rows)))
    }

    fn put(&self, piece: Piece) -> bool {
        let sent = async { tokio::time::timeout(MAX_STALL, self.out.send(piece)).await };
        matches!(self.handle.block_on(sent), Ok(Ok(())))
    }

    fn end(&mut self, done: Result<(), EngineError>) {
        match (self.head.take(), done) {
            (Some(head), done) => answer(head, done),
            (None, Ok(())) => {}
            (None, Err(error)) => {
                for wait in SETTLE {
                    std::thread::sleep(wait);
                    if !self.put(Piece::Failed(error.clone())) {
                        return;
                    }
                }
                self.put(Piece::Broken);
            }
        }
    }
}
