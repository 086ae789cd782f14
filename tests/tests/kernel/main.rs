//! Kernel capture with real programs, cgroups and sockets. Needs root:
//! `cargo test -p weir-tests --features privileged --test kernel -- --test-threads=1`
//!
//! Every test makes its own cgroups, bpffs mount and pins, and removes them however it ends.
#![cfg(feature = "privileged")]

mod concurrency;
mod lifecycle;
mod redirect;
mod udp;
mod world;
