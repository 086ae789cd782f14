//! Faults: whose doing a failure is. Every stage error answers [`Faulty::fault`].
//!
//! - input: a stage error
//! - output: its fault, which chooses log level, metric label and recorded outcome
//! - bound: none
//! - on failure: cannot fail

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The intercepted client sent something wrong, or went away.
    Downstream,
    /// The real destination refused, misbehaved or could not be verified.
    Upstream,
    /// Configuration or policy says no.
    Policy,
    /// A limit of this gateway was reached.
    Capacity,
    /// weir itself or its host failed.
    Internal,
}

impl Fault {
    /// All faults, in the order of their metric labels.
    pub const ALL: [Self; 5] =
        [Self::Downstream, Self::Upstream, Self::Policy, Self::Capacity, Self::Internal];

    /// The metric label and recorded value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Policy => "policy",
            Self::Capacity => "capacity",
            Self::Internal => "internal",
        }
    }
}

/// Implemented by every stage error.
pub trait Faulty: std::error::Error {
    /// Whose doing this is.
    fn fault(&self) -> Fault;
    /// A short, stable, machine-readable name: the recorded outcome.
    fn outcome(&self) -> &'static str;
}
