//! The appliance end to end: real `weir`, real hooks, real store, stock clients. Needs root and the
//! engine in `.engine/` (`cargo xtask setup`):
//! `cargo test -p weir-tests --features privileged --test appliance -- --test-threads=1`
//!
//! Every test makes its own cgroups, pins, namespace and directory, and removes them however it
//! ends. What it asks for is what an operator would: `weir` on a command line.

#![cfg(feature = "privileged")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, with a place; clients stamp the host's wall clock"
)]

#[path = "appliance/alarms.rs"]
mod alarms;
#[path = "appliance/attribution.rs"]
mod attribution;
#[path = "appliance/cli.rs"]
mod cli;
#[path = "appliance/clients.rs"]
mod clients;
#[path = "appliance/containers.rs"]
mod containers;
#[path = "appliance/dns.rs"]
mod dns;
#[path = "appliance/failopen.rs"]
mod failopen;
#[path = "appliance/handover.rs"]
mod handover;
#[path = "appliance/large.rs"]
mod large;
#[path = "appliance/loss.rs"]
mod loss;
#[path = "appliance/repair.rs"]
mod repair;
#[path = "appliance/stopped.rs"]
mod stopped;
#[path = "appliance/storm.rs"]
mod storm;
#[path = "appliance/unprivileged.rs"]
mod unprivileged;
#[path = "appliance/url.rs"]
mod url;

/// Debian's own: a version manager's wrapper would be another process.
const PYTHON: &str = "/usr/bin/python3";
