//! The control thread: delivers the spool to ClickHouse, beats, answers the admin socket.
//!
//! - input: sealed segments, counters
//! - output: acknowledged segments, heartbeat rows, `/health` and `/metrics`
//! - bound: one segment in flight; one heartbeat per [`BEAT_EVERY`]
//! - on failure: logged and tried again; the data path goes on as long as the spool has room

use std::sync::Arc;
use std::time::Duration;

use clickhouse::Client;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::admin;
use crate::record::Record;
use crate::record::row::HeartbeatRow;
use crate::sink::ClickHouseSink;
use crate::sink::deliver::Delivery;
use crate::spool::reader::Reader;

/// Time between two heartbeat rows.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// At shutdown the last segments get this long to reach ClickHouse; what does not stays spooled.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

/// Runs until `stop`, and then delivers what is sealed by then.
pub(super) fn run(shared: &Arc<Shared>, client: Client, stop: &CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(shared, client, stop)),
        Err(error) => {
            tracing::error!(%error, "no runtime for the control thread");
            shared.shutdown.cancel();
        }
    }
}

async fn serve(shared: &Arc<Shared>, client: Client, stop: &CancellationToken) {
    let config = &shared.config;
    let reader = match Reader::open(&config.spool.dir, Arc::clone(&shared.seams.fs)) {
        Ok(reader) => reader,
        Err(error) => {
            tracing::error!(%error, "opening the spool for delivery");
            shared.shutdown.cancel();
            return;
        }
    };
    let sink = ClickHouseSink::new(client.clone());
    let mut delivery = Delivery::new(reader, sink);
    let database = config.store.database.clone();
    let deliver = async {
        delivery.migrated(&client, &database, stop).await;
        delivery.run(stop).await;
    };
    let admin = {
        let shared = Arc::clone(shared);
        admin::serve(&config.admin.socket, stop, move |path| answer(&shared, path))
    };
    tokio::join!(deliver, beat(shared, stop), async {
        if let Err(error) = admin.await {
            tracing::error!(%error, "admin socket");
        }
    });
    if tokio::time::timeout(LAST_DELIVERY, delivery.flush()).await.is_err() {
        tracing::warn!("the last segments stay in the spool for the next start");
    }
}

async fn beat(shared: &Shared, stop: &CancellationToken) {
    let mut every = tokio::time::interval(BEAT_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        // Full or failed spools refuse this too; they count for themselves.
        if let Ok(permit) = shared.recorder.reserve().await {
            permit.send(Record::Heartbeat(Box::new(heartbeat(shared))));
        }
    }
}

fn heartbeat(shared: &Shared) -> HeartbeatRow {
    let mut counters = shared.metrics.snapshot();
    let stats = shared.recorder.stats().snapshot();
    let spool_bytes = stats.iter().find(|(name, _)| *name == "spool_bytes").map_or(0, |(_, n)| *n);
    counters.extend(stats.into_iter().filter(|(_, n)| *n != 0).map(|(k, n)| (k.to_owned(), n)));
    HeartbeatRow {
        ts: shared.seams.clock.wall().0,
        version: env!("CARGO_PKG_VERSION"),
        active_flows: u32::try_from(shared.metrics.flows_active.value()).unwrap_or(u32::MAX),
        spool_bytes,
        counters,
        rss_bytes: resident_bytes(),
    }
}

/// Resident memory from proc_pid_statm(5), 0 where it cannot be read.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096);
    pages.unwrap_or_default() * page
}

fn answer(shared: &Shared, path: &str) -> Option<String> {
    match path {
        "/health" => Some("ok\n".into()),
        "/metrics" => Some(shared.metrics.prometheus(&shared.recorder.stats().snapshot())),
        _ => None,
    }
}
