//! Subcommands.

pub mod query;
pub mod sessions;
pub mod show;
pub mod store;
pub mod timeline;
