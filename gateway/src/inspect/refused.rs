//! Why a message is not sent on.
//!
//! - input: what a judge found, or could not look into
//! - output: [`Refused`]
//! - bound: none
//! - on failure: cannot fail

use std::sync::Arc;

use crate::error::{Fault, Faulty};

/// Why. The rule's name is the operator's or weir's, never a part of the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It carries a secret that must not go there.
    #[error("it carries a secret ({0})")]
    Secret(Arc<str>),
    /// It cannot be looked into where secrets are replaced.
    #[error("it cannot be inspected: {0}")]
    Unreadable(&'static str),
    /// It is signed, and carries a secret that would have to be replaced.
    #[error("it is signed and carries a secret that would have to be replaced")]
    Signed,
}

impl Refused {
    /// `rule_id` of the record and of the answer.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Secret(_) => "inspect.secret",
            Self::Unreadable(_) => "inspect.unreadable",
            Self::Signed => "inspect.signed",
        }
    }
}

impl Faulty for Refused {
    fn fault(&self) -> Fault {
        Fault::Policy
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret_refused",
            Self::Unreadable(_) => "body_unreadable",
            Self::Signed => "signed_secret",
        }
    }
}
