//! The thread of listeners inside other network namespaces.
//!
//! - input: orders on the socket `netns.sock`
//! - output: flows, each a task on this thread
//! - bound: [`MAX_NAMESPACES`]; `gateway.max_connections` over all workers and this
//! - on failure: the order is refused; a socket that cannot be made is logged, and nothing can be
//!   registered until the next start
//!
//! Its listeners end with the gateway. What is registered for them in the kernel is removed at the
//! next start: until somebody registers the namespace again, it is refused, never passed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::unix::pipe::Receiver;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::{LocalSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::worker::{Worker, accept_loop};
use crate::accept::inside::{self, Order};
use crate::capture::netns;

/// Namespaces with listeners at once.
const MAX_NAMESPACES: usize = 64;

/// Namespaces and what ends their listeners.
type Held = Rc<RefCell<BTreeMap<u64, CancellationToken>>>;

/// Begins: whatever is registered for listeners that ended is forgotten.
pub(super) fn begin(shared: &Shared) {
    if let Err(error) = netns::forget_listening(&shared.maps) {
        tracing::warn!(%error, "what an earlier gateway registered is still there, and refused");
    }
}

/// A socket file that nobody listens on any more is replaced; a live one is an error.
pub(super) fn bind(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Runs until shutdown.
pub(super) fn run(
    shared: Arc<Shared>,
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(shared, socket))
}

async fn serve(
    shared: Arc<Shared>,
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    let held = Held::default();
    loop {
        let stream = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting an order about a namespace");
                    continue;
                }
            },
            () = shared.shutdown.cancelled() => break,
        };
        // One after the other: they are rare, short, and root's.
        if let Err(error) = order(&worker, &held, stream).await {
            tracing::warn!(%error, "order about a network namespace refused");
        }
    }
    drop(socket);
    if !shared.ending.handed_over.is_cancelled() {
        // Somebody else's directory may keep it: then who made it removes it.
        drop(std::fs::remove_file(shared.config.orders_socket()));
    }
    if !shared.drain(&worker.tasks).await {
        tracing::warn!("flows were still open at the drain deadline and are cut");
    }
    Ok(())
}

async fn order(worker: &Rc<Worker>, held: &Held, stream: UnixStream) -> std::io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let received = spawn_blocking(move || inside::take(&stream).map(|order| (order, stream)));
    let (Order { cookie, listeners, process }, stream) =
        received.await.map_err(std::io::Error::other)??;
    if let Some(earlier) = held.borrow_mut().remove(&cookie) {
        earlier.cancel();
    }
    if !listeners.is_empty() {
        if held.borrow().len() >= MAX_NAMESPACES {
            return Err(std::io::Error::other(format!("more than {MAX_NAMESPACES} namespaces")));
        }
        // No pipe, but a descriptor that becomes readable: when the process ends.
        let process = process.map(Receiver::from_owned_fd_unchecked).transpose()?;
        let end = worker.shared.shutdown.child_token();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let (worker, until) = (Rc::clone(worker), end.clone());
            let tasks = worker.tasks.clone();
            tasks.spawn(async move {
                // The descriptor keeps the namespace alive: it goes with this task.
                tokio::select! {
                    () = accept_loop(worker, listener) => {}
                    () = until.cancelled() => {}
                }
            });
        }
        if let Some(process) = process {
            let (worker, held) = (Rc::clone(worker), Rc::clone(held));
            let (tasks, end) = (worker.tasks.clone(), end.clone());
            tasks.spawn(async move { follow(&worker, &held, cookie, process, end).await });
        }
        held.borrow_mut().insert(cookie, end);
    }
    inside::answer(&stream)
}

/// Forgets a namespace with the process that it was registered for.
async fn follow(
    worker: &Worker,
    held: &Held,
    cookie: u64,
    process: Receiver,
    end: CancellationToken,
) {
    tokio::select! {
        _ = process.readable() => {}
        () = end.cancelled() => return,
    }
    held.borrow_mut().remove(&cookie);
    let maps = worker.shared.maps.clone();
    let removed = spawn_blocking(move || netns::unregister(&maps, cookie)).await;
    if !matches!(removed, Ok(Ok(_))) {
        tracing::warn!(cookie, "a namespace whose process ended stays registered, and refused");
    }
    // After the kernel refuses: who connects in between is still served.
    end.cancel();
}
