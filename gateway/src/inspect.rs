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
//! findings     what was found, for the record
//! mask         heads, for the record
//! keys         the fingerprint key and registered values, from their files
//! ```

pub mod findings;
pub mod inspection;
pub mod judge;
pub mod keys;
pub mod mask;
pub mod refused;
pub mod scopes;

pub use inspection::{InspectError, Inspection};
pub use judge::{Looking, Plan, Side};
pub use refused::Refused;
