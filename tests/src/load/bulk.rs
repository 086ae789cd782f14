//! Large bodies, checked byte by byte against the pattern's length.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::Target;
use crate::client::{collect, empty};
use crate::origin::body::Pattern;
use crate::pattern;

const TIMEOUT: Duration = Duration::from_secs(300);
const UPLOAD_CHUNK: u64 = 64 * 1024;

/// One download of `length` bytes.
pub async fn download(target: &Target, length: u64) -> Result<Value> {
    let work = async {
        let mut connection = target.open().await?;
        let began = Instant::now();
        let path = format!("/bytes/{length}");
        let response = connection.request("GET", &target.name, &path, empty()).await?;
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame?.data_ref().map_or(0, bytes::Bytes::len) as u64;
        }
        ensure!(received == length, "received {received} of {length} bytes");
        Ok(report("download", length, began.elapsed()))
    };
    tokio::time::timeout(TIMEOUT, work).await.context("wait for the download")?
}

/// One upload of `length` bytes; the origin's digest must be the pattern's.
pub async fn upload(target: &Target, length: u64) -> Result<Value> {
    let work = async {
        let mut connection = target.open().await?;
        let began = Instant::now();
        let body = Pattern::new(length, UPLOAD_CHUNK, true).boxed();
        let response = connection.request("POST", &target.name, "/sink", body).await?;
        let response = collect(response, 4096).await?;
        let took = began.elapsed();
        let answer: Value = serde_json::from_slice(response.body()).context("read the answer")?;
        ensure!(answer["sha256"] == pattern::sha256(length), "the upload was altered: {answer}");
        Ok(report("upload", length, took))
    };
    tokio::time::timeout(TIMEOUT, work).await.context("wait for the upload")?
}

fn report(mode: &str, bytes: u64, took: Duration) -> Value {
    let seconds = took.as_secs_f64();
    let rate = bytes as f64 / 1e9 / seconds;
    json!({"mode": mode, "bytes": bytes, "seconds": seconds, "gb_per_s": rate, "errors": 0})
}
