//! Identity tokens, against a real OIDC provider and issuers like those of CI systems.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod cli;
mod forged;
mod good;
mod keys;
mod people;
mod sources;
mod world;
