//! Delivers sealed segments: oldest first, one at a time, deleted only when all of it is stored.
//!
//! - input: the spool's reader
//! - output: inserted batches, acknowledged segments
//! - bound: one segment (64 MiB) in memory
//! - on failure: what may work later is tried again with growing pauses; what ClickHouse will
//!   never take goes to quarantine and does not block the rest
//!
//! A crash between insert and acknowledgement inserts the same batches again under the same
//! tokens, which ClickHouse answers without storing them twice.

use std::time::Duration;

use clickhouse::Client;
use tokio_util::sync::CancellationToken;

use super::retry::Backoff;
use super::{RowSink, SinkError, migrate};
use crate::spool::SpoolError;
use crate::spool::reader::{Reader, Segment, SegmentRef};

/// How often the spool is looked at when it was empty.
const POLL: Duration = Duration::from_millis(200);

/// The delivery of one spool.
pub struct Delivery<S> {
    reader: Reader,
    sink: S,
    backoff: Backoff,
}

impl<S: RowSink> Delivery<S> {
    /// Delivers from `reader` to `sink`.
    pub fn new(reader: Reader, sink: S) -> Self {
        Self { reader, sink, backoff: Backoff::default() }
    }

    /// Brings the schema up to date, trying until ClickHouse answers or `stop`.
    pub async fn migrated(&mut self, client: &Client, database: &str, stop: &CancellationToken) {
        loop {
            match migrate(client, database).await {
                Ok(_) => return self.backoff.after_success(),
                Err(error) => self.wait(&error, stop).await,
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Delivers until `stop`.
    pub async fn run(&mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.pass(stop).await {
                Ok(0) => tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = stop.cancelled() => {}
                },
                Ok(_) => self.backoff.after_success(),
                Err(error) => self.wait(&error, stop).await,
            }
        }
    }

    /// Delivers what is sealed now, once.
    pub async fn flush(&mut self) {
        let never = CancellationToken::new();
        if let Err(error) = self.pass(&never).await {
            tracing::warn!(%error, "segments stay in the spool");
        }
    }

    /// One pass over the sealed segments; answers how many it delivered.
    async fn pass(&self, stop: &CancellationToken) -> Result<usize, DeliverError> {
        let mut delivered = 0;
        for segment in self.reader.sealed()? {
            if stop.is_cancelled() {
                break;
            }
            self.deliver(&segment).await?;
            delivered += 1;
        }
        Ok(delivered)
    }

    async fn deliver(&self, segment: &SegmentRef) -> Result<(), DeliverError> {
        let loaded = match self.reader.load(segment) {
            Ok(loaded) => loaded,
            Err(error) if matches!(error, SpoolError::Damaged { .. }) => {
                tracing::error!(%error, "segment is damaged and goes to quarantine");
                return Ok(self.reader.quarantine(segment, &error.to_string())?);
            }
            Err(error) => return Err(error.into()),
        };
        match self.insert(loaded).await {
            Ok(()) => Ok(self.reader.ack(segment)?),
            Err(error) if error.retryable() => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "segment is refused and goes to quarantine");
                Ok(self.reader.quarantine(segment, &error.to_string())?)
            }
        }
    }

    async fn insert(&self, segment: Segment) -> Result<(), SinkError> {
        let tokens: Vec<String> = segment.batches.iter().map(|b| segment.token(b)).collect();
        for (batch, token) in segment.batches.into_iter().zip(tokens) {
            self.sink.insert(batch.table, &token, batch.data).await?;
        }
        Ok(())
    }

    async fn wait(&mut self, error: &impl std::fmt::Display, stop: &CancellationToken) {
        let pause = self.backoff.after_failure();
        if self.backoff.failures() == 1 {
            tracing::warn!(%error, "clickhouse does not take records; they stay in the spool");
        } else {
            tracing::debug!(%error, ?pause, "still not delivered");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}
