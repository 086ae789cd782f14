//! The spool: records on disk from the moment they are written until ClickHouse has them.
//!
//! - input: encoded rows from the recorder's one writer thread
//! - output: sealed [`segment`]s, read in order by the sink and deleted when acknowledged
//! - bound: `spool.max_bytes` of disk; one open segment
//! - on failure: [`SpoolError`]; `Full` makes the gateway refuse new flows
//!
//! The format is in `docs/spool-format.md`.

pub mod fs;
pub mod reader;
pub mod recover;
pub mod segment;
pub mod writer;
