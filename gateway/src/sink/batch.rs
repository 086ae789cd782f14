//! One insert: a batch and its token go to ClickHouse, or to memory in tests.
//!
//! - input: a table, a token, a `RowBinaryWithNamesAndTypes` body of at most 64 MiB
//! - output: an acknowledgement: the rows are stored, once
//! - bound: [`SEND_TIMEOUT`] per piece, [`END_TIMEOUT`] for the answer
//! - on failure: [`SinkError`]; after a timeout the insert may have happened, which is what the
//!   token is for

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;

use super::{RowSink, SinkError};
use crate::record::row::Table;

/// For one piece of a batch to leave.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// From the last piece to the answer.
pub const END_TIMEOUT: Duration = Duration::from_secs(180);
/// Bytes handed to the connection at once.
const PIECE: usize = 512 * 1024;

/// Inserts through the official client.
#[derive(Clone)]
pub struct ClickHouseSink(Client);

impl ClickHouseSink {
    /// A sink that writes through `client`, see [`super::connect`].
    pub fn new(client: Client) -> Self {
        // Rows that are acknowledged must be stored; servers may default to answering earlier.
        Self(
            client
                .with_setting("async_insert", "0")
                // A column that the table lacks must be an error: by default its values vanish.
                .with_setting("input_format_skip_unknown_fields", "0")
                .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1"),
        )
    }
}

impl RowSink for ClickHouseSink {
    async fn insert(&self, table: Table, token: &str, mut data: Bytes) -> Result<(), SinkError> {
        let sql = format!("INSERT INTO {} FORMAT RowBinaryWithNamesAndTypes", table.name());
        let failed = |e| SinkError::from_client(&format!("inserting into {}", table.name()), &e);
        let mut insert = self
            .0
            .insert_formatted_with(sql)
            .with_setting("insert_deduplication_token", token)
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT));
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            insert.send(piece).await.map_err(failed)?;
        }
        insert.end().await.map_err(failed)
    }
}

/// Keeps batches in memory: the fake of the [`RowSink`] seam.
#[derive(Debug, Default)]
pub struct MemorySink {
    stored: Mutex<Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    tokens: HashSet<String>,
    batches: Vec<(Table, String, Bytes)>,
    failures: Vec<SinkError>,
}

impl MemorySink {
    /// The next inserts fail with these errors, the last one first.
    pub fn fail_with(&self, failures: Vec<SinkError>) {
        self.lock().failures = failures;
    }

    /// Batches stored so far, each token once.
    pub fn batches(&self) -> Vec<(Table, String, Bytes)> {
        self.lock().batches.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RowSink for MemorySink {
    async fn insert(&self, table: Table, token: &str, data: Bytes) -> Result<(), SinkError> {
        let mut stored = self.lock();
        if let Some(error) = stored.failures.pop() {
            return Err(error);
        }
        if stored.tokens.insert(token.to_owned()) {
            stored.batches.push((table, token.to_owned(), data));
        }
        Ok(())
    }
}
