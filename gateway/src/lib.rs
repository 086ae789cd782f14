//! weir's gateway: a transparent interception proxy for the processes of one Linux host.
//!
//! Modules stand in the order in which a connection meets them; see `ARCHITECTURE.md`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod limits;
pub mod telemetry;

pub mod capture;
pub mod dns;

pub mod accept;
pub mod identify;
pub mod sniff;
pub mod tls;

pub mod http;
pub mod inspect;
pub mod packet;
pub mod policy;

pub mod forward;

pub mod record;
pub mod spool;

pub mod sink;
pub mod store;

pub mod query;

pub mod docker;
pub mod oci;
