//! The control thread: delivers the spool to ClickHouse, beats, reads the kernel's events, answers the
//! admin socket.
//!
//! - input: sealed segments, counters
//! - output: acknowledged segments, heartbeat rows, `/health` and `/metrics`
//! - bound: one segment in flight; one heartbeat per [`BEAT_EVERY`]
//! - on failure: logged and tried again; the data path goes on as long as the spool has room

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use clickhouse::Client;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bypass::{self, Bypass};
use super::failopen::Watch;
use super::reconcile::Counts;
use super::{Shared, alarms};
use crate::admin::{self, Answer};
use crate::capture::maps::{self, Maps};
use crate::capture::repair::look::Look;
use crate::record::row::{GapRow, HeartbeatRow};
use crate::record::{Record, adopt};
use crate::sink::deliver::run;
use crate::sink::retry::Backoff;
use crate::sink::spooled::Spooled;
use crate::sink::{ClickHouseSink, SinkError, migrate};
use crate::spool::fs::Held;
use crate::spool::slots;

/// Time between two heartbeat rows.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks at the spool's other slots.
const ADOPT_EVERY: Duration = Duration::from_secs(2);
/// Time between two attempts at the right to deliver.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// In the column `gaps.cause`.
const CAUSE_QUARANTINE: u8 = 8;
pub(super) const CAUSE_KERNEL_DROP: u8 = 7;
/// At shutdown the last segments get this long to reach ClickHouse; what does not stays spooled.
const LAST_DELIVERY: Duration = Duration::from_secs(5);

/// Runs until `stop`, and then delivers what is sealed by then.
pub(super) fn start(
    shared: &Arc<Shared>,
    client: Client,
    admin: Option<UnixListener>,
    stop: &CancellationToken,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(shared, client, admin, stop)),
        Err(error) => {
            tracing::error!(%error, "no runtime for the control thread");
            shared.shutdown.cancel();
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    client: Client,
    listener: Option<UnixListener>,
    stop: &CancellationToken,
) {
    let config = &shared.config;
    let source = match Spooled::open(&config.spool.dir, &shared.seams.fs) {
        Ok(source) => source,
        Err(error) => {
            tracing::error!(%error, "opening the spool for delivery");
            shared.shutdown.cancel();
            return;
        }
    };
    let deliver = deliver(shared, client, source, stop);
    // A newer gateway delivers and answers in our place.
    let handed_over = &shared.ending.handed_over;
    let deliver = async {
        tokio::select! {
            () = deliver => {}
            () = handed_over.cancelled() => {}
        }
    };
    let admin = async {
        let Some(listener) = listener else { return };
        let answering = Arc::clone(shared);
        let stop = stop.child_token();
        let serving = admin::serve(listener, &stop, move |path| answer(&answering, path));
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    tracing::error!(%error, "admin socket");
                }
                remove_socket(&config.admin.socket);
            }
            () = handed_over.cancelled() => {}
        }
    };
    let alarms = alarms::run(shared, stop);
    tokio::join!(deliver, beat(shared, stop), alarms, adopt(shared, stop), admin);
}

/// Somebody else's directory may keep it: then who made it removes it.
fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "socket file left");
    }
}

/// Takes care of what a killed gateway left in another slot of the spool.
async fn adopt(shared: &Shared, stop: &CancellationToken) {
    let mut every = tokio::time::interval(ADOPT_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
            () = shared.ending.handed_over.cancelled() => return,
        }
        let (fs, clock) = (Arc::clone(&shared.seams.fs), Arc::clone(&shared.seams.clock));
        let (config, producer) = (shared.config.spool.clone(), shared.producer.clone());
        let adopted =
            tokio::task::spawn_blocking(move || adopt::abandoned(&fs, &config, &producer, &clock));
        match adopted.await {
            Ok(Ok(0)) => {}
            Ok(Ok(slots)) => tracing::warn!(slots, "took over what a killed gateway left"),
            Ok(Err(error)) => tracing::warn!(%error, "looking after other slots of the spool"),
            Err(error) => tracing::error!(%error, "looking after other slots of the spool"),
        }
    }
}

