//! The whole gateway in this process: real sockets and TLS, everything but the kernel hooks.
//! Every test looks at the client's view, the origin's view, the rows and the counters.
#![expect(clippy::disallowed_methods, reason = "tests may spawn tasks: they end with the test")]

mod bytes;
mod dns;
mod http;
mod limits;
mod policy;
mod secrets;
mod streams;
mod tls;
mod wire;
