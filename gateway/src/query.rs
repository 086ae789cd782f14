//! Reading the record: what the command line asks ClickHouse.
//!
//! - input: filters, or a statement
//! - output: typed rows, or a formatted answer; text for terminals goes through [`terminal`]
//! - bound: every query has a limit; a table in memory is at most [`MAX_TABLE_BYTES`]
//! - on failure: [`QueryError`]

use std::fmt;

use crate::error::{Fault, Faulty};
use crate::sink::SinkError;

pub mod findings;
pub mod group;
pub mod sessions;
pub mod show;
pub mod sql;
pub mod terminal;
pub mod timeline;
pub mod when;

/// Bytes of an answer that is rendered as a table.
pub const MAX_TABLE_BYTES: usize = 64 * 1024 * 1024;

/// Version of the ClickHouse that answers.
///
/// # Errors
/// [`QueryError::Failed`] when nobody does.
pub async fn version(client: &clickhouse::Client) -> Result<String, QueryError> {
    let version = client.query("SELECT version()").fetch_one::<String>().await;
    version.map_err(QueryError::failed("asking for the version"))
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// Nothing in the record matches.
    #[error("{0}")]
    NotFound(String),
    /// The client could not be made.
    #[error(transparent)]
    Connect(#[from] SinkError),
    /// ClickHouse answered with an error, or not at all.
    #[error("{action}: {what}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// What was answered.
        what: String,
    },
    /// The answer could not be written out.
    #[error("writing the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl QueryError {
    fn failed(action: &'static str) -> impl FnOnce(clickhouse::error::Error) -> Self {
        move |error| Self::Failed { action, what: explain(&error) }
    }
}

impl Faulty for QueryError {
    fn fault(&self) -> Fault {
        match self {
            Self::Asked(_) | Self::NotFound(_) => Fault::Downstream,
            Self::Connect(error) => error.fault(),
            Self::Failed { .. } | Self::Output(_) => Fault::Internal,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Asked(_) => "bad_question",
            Self::NotFound(_) => "not_found",
            Self::Connect(error) => error.outcome(),
            Self::Failed { .. } => "query_failed",
            Self::Output(_) => "output_failed",
        }
    }
}

/// The client's error with its causes, fit for a terminal.
fn explain(error: &clickhouse::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let text: String = text.chars().take(2000).collect();
    terminal::line(&text).into_owned()
}

/// Bytes for people: `999 B`, `1.5 KiB`.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = "KiB";
        for larger in UNITS.into_iter().skip(1) {
            if tenths < 10_240 {
                break;
            }
            tenths /= 1024;
            unit = larger;
        }
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            let got = Size(bytes).to_string();
            assert!(got == want || (bytes == u64::MAX && got.ends_with("PiB")), "{got} {want}");
        }
    }
}
