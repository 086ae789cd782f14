//! Event streams: the delay from the origin's clock to ours, on one machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Samples, Target};
use crate::client::empty;
use crate::origin::body::now_ns;

const FIELD: &[u8] = b"\"sent_ns\":";
const SETUP: Duration = Duration::from_secs(30);

/// What all streams share.
struct Run {
    target: Target,
    path: String,
    /// One permit from each stream that has its first event.
    flowing: Semaphore,
    /// From now on events count.
    started: AtomicBool,
}

/// `streams` connections with `events` events each, one every `gap`, evenly spread over the gap.
///
/// Events that arrive before `start` is done do not count; it is awaited when all streams flow.
pub async fn sse(
    target: &Target,
    streams: u32,
    events: u32,
    gap: Duration,
    start: impl Future<Output = Result<()>>,
) -> Result<Value> {
    let limit = gap * (events + 1) + SETUP;
    let run = Arc::new(Run {
        target: target.clone(),
        path: format!("/sse?events={events}&gap_ms={}&size=100", gap.as_millis()),
        flowing: Semaphore::new(0),
        started: AtomicBool::new(false),
    });
    let mut tasks = JoinSet::new();
    for index in 0..streams {
        let stream = stream(Arc::clone(&run), gap * index / streams, events);
        tasks.spawn(tokio::time::timeout(limit, stream));
    }
    let flowing = run.flowing.acquire_many(streams);
    drop(tokio::time::timeout(SETUP, flowing).await.context("wait for the first events")??);
    start.await?;
    run.started.store(true, Relaxed);
    let began = Instant::now();
    let mut samples = Samples::default();
    while let Some(done) = tasks.join_next().await {
        done?.context("wait for the events")??.into_iter().for_each(|delay| samples.ok(delay));
    }
    samples.report("sse", began.elapsed())
}

async fn stream(run: Arc<Run>, delay: Duration, expected: u32) -> Result<Vec<Duration>> {
    tokio::time::sleep(delay).await;
    let mut connection = run.target.open().await?;
    let response = connection.request("GET", &run.target.name, &run.path, empty()).await?;
    let mut body = response.into_body();
    let (mut delays, mut buffer, mut count) = (Vec::new(), Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let now = now_ns();
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let sent = sent_ns(&event).context("event without a time")?;
            if count == 0 {
                run.flowing.add_permits(1);
            }
            count += 1;
            if run.started.load(Relaxed) {
                delays.push(Duration::from_nanos(now.saturating_sub(sent)));
            }
        }
    }
    ensure!(count == expected, "{count} of {expected} events arrived");
    Ok(delays)
}

fn sent_ns(event: &[u8]) -> Option<u64> {
    let at = event.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let digits = event.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|byte| u64::from(byte - b'0')).reduce(|sum, digit| sum * 10 + digit)
}
