//! The thread of the resolver.
//!
//! - input: its open sockets
//! - output: answers, until shutdown
//! - bound: see `dns::server`
//! - on failure: an error that stops the gateway; open queries end at the drain deadline

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::LocalSet;

use super::Shared;
use super::tasks::Tasks;
use super::worker::identifier;
use crate::dns::server::{Server, Sockets};
use crate::dns::{Askers, Resolver};

/// Runs until shutdown.
pub(super) fn run(shared: Arc<Shared>, sockets: Sockets) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(shared, sockets))
}

async fn serve(shared: Arc<Shared>, sockets: Sockets) -> std::io::Result<()> {
    let config = &shared.config.dns;
    let metrics = &shared.metrics;
    let resolver = Resolver::new(
        config,
        sockets.addr(),
        Arc::clone(&shared.journal),
        shared.recorder.clone(),
        Arc::clone(metrics),
        Arc::clone(&shared.seams.clock),
        Askers {
            capture: Arc::clone(&shared.seams.capture),
            identifier: identifier(&shared),
            registry: shared.vouched(),
        },
    );
    let tasks = Tasks::new(Arc::clone(metrics));
    let spawn = tasks.clone();
    let server = Server::new(
        resolver,
        Arc::clone(metrics),
        config.max_inflight,
        config.max_connections,
        shared.shutdown.clone(),
        Rc::new(move |task| spawn.spawn(task)),
    );
    server.start(sockets)?;
    shared.shutdown.cancelled().await;
    if !shared.drain(&tasks).await {
        tracing::warn!("dns queries were still open at the drain deadline and are cut");
    }
    Ok(())
}
