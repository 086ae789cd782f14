//! End-to-end tests: they see only what an operator sees. This library is their harness: a test
//! CA, origin servers, clients and a load generator, all with real sockets and real TLS.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a harness that meets the unexpected must fail the test at once, with a location"
)]

#[cfg(feature = "privileged")]
pub mod appliance;
pub mod beat;
pub mod ca;
pub mod client;
pub mod dns;
#[cfg(feature = "privileged")]
pub mod docker;
pub mod gateway;
pub mod idp;
pub mod load;
pub mod origin;
pub mod pattern;
pub mod rows;