/// Waits for the right to deliver: one gateway does at a time, so that nothing is inserted twice
/// at once. `None` when it must stop before.
async fn sink_lock(shared: &Shared, stop: &CancellationToken) -> Option<Box<dyn Held>> {
    let mut told = false;
    loop {
        match slots::sink_lock(shared.seams.fs.as_ref(), &shared.config.spool.dir) {
            Ok(Some(held)) => return Some(held),
            Ok(None) => tracing::debug!("another gateway delivers"),
            Err(error) if !told => {
                tracing::error!(%error, "records stay in the spool");
                told = true;
            }
            Err(_still) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_POLL) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// Brings the schema up to date, then delivers. What does not reach ClickHouse stays spooled.
async fn deliver(shared: &Shared, client: Client, source: Spooled, stop: &CancellationToken) {
    let Some(_held) = sink_lock(shared, stop).await else { return };
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
    let mut bypass = Bypass::open(&shared.config.spool.dir);
    let mut unseen = Watch::new(shared);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = unseen.on_disk() => {
                unseen.settle(shared);
                continue;
            }
            () = stop.cancelled() => {
                if shared.is_alone() {
                    unseen.close(shared);
                }
                return;
            }
        }
        let mut more = bypasses(shared, &mut bypass).await;
        let before = shared.accepted();
        let kernel = kernel_counts(shared).await;
        if let Some(joined) = kernel.iter().find(|(name, _)| *name == JOINED).map(|(_, n)| *n) {
            let now = Counts { joined, accepted: shared.accepted() };
            let lost = {
                let mut baseline = shared.baseline.lock().unwrap_or_else(PoisonError::into_inner);
                baseline.lost(before, now)
            };
            if lost > 0
                && let Ok(permit) = shared.recorder.reserve().await
            {
                permit.send(Record::Gap(never_accepted(shared, lost)));
            }
        }
        // What is told for the whole host is told by one gateway.
        let alone = shared.is_alone();
        if alone && !kernel.is_empty() {
            let count = kernel.iter().find(|(name, _)| *name == FAILED_OPEN).map_or(0, |(_, n)| *n);
            unseen.look(shared, count).await;
        }
        more.extend(fails_open(shared).await);
        if alone {
            alarms::tell_lost(shared).await;
        }
        more.extend(kernel.into_iter().map(|(name, n)| (format!("kernel_{name}"), n)));
        let quarantined = shared.delivered.quarantined.load(Ordering::Relaxed);
        if quarantined > told
            && let Ok(permit) = shared.recorder.reserve().await
        {
            permit.send(Record::Gap(quarantine(shared, quarantined - told)));
            told = quarantined;
        }
        // Full or failed spools refuse this too; they count for themselves.
        if let Ok(permit) = shared.recorder.reserve().await {
            permit.send(Record::Heartbeat(Box::new(heartbeat(shared, more))));
        }
    }
}

/// Records what was repaired and what stopped working; answers counters of it.
async fn bypasses(shared: &Shared, bypass: &mut Bypass) -> Vec<(String, u64)> {
    let Some(look) = look(shared).await else { return Vec::new() };
    let now = shared.seams.clock.wall();
    let counters = Bypass::counters(&look, now);
    if !shared.is_alone() {
        return counters;
    }
    for (done, ts, detail) in bypass.news(look, now) {
        tracing::warn!(%detail, "capture");
        // Full or failed: what has a time is told again, and heartbeats tell of layers.
        let Ok(permit) = shared.recorder.reserve().await else { break };
        permit.send(Record::Gap(bypass::gap(ts, detail)));
        bypass.told(done.unwrap_or_default());
    }
    counters
}

async fn look(shared: &Shared) -> Option<Look> {
    match &shared.maps {
        // Lists pins and may run nft: not on this thread.
        Maps::Pinned(pin_dir) => {
            let pin_dir = pin_dir.clone();
            tokio::task::spawn_blocking(move || Look::at(&pin_dir)).await.ok()
        }
        // Without privilege we cannot look ourselves.
        Maps::Handed(_) => shared.guard.look().await,
    }
}

/// The kernel's count of records that it put on the gateway's sockets.
const JOINED: &str = "joined";

/// Its count of connects that passed because no gateway was alive.
const FAILED_OPEN: &str = "connect_failed_open";

/// The kernel's non-zero counters; none where nothing is attached, as in tests.
async fn kernel_counts(shared: &Shared) -> Vec<(&'static str, u64)> {
    let maps = shared.maps.clone();
    let read = tokio::task::spawn_blocking(move || maps::counters(&maps)).await;
    let Ok(Ok(counts)) = read else { return Vec::new() };
    counts.into_iter().filter(|(name, n)| *n != 0 || *name == JOINED).collect()
}

/// `danger_fail_open`: 1 where the attached programs let traffic pass without a gateway.
async fn fails_open(shared: &Shared) -> Option<(String, u64)> {
    let maps = shared.maps.clone();
    let read = tokio::task::spawn_blocking(move || maps::fails_open(&maps)).await;
    matches!(read, Ok(Ok(true))).then(|| ("danger_fail_open".to_owned(), 1))
}

/// Connections that the kernel redirected and no worker ever saw.
fn never_accepted(shared: &Shared, lost: u64) -> GapRow {
    GapRow {
        ts: shared.seams.clock.wall().0,
        cause: CAUSE_KERNEL_DROP,
        gap_boot_id: shared.producer.boot_id,
        first_seq: 0,
        last_seq: 0,
        records: lost,
        bytes: 0,
        detail: format!("{lost} redirected connections were never accepted"),
    }
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

fn heartbeat(shared: &Shared, more: Vec<(String, u64)>) -> HeartbeatRow {
    let mut counters = shared.metrics.snapshot();
    counters.extend(more);
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
