//! Event streams: the delay from the origin's clock to ours, on one machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Samples, Target};
use crate::client::{Connection, empty};
use crate::origin::body::now_ns;

const FIELD: &[u8] = b"\"sent_ns\":";

/// `streams` connections with `events` events each, one every `gap`, evenly spread over the gap.
///
/// All connections are opened before `start` is awaited.
pub async fn sse(
    target: &Target,
    streams: u32,
    events: u32,
    gap: Duration,
    start: impl Future<Output = Result<()>>,
) -> Result<Value> {
    let limit = gap * (events + 1) + Duration::from_secs(30);
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(target.open().await?);
    }
    start.await?;
    let began = Instant::now();
    let path = format!("/sse?events={events}&gap_ms={}&size=100", gap.as_millis());
    let mut tasks = JoinSet::new();
    for (index, connection) in (0..streams).zip(open) {
        let delay = gap * index / streams;
        let (name, path) = (target.name.clone(), path.clone());
        tasks.spawn(tokio::time::timeout(limit, stream(connection, name, path, delay)));
    }
    let mut samples = Samples::default();
    while let Some(done) = tasks.join_next().await {
        match done?.context("wait for the events")? {
            Ok(delays) => delays.into_iter().for_each(|delay| samples.ok(delay)),
            Err(error) => samples.failed(&error),
        }
    }
    let expected = u64::from(streams) * u64::from(events);
    let count = samples.micros.len() as u64;
    ensure!(count == expected, "{count} of {expected} events: {:?}", samples.first_error);
    samples.report("sse", began.elapsed())
}

async fn stream(
    mut connection: Connection,
    name: String,
    path: String,
    delay: Duration,
) -> Result<Vec<Duration>> {
    tokio::time::sleep(delay).await;
    let response = connection.request("GET", &name, &path, empty()).await?;
    let mut body = response.into_body();
    let (mut delays, mut buffer) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let now = now_ns();
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let sent = sent_ns(&event).context("event without a time")?;
            delays.push(Duration::from_nanos(now.saturating_sub(sent)));
        }
    }
    Ok(delays)
}

fn sent_ns(event: &[u8]) -> Option<u64> {
    let at = event.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let digits = event.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|byte| u64::from(byte - b'0')).reduce(|sum, digit| sum * 10 + digit)
}
