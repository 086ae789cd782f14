//! What everything that descends into bytes carries along.
//!
//! - input: rules, known values, the caller's judge
//! - output: [`Masker`]
//! - bound: none of its own
//! - on failure: [`Error`]

use crate::engine::Engine;
use crate::judge::{Judge, Location};
use crate::known::Known;

/// Why a body is not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The judge refused a value.
    #[error("a value was refused")]
    Refused,
}

/// Masks with one set of rules and values, for one caller.
pub struct Masker<'a> {
    /// What secrets look like.
    pub engine: &'a Engine,
    /// What is matched exactly.
    pub known: &'a Known,
    /// Who decides.
    pub judge: &'a mut dyn Judge,
    /// Where the bytes stand.
    pub at: Location,
}
