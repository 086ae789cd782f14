//! What is in an exchange: for now, the credentials in its head.
//!
//! - input: heads and bodies
//! - output: [`mask::Masked`] values, the only ones that the recorder takes
//! - bound: one pass over a head
//! - on failure: cannot fail; what is not understood is masked whole
//!
//! Detection of secrets in bodies is the next stage to grow here; until then bodies are recorded
//! as they are, up to `record.max_body`.

pub mod mask;
pub mod signed;
