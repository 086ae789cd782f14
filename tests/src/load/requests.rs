//! Small requests: latency, rate, new connections, idle connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Samples, Target};
use crate::client::{Connection, empty};

const PATH: &str = "/bytes/1024";
const LENGTH: usize = 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// `GET /bytes/1024`; the body is read and its length checked.
async fn small(connection: &mut Connection, name: &str) -> Result<()> {
    let exchange = async {
        let response = connection.request("GET", name, PATH, empty()).await?;
        ensure!(response.status() == 200, "status {}", response.status());
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, bytes::Bytes::len);
        }
        ensure!(length == LENGTH, "body of {length} bytes");
        Ok(())
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.context("wait for the response")?
}

/// One keep-alive connection, one request after the other.
pub async fn latency(target: &Target, requests: usize) -> Result<Value> {
    let mut connection = target.open().await?;
    let mut samples = Samples::default();
    for _ in 0..requests / 10 {
        small(&mut connection, &target.name).await?;
    }
    let began = Instant::now();
    for _ in 0..requests {
        let start = Instant::now();
        small(&mut connection, &target.name).await?;
        samples.ok(start.elapsed());
    }
    samples.report("latency", began.elapsed())
}

/// Many keep-alive connections, each with one request at a time, for a fixed time.
pub async fn throughput(target: &Target, connections: usize, time: Duration) -> Result<Value> {
    let until = Instant::now() + time;
    run(
        "throughput",
        connections,
        time,
        |target| async move {
            let mut samples = Samples::default();
            match target.open().await {
                Err(error) => samples.failed(&error),
                Ok(mut connection) => {
                    while Instant::now() < until {
                        let start = Instant::now();
                        match small(&mut connection, &target.name).await {
                            Ok(()) => samples.ok(start.elapsed()),
                            Err(error) => {
                                samples.failed(&error);
                                break;
                            }
                        }
                    }
                }
            }
            samples
        },
        target,
    )
    .await
}

/// Connections that each carry one request, `parallel` at a time, for a fixed time.
pub async fn connections(target: &Target, parallel: usize, time: Duration) -> Result<Value> {
    let until = Instant::now() + time;
    run(
        "conns",
        parallel,
        time,
        |target| async move {
            let mut samples = Samples::default();
            // Errors are bounded too: a proxy that refuses everything must not spin.
            while Instant::now() < until && samples.errors < 10 {
                let start = Instant::now();
                let done = async { small(&mut target.open().await?, &target.name).await };
                match done.await {
                    Ok(()) => samples.ok(start.elapsed()),
                    Err(error) => samples.failed(&error),
                }
            }
            samples
        },
        target,
    )
    .await
}

async fn run<F, Fut>(
    mode: &str,
    parallel: usize,
    time: Duration,
    work: F,
    target: &Target,
) -> Result<Value>
where
    F: Fn(Target) -> Fut,
    Fut: Future<Output = Samples> + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        tasks.spawn(tokio::time::timeout(time + REQUEST_TIMEOUT, work(target.clone())));
    }
    let mut samples = Samples::default();
    while let Some(done) = tasks.join_next().await {
        samples.merge(done?.context("wait for a connection")?);
    }
    samples.report(mode, began.elapsed())
}

/// Opens `count` connections with one request each, reports, and holds them until `end`.
pub async fn idle(
    target: &Target,
    count: usize,
    ready: impl FnOnce(Value),
    end: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut samples = Samples::default();
    let mut open = Vec::with_capacity(count);
    let began = Instant::now();
    for _ in 0..count {
        let start = Instant::now();
        let mut connection = target.open().await?;
        small(&mut connection, &target.name).await?;
        samples.ok(start.elapsed());
        open.push(connection);
    }
    ready(samples.report("idle", began.elapsed())?);
    end.await
}
