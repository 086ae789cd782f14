//! Finds secrets in bytes and replaces them: pure functions without I/O, time or threads.
//!
//! - input: rules, known values, and bytes: whole bodies or streams in any chunking
//! - output: the same bytes with every secret judged: kept, replaced or refused
//! - bound: [`limits`]; memory and time are linear in the input
//! - on failure: [`body::Error`]; nothing is passed that was not looked at
//!
//! ```text
//! rule, filter, import  what a secret looks like
//! own, sample           weir's rules, and operators'; made-up secrets of them
//! engine                finds matches in one text, whole or growing (Channel)
//! known, encodings      exact values, in all encodings
//! cache                 what was found in texts that come again
//! judge                 what happens to a match: the caller's policy
//! body, view            a whole body: decodes, descends, replaces, encodes again
//! stream                server-sent events, WebSocket messages, event streams
//! vault, placeholder    what stands in a secret's place, and back
//! fingerprint           what stands for it in the record
//! environment           which values of a process are secrets
//! ```

pub mod body;
pub mod cache;
pub mod encodings;
pub mod engine;
pub mod environment;
pub mod filter;
pub mod fingerprint;
pub mod import;
pub mod judge;
pub mod known;
pub mod limits;
pub mod own;
pub mod pattern;
pub mod placeholder;
pub mod rule;
pub mod sample;
pub mod stream;
pub mod vault;
mod view;
