//! Who is who, end to end: real `weir` with its hooks, a real OIDC provider, CI-like jobs under one
//! user. Needs root, Node and the engine:
//! `cargo test -p weir-tests --features privileged --test jobs -- --test-threads=1`
//!
//! Every test makes its own cgroups, pins, namespace and directory, and removes them however it ends.

#![cfg(feature = "privileged")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with a place"
)]

mod beyond;
mod enforced;
mod provider;
mod separate;
mod sessions;
mod stolen;
mod survive;
mod world;
