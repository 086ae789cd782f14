//! Secrets: in heads and bodies, on their way out, back, and into the record.
//!
//! - input: `[inspect]`; heads and bodies of exchanges
//! - output: what leaves; [`mask::Masked`] values, the only ones that the recorder takes; findings
//! - bound: `inspect.max_body` of each body; `limits`
//! - on failure: [`refused::Refused`]: where secrets are replaced, what cannot be looked into does not pass
//!
//! ```text
//! inspection   rules, registered values, scopes: one for the gateway
//! scopes       vaults: one for each job or login session
//! judge        what happens to a secret: one for each direction of an exchange
//! heads        heads of requests, on their way out
//! findings     what was found, for the record
//! body         bodies as a whole
//! transform    bodies while they pass
//! rewrite      targets, fields and trailers of requests in which secrets are replaced
//! signed       requests that must not be changed
//! mask         heads, for the record
//! recorded     bodies, for the record
//! keys         the fingerprint key and registered values, from their files
//! rules        what secrets look like: built in, the operator's, imported files
//! ```

pub mod body;
pub mod findings;
mod heads;
pub mod inspection;
pub mod judge;
pub mod keys;
pub mod mask;
pub mod recorded;
pub mod refused;
pub mod rewrite;
pub mod rules;
pub mod scopes;
pub mod signed;
pub mod transform;

pub use inspection::{InspectError, Inspection};
pub use judge::{Looking, Plan, Side};
pub use refused::Refused;
