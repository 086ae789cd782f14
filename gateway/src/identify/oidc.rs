//! Identity tokens: signed JWTs of configured providers (OpenID Connect Core 1.0 section 3.1.3.7,
//! RFC 7519, RFC 8725), and who they speak of.
//!
//! - input: a token's text, the anchor that presents it, `[identity]`
//! - output: [`VerifiedToken`](verify::VerifiedToken), [`Identity`](claims::Identity)
//! - bound: see the modules
//! - on failure: [`TokenError`]; whoever has no verified token has no identity

pub mod claims;
pub mod token;
pub mod verify;

mod checks;
mod error;
mod typed;

pub use error::TokenError;
