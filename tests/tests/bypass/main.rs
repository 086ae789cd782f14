//! Every known way past the capture, tried for real, with the far end of the wire counting.
//! Needs root: `cargo test -p weir-tests --features privileged --test bypass -- --nocapture`
//!
//! Each test thread lives in network namespaces of its own (`net`); cgroups, pins and tables are
//! its own as well and go however the test ends. Nothing here touches the namespace of the host.
#![cfg(feature = "privileged")]
#![cfg_attr(
    feature = "privileged",
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::print_stdout,
        reason = "in a test harness, a panic with a place is the report, and the table is printed"
    )
)]

mod failopen;
mod layers;
mod net;
mod repair;

mod rows;
mod table;
mod upgrade;
mod world;
