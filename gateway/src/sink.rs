//! The sink: sealed segments of the spool become rows in ClickHouse, at least once and counted once.
//!
//! - input: segments, oldest first, from a [`SegmentSource`]
//! - output: one insert per batch, with a token that makes a repeated one count once
//! - bound: one segment in memory (64 MiB)
//! - on failure: [`SinkError`]; a retryable one keeps the segment and waits, a permanent one moves
//!   the segment aside so that it cannot block the queue

use bytes::Bytes;

use crate::error::{Fault, Faulty};
use crate::record::row::Table;

pub mod batch;
pub mod client;
pub mod deliver;
pub mod retry;
pub mod schema;
pub mod spooled;

pub use batch::{ClickHouseSink, MemorySink};
pub use client::{connect, connect_reader};
pub use deliver::{Counters, SegmentSource, run};
pub use schema::{Migrated, migrate};

/// Where rows go: ClickHouse, or memory in tests.
pub trait RowSink: Send + Sync + 'static {
    /// Inserts one batch: a complete `RowBinaryWithNamesAndTypes` body.
    ///
    /// The same `token` again is acknowledged without a second copy of the rows.
    ///
    /// # Errors
    /// See [`SinkError::retryable`].
    fn insert(
        &self,
        table: Table,
        token: &str,
        data: Bytes,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// Why ClickHouse does not have the rows, or its schema is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// `[store]` cannot be used.
    #[error("{0}")]
    Config(String),
    /// ClickHouse was not reached, or cannot take it now.
    #[error("{action}: {what}")]
    Unavailable {
        /// What was attempted.
        action: String,
        /// What was answered.
        what: String,
    },
    /// ClickHouse will never take this.
    #[error("{action}: {what}")]
    Refused {
        /// What was attempted.
        action: String,
        /// What was answered.
        what: String,
    },
    /// A migration that the database has seen is another one in this binary.
    #[error(
        "migration {version} in database {database} differs from this version of weir: it was \
         changed after it was applied"
    )]
    ChangedMigration {
        /// Its number.
        version: u32,
        /// In which database.
        database: String,
    },
    /// The database was migrated by a newer weir.
    #[error(
        "database {database} has schema version {found}, this version of weir knows up to \
         {known}: upgrade weir, or use another `store.database`"
    )]
    NewerSchema {
        /// In which database.
        database: String,
        /// Version found.
        found: u32,
        /// Newest version in this binary.
        known: u32,
    },
}

impl SinkError {
    /// Whether the same insert may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Config(_)
            | Self::Refused { .. }
            | Self::ChangedMigration { .. }
            | Self::NewerSchema { .. } => false,
        }
    }

    /// Sorts an error of the client. Only answers that name the data or the columns are final:
    /// a wrong password or a missing table is for an operator to repair, and loses nothing.
    pub(crate) fn from_client(action: &str, error: &clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        let what: String = error.to_string().chars().take(MAX_DETAIL).collect();
        let action = action.to_owned();
        let refused = match error {
            Error::BadResponse(text) => code(text).is_some_and(|c| FINAL_CODES.contains(&c)),
            Error::Network(_) | Error::TimedOut | Error::Custom(_) | Error::Other(_) => false,
            _ => true,
        };
        if refused { Self::Refused { action, what } } else { Self::Unavailable { action, what } }
    }
}

impl Faulty for SinkError {
    fn fault(&self) -> Fault {
        match self {
            Self::Config(_) => Fault::Policy,
            Self::Unavailable { .. }
            | Self::Refused { .. }
            | Self::ChangedMigration { .. }
            | Self::NewerSchema { .. } => Fault::Internal,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Config(_) => "store_config",
            Self::Unavailable { .. } => "store_unavailable",
            Self::Refused { .. } => "store_refused",
            Self::ChangedMigration { .. } | Self::NewerSchema { .. } => "store_schema",
        }
    }
}

/// Characters of ClickHouse's own text that go into an error.
const MAX_DETAIL: usize = 500;

/// ClickHouse error codes that say that the data or the columns are wrong
/// (`src/Common/ErrorCodes.cpp`).
const FINAL_CODES: [u32; 22] = [
    6,   // CANNOT_PARSE_TEXT
    8,   // THERE_IS_NO_COLUMN
    10,  // NOT_FOUND_COLUMN_IN_BLOCK
    16,  // NO_SUCH_COLUMN_IN_TABLE
    20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    36,  // BAD_ARGUMENTS
    44,  // ILLEGAL_COLUMN
    47,  // UNKNOWN_IDENTIFIER
    53,  // TYPE_MISMATCH
    62,  // SYNTAX_ERROR
    70,  // CANNOT_CONVERT_TYPE
    73,  // UNKNOWN_FORMAT
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    469, // VIOLATED_CONSTRAINT
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

fn code(text: &str) -> Option<u32> {
    let rest = text.get(text.find("Code: ")? + 6..)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clickhouse::error::Error;

    #[test]
    fn errors_are_sorted_into_waiting_and_giving_up() {
        let sort = |text: &str| {
            SinkError::from_client("inserting", &Error::BadResponse(text.to_owned())).retryable()
        };
        for text in [
            "Code: 241. DB::Exception: Memory limit exceeded",
            "Code: 252. DB::Exception: Too many parts",
            "Code: 159. DB::Exception: Timeout exceeded",
            "Code: 516. DB::Exception: Authentication failed",
            "Code: 60. DB::Exception: Table weir.flows does not exist",
            "502 Bad Gateway",
        ] {
            assert!(sort(text), "{text}");
        }
        for text in [
            "Code: 117. DB::Exception: Unknown field found in RowBinaryWithNamesAndTypes header",
            "Code: 33. DB::Exception: Cannot read all data",
            "Code: 16. DB::Exception: No such column",
        ] {
            assert!(!sort(text), "{text}");
        }
        assert!(SinkError::from_client("inserting", &Error::TimedOut).retryable());
        assert!(!SinkError::from_client("inserting", &Error::NotEnoughData).retryable());
    }

    #[test]
    fn details_are_cut() {
        let long = Error::BadResponse("x".repeat(100_000));
        assert!(SinkError::from_client("inserting", &long).to_string().len() < 1000);
    }
}
