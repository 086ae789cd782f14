//! `weir store`: the embedded ClickHouse engine behind the subset of ClickHouse's HTTP interface
//! that the official client uses.
//!
//! - input: `[store]` of the configuration; HTTP requests on a unix socket
//! - output: rows on disk and answers to queries
//! - bound: connections, queued statements, statement size and engine memory, see the constants
//!   here and in [`pool`]
//! - on failure: [`StoreError`] at start; later each request gets its own error answer
//!
//! A process of its own: 566 MB of C++ stays out of the data path, and its memory, crashes and
//! user id are not the gateway's. Killing it at any moment loses no acknowledged row.

use std::convert::Infallible;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config;
use crate::error::{Fault, Faulty};

pub mod engine;
mod ffi;
mod http;
mod lockdown;
mod pool;
mod request;
mod rowbinary;

pub use engine::find_engine;

/// User that may write, in `X-ClickHouse-User`.
pub const WRITER: &str = "weir";
/// User that may only read.
pub const ANALYST: &str = "analyst";

/// Clients connected at once; further ones wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 128;
/// Running requests get this long when the store is told to end.
const DRAIN: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 128;

/// Why the store did not start.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No engine is installed.
    #[error(
        "no ClickHouse engine found (looked at {}); get it with `cargo xtask setup` in a checkout \
         of weir, or place libchdb.so in /usr/local/lib/weir, or name it in `store.engine`, or set \
         `store.url` to use a ClickHouse server",
        list(.0)
    )]
    EngineMissing(Vec<PathBuf>),
    /// The file is there but is not a usable engine.
    #[error("loading the ClickHouse engine {}: {what}", path.display())]
    EngineLoad {
        /// Which file.
        path: PathBuf,
        /// What the dynamic linker answered.
        what: String,
    },
    /// The engine loaded but did not open its data.
    #[error("opening the ClickHouse data in {}: {what}", path.display())]
    EngineStart {
        /// Data directory.
        path: PathBuf,
        /// What the engine answered.
        what: String,
    },
    /// Another store uses the data directory.
    #[error("another weir store is running on the data directory {}", .0.display())]
    DataDirInUse(PathBuf),
    /// The data directory cannot be used.
    #[error("using the data directory {}: {what}", path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another process listens on the socket.
    #[error("another process listens on {}", .0.display())]
    SocketInUse(PathBuf),
    /// The socket's path names something that is not a socket.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// A file or socket operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl Faulty for StoreError {
    fn fault(&self) -> Fault {
        match self {
            Self::EngineMissing(_)
            | Self::EngineLoad { .. }
            | Self::EngineStart { .. }
            | Self::DataDirInUse(_)
            | Self::DataDir { .. }
            | Self::SocketInUse(_)
            | Self::NotASocket(_)
            | Self::Io { .. } => Fault::Internal,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::EngineMissing(_) => "engine_missing",
            Self::EngineLoad { .. } | Self::EngineStart { .. } => "engine_failed",
            Self::DataDirInUse(_) | Self::SocketInUse(_) => "store_running",
            Self::DataDir { .. } | Self::NotASocket(_) | Self::Io { .. } => "store_failed",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Serves until SIGTERM or SIGINT, then closes the engine and ends the process with status 0.
///
/// Ready when the socket accepts connections. Never returns `Ok`: once the engine is loaded the
/// process must not run its static destructors.
///
/// The socket belongs to `owner` if one is given: the account of a gateway that is not ours.
///
/// # Errors
/// [`StoreError`] when the store cannot start.
pub fn run(config: &config::Store, owner: Option<u32>) -> Result<Infallible, StoreError> {
    let _lock = lock(&config.data_dir)?;
    refuse_live_socket(&config.socket)?;
    let arguments = lockdown::prepare(config)?;
    let started = Instant::now();
    let api = engine::load(config)?;
    let failed = |e: ffi::EngineError| StoreError::EngineStart {
        path: config.data_dir.clone(),
        what: e.to_string(),
    };
    // Keeps the engine open while the pools' connections come and go.
    let keep = ffi::Connection::open(api, &arguments.writer).map_err(failed)?;
    let version = version(&keep);
    let pools = pool::Pools::open(api, &arguments).map_err(failed)?;
    let served = serve(config, owner, pools, &version, started);
    drop(keep);
    let answer = api.shutdown();
    served?;
    tracing::info!(answer, "store ended");
    ffi::leave(0)
}

fn version(connection: &ffi::Connection) -> String {
    let answer = connection.query("SELECT version()", "TSVRaw", &[]);
    answer.map_or_else(
        |_unknown| String::new(),
        |answer| String::from_utf8_lossy(answer.bytes()).trim().to_owned(),
    )
}

/// The engine also locks its directory, but says so only in its own log.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Io { action: format!("opening {}", dir.display()), source };
    fs::create_dir_all(dir).map_err(failed)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::DataDirInUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn refuse_live_socket(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Err(_absent) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(StoreError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(StoreError::SocketInUse(path.to_owned())),
        // A leftover of a store that was killed; `listen` replaces it.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => {
            Err(StoreError::Io { action: format!("probing {}", path.display()), source })
        }
    }
}

/// Binds under another name and renames, so that the socket appears at once, with its mode set.
fn listen(path: &Path, owner: Option<u32>) -> Result<UnixListener, StoreError> {
    let failed =
        |source| StoreError::Io { action: format!("listening on {}", path.display()), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let address = socket2::SockAddr::unix(&fresh).map_err(failed)?;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let socket = socket.map_err(failed)?;
    socket.bind(&address).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    std::os::unix::fs::lchown(&fresh, owner, None).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
    UnixListener::from_std(socket.into()).map_err(failed)
}

fn serve(
    config: &config::Store,
    owner: Option<u32>,
    pools: pool::Pools,
    version: &str,
    started: Instant,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { action: "starting the store".to_owned(), source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let workers = runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let (senders, workers) = pools.start(&tokio::runtime::Handle::current());
        let service = Arc::new(http::Service::new(senders));
        let listener = listen(&config.socket, owner)?;
        tracing::info!(
            socket = %config.socket.display(),
            version,
            ready_after_ms = started.elapsed().as_millis(),
            "store ready"
        );
        let mut connections = JoinSet::new();
        let (stop, stopped) = watch::channel(());
        tokio::select! {
            () = accept(&listener, &service, &stopped, &mut connections) => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        drop(listener);
        drop(stop);
        drain(connections).await;
        match fs::remove_file(&config.socket) {
            Err(error) => tracing::warn!(%error, "removing the socket"),
            Ok(()) => tracing::info!("store ending"),
        }
        Ok::<_, StoreError>(workers)
    })?;
    // The service is gone with its senders: workers finish what they have and end.
    let all_ended = workers.wait(&runtime, DRAIN);
    if !all_ended {
        // Statements still run on other threads; closing under them would crash, ending is safe.
        tracing::warn!("statements were cut off at shutdown");
        ffi::leave(0);
    }
    Ok(())
}

/// Accepts until the caller drops it.
async fn accept(
    listener: &UnixListener,
    service: &Arc<http::Service>,
    stopped: &watch::Receiver<()>,
    connections: &mut JoinSet<()>,
) {
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let service = Arc::clone(service);
                    connections.spawn(http::connection(stream, service, stopped.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: back off instead of spinning.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Waits for running requests; those that take too long lose their connection.
async fn drain(mut connections: JoinSet<()>) {
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!(open = connections.len(), "requests were cut off at shutdown");
        connections.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_on_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(StoreError::DataDirInUse(_))));
    }

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sock");
        refuse_live_socket(&path).unwrap();
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(refuse_live_socket(&path), Err(StoreError::SocketInUse(_))));
        drop(live);
        refuse_live_socket(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"a file").unwrap();
        assert!(matches!(refuse_live_socket(&path), Err(StoreError::NotASocket(_))));
    }
}
