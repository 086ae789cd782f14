//! Kernel capture with real programs, cgroups and sockets. Needs root:
//! `cargo test -p weir-tests --features privileged --test kernel -- --test-threads=1`
//!
//! Every test makes its own cgroups, bpffs mount and pins, and removes them however it ends.
#![cfg(feature = "privileged")]
#![cfg_attr(
    feature = "privileged",
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "in a test harness, a panic with a place is the report"
    )
)]

mod anchors;
mod bridge;
mod concurrency;
mod dns;
mod events;
mod failopen;
mod inside;
mod lifecycle;
mod network;
mod redirect;
mod tree;
mod udp;
mod world;
