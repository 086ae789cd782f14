//! The control thread: delivers the spool to ClickHouse, beats, answers the admin socket.
//!
//! - input: sealed segments, counters
//! - output: acknowledged segments, heartbeat rows, `/health` and `/metrics`
//! - bound: one segment in flight; one heartbeat per [`BEAT_EVERY`]
//! - on failure: logged and tried again; the data path goes on as long as the spool has room

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clickhouse::Client;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Shared;
use crate::admin::{self, Answer};
use crate::capture::loader;
use crate::record::Record;
use crate::record::row::{GapRow, HeartbeatRow};
use crate::sink::deliver::run;
use crate::sink::retry::Backoff;
use crate::sink::spooled::Spooled;
use crate::sink::{ClickHouseSink, SinkError, migrate};
use crate::spool::reader::Reader;

/// Time between two heartbeat rows.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// In the column `gaps.cause`.
const CAUSE_QUARANTINE: u8 = 8;
/// At shutdown the last segments get this long to reach ClickHouse; what does not stays spooled.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

/// Runs until `stop`, and then delivers what is sealed by then.
pub(super) fn start(shared: &Arc<Shared>, client: Client, stop: &CancellationToken) {
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
    let deliver = deliver(shared, client, Spooled(reader), stop);
    let admin = {
        let shared = Arc::clone(shared);
        admin::serve(&config.admin.socket, stop, move |path| answer(&shared, path))
    };
    tokio::join!(deliver, beat(shared, stop), async {
        if let Err(error) = admin.await {
            tracing::error!(%error, "admin socket");
        }
    });
}

/// Brings the schema up to date, then delivers. What does not reach ClickHouse stays spooled.
async fn deliver(shared: &Shared, client: Client, source: Spooled, stop: &CancellationToken) {
    let database = &shared.config.store.database;
    let mut backoff = Backoff::default();
    loop {
        let error = match migrate(&client, database).await {
            Ok(_) => break,
            // Rows name their columns, so that an older gateway of a fleet can go on.
            Err(error @ SinkError::NewerSchema { .. }) => {
                tracing::warn!(%error, "delivering to a newer schema");
                break;
            }
            Err(error) => error,
        };
        let pause = backoff.after_failure();
        if !error.retryable() {
            tracing::error!(%error, "records stay in the spool until this is repaired");
        } else if backoff.failures() == 1 {
            tracing::warn!(%error, "clickhouse is not ready; records wait in the spool");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
    let sink = Arc::new(ClickHouseSink::new(client));
    let counters = Arc::clone(&shared.delivered);
    let running = run(Arc::new(source), sink, counters, stop.clone());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_DELIVERY).await;
    };
    tokio::select! {
        () = running => {}
        () = deadline => tracing::warn!("the last segments stay in the spool for the next start"),
    }
}

async fn beat(shared: &Shared, stop: &CancellationToken) {
    let mut every = tokio::time::interval(BEAT_EVERY);
    let mut told = 0;
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        let layers = layers(shared).await;
        let quarantined = shared.delivered.quarantined.load(Ordering::Relaxed);
        if quarantined > told
            && let Ok(permit) = shared.recorder.reserve().await
        {
            permit.send(Record::Gap(quarantine(shared, quarantined - told)));
            told = quarantined;
        }
        // Full or failed spools refuse this too; they count for themselves.
        if let Ok(permit) = shared.recorder.reserve().await {
            permit.send(Record::Heartbeat(Box::new(heartbeat(shared, layers))));
        }
    }
}

/// `layer_NAME`: 1 where a layer that enforces capture is active. Nothing where nothing is
/// attached, as in tests. Lists pins and may run nft: not on this thread.
async fn layers(shared: &Shared) -> Vec<(String, u64)> {
    let pin_dir = shared.config.capture.pin_dir.clone();
    let read = tokio::task::spawn_blocking(move || loader::layers(&pin_dir)).await;
    let Ok(Ok(layers)) = read else { return Vec::new() };
    layers
        .into_iter()
        .map(|one| (format!("layer_{}", one.name), u64::from(one.is_active())))
        .collect()
}

/// Segments were set aside: how many of their records ClickHouse has is not known.
fn quarantine(shared: &Shared, segments: u64) -> GapRow {
    GapRow {
        ts: shared.seams.clock.wall().0,
        cause: CAUSE_QUARANTINE,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records: 0,
        bytes: 0,
        detail: format!("{segments} segments were set aside at delivery; the log has the reasons"),
    }
}

fn heartbeat(shared: &Shared, layers: Vec<(String, u64)>) -> HeartbeatRow {
    let mut counters = shared.metrics.snapshot();
    counters.extend(layers);
    let stats = shared.recorder.stats().snapshot();
    let spool_bytes =
        stats.iter().find(|(name, _)| *name == "record_spool_bytes_now").map_or(0, |(_, n)| *n);
    counters.extend(delivered(shared).into_iter().map(|(k, n)| (k.to_owned(), n)));
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

fn delivered(shared: &Shared) -> Vec<(&'static str, u64)> {
    let sink = &shared.delivered;
    let all = [
        ("sink_rows_total", &sink.rows),
        ("sink_bytes_total", &sink.bytes),
        ("sink_segments_total", &sink.segments),
        ("sink_retries_total", &sink.retries),
        ("sink_quarantined_total", &sink.quarantined),
    ];
    let read = |(name, n): (&'static str, &std::sync::atomic::AtomicU64)| {
        (name, n.load(Ordering::Relaxed))
    };
    let bodies = ("record_bodies_without_memory", shared.recorder.body_budget().refused());
    all.into_iter().map(read).chain([bodies]).filter(|(_, n)| *n != 0).collect()
}

/// Resident memory from proc_pid_statm(5), 0 where it cannot be read.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096);
    pages.unwrap_or_default() * page
}

fn answer(shared: &Shared, path: &str) -> Answer {
    match path {
        "/health" => match shared.recorder.health() {
            Ok(()) => Answer::Ok("ok\n".into()),
            Err(error) => Answer::Unhealthy(format!("new flows are refused: {error}\n")),
        },
        "/metrics" => {
            let mut more = shared.recorder.stats().snapshot();
            more.extend(delivered(shared));
            Answer::Ok(shared.metrics.prometheus(&more))
        }
        _ => Answer::NotFound,
    }
}
