//! The whole gateway in this process: real sockets and TLS, everything but the kernel hooks.
//! Every test looks at the client's view, the origin's view, the rows and the counters.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers outside test functions fail their test at once; tasks end with it"
)]

mod bytes;
mod dns;
mod hostile;
mod http;
mod limits;
mod masking;
mod masking_refused;
mod masking_ws;
mod policy;
mod retry;
mod secrets;
mod smuggling;
mod streams;
mod tls;
mod wire;
