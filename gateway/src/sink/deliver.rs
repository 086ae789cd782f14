//! The loop that moves sealed segments into ClickHouse.
//!
//! - input: a [`SegmentSource`], oldest segment first
//! - output: inserts on a [`RowSink`]; acknowledged segments are removed
//! - bound: one segment in memory; waits of [`super::retry`] between attempts
//! - on failure: retryable ones wait and never skip a segment; a batch that ClickHouse will never
//!   take, and a damaged segment, are set aside after everything else in them was inserted

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::RowSink;
use super::retry::Backoff;
use crate::record::row::Table;

/// How often the spool is asked for new segments.
const POLL: Duration = Duration::from_millis(100);

/// One insert of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// Its table.
    pub table: Table,
    /// The same for every attempt.
    pub token: String,
    /// A complete `RowBinaryWithNamesAndTypes` body.
    pub data: Bytes,
    /// Rows in it.
    pub rows: u64,
}

/// Why a segment could not be read or moved.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The disk did not answer; later it may.
    #[error("{0}")]
    Io(String),
    /// The segment is not as it was written.
    #[error("{0}")]
    Damaged(String),
}

/// The spool, as the sink sees it. All calls block.
pub trait SegmentSource: Send + Sync + 'static {
    /// Names a segment.
    type Ref: Clone + Debug + Send + Sync + 'static;
    /// Sealed segments, oldest first.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    fn sealed(&self) -> Result<Vec<Self::Ref>, SourceError>;
    /// The inserts of a whole, undamaged segment.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn load(&self, at: &Self::Ref) -> Result<Vec<Insert>, SourceError>;
    /// The inserts that a damaged segment still has.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn salvage(&self, at: &Self::Ref) -> Result<Vec<Insert>, SourceError>;
    /// Removes a segment: ClickHouse has it.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    fn ack(&self, at: &Self::Ref) -> Result<(), SourceError>;
    /// Sets a segment aside, with the reason.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    fn quarantine(&self, at: &Self::Ref, reason: &str) -> Result<(), SourceError>;
}

/// What the sink has done since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows acknowledged by ClickHouse.
    pub rows: AtomicU64,
    /// Bytes of the acknowledged inserts.
    pub bytes: AtomicU64,
    /// Segments removed after their acknowledgement.
    pub segments: AtomicU64,
    /// Attempts that failed and were or will be repeated.
    pub retries: AtomicU64,
    /// Segments set aside.
    pub quarantined: AtomicU64,
}

/// Delivers until `stop`, then makes one more attempt at what is left, without waiting.
///
/// # Cancel safety
/// Dropped at any point, a segment is inserted again later under the same tokens.
pub async fn run<S: SegmentSource, K: RowSink>(
    source: Arc<S>,
    sink: Arc<K>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut delivery = Delivery { source, sink, counters, stop, backoff: Backoff::default() };
    loop {
        // Read before the pass: what is sealed before the stop is still seen by the last pass.
        let last = delivery.stop.is_cancelled();
        let kept = delivery.pass().await;
        if last || (kept && delivery.stop.is_cancelled()) {
            return;
        }
        if !kept {
            tokio::select! {
                () = delivery.stop.cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

struct Delivery<S, K> {
    source: Arc<S>,
    sink: Arc<K>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    backoff: Backoff,
}

impl<S: SegmentSource, K: RowSink> Delivery<S, K> {
    /// Delivers every sealed segment; true when it stopped early.
    async fn pass(&mut self) -> bool {
        let sealed = match self.blocking(|source| source.sealed()).await {
            Ok(sealed) => sealed,
            Err(error) => return !self.wait("listing the spool", &error).await,
        };
        for at in sealed {
            if !self.deliver(&at).await {
                return true;
            }
        }
        false
    }

    /// False when the sink stops and the segment stays.
    async fn deliver(&mut self, at: &S::Ref) -> bool {
        let Some((inserts, mut reasons)) = self.read(at).await else { return false };
        for insert in inserts {
            match self.insert(&insert).await {
                Outcome::Stored => {}
                Outcome::Never(reason) => reasons.push(reason),
                Outcome::Stopped => return false,
            }
        }
        let reason = reasons.join("; ");
        loop {
            let (place, why) = (at.clone(), reason.clone());
            let moved = self
                .blocking(move |source| {
                    if why.is_empty() {
                        source.ack(&place)
                    } else {
                        source.quarantine(&place, &why)
                    }
                })
                .await;
            match moved {
                Ok(()) => break,
                Err(error) => {
                    if !self.wait("removing a segment", &error).await {
                        return false;
                    }
                }
            }
        }
        if reason.is_empty() {
            self.counters.segments.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
            tracing::error!(segment = ?at, reason, "segment set aside: records are not in ClickHouse");
        }
        true
    }

    /// The inserts of a segment, and why it must be set aside afterwards.
    async fn read(&mut self, at: &S::Ref) -> Option<(Vec<Insert>, Vec<String>)> {
        loop {
            let place = at.clone();
            let read = self
                .blocking(move |source| match source.load(&place) {
                    Ok(inserts) => Ok((inserts, Vec::new())),
                    Err(SourceError::Damaged(what)) => match source.salvage(&place) {
                        Ok(inserts) => Ok((inserts, vec![what])),
                        Err(SourceError::Damaged(_)) => Ok((Vec::new(), vec![what])),
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                })
                .await;
            match read {
                Ok(read) => return Some(read),
                Err(error) => {
                    if !self.wait("reading a segment", &error).await {
                        return None;
                    }
                }
            }
        }
    }

    async fn insert(&mut self, insert: &Insert) -> Outcome {
        loop {
            let done = self.sink.insert(insert.table, &insert.token, insert.data.clone()).await;
            match done {
                Ok(()) => {
                    self.backoff.after_success();
                    let bytes = u64::try_from(insert.data.len()).unwrap_or(u64::MAX);
                    self.counters.rows.fetch_add(insert.rows, Ordering::Relaxed);
                    self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
                    return Outcome::Stored;
                }
                Err(error) if error.retryable() => {
                    if !self.wait("inserting", &error).await {
                        return Outcome::Stopped;
                    }
                }
                Err(error) => return Outcome::Never(error.to_string()),
            }
        }
    }

    /// Waits before the next attempt; false when the sink stops.
    async fn wait(&mut self, action: &str, error: &(dyn std::error::Error + Sync)) -> bool {
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
        let wait = self.backoff.after_failure();
        // Once per outage as a warning: the metrics tell the rest.
        if self.backoff.failures() == 1 {
            tracing::warn!(action, %error, "delivery waits");
        } else {
            tracing::debug!(action, %error, ?wait, "delivery waits");
        }
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&S) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let source = Arc::clone(&self.source);
        let joined = tokio::task::spawn_blocking(move || call(&source)).await;
        joined.unwrap_or_else(|e| Err(SourceError::Io(format!("reading the spool: {e}"))))
    }
}

enum Outcome {
    Stored,
    Never(String),
    Stopped,
}

#[cfg(test)]
mod tests;
