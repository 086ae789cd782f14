//! Waiting between attempts: 200 ms, doubling to a minute, each shortened by chance so that a
//! fleet does not return at once.
//!
//! - input: failures and successes
//! - output: how long to wait
//! - bound: [`LONGEST`]
//! - on failure: cannot fail

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first wait.
pub const SHORTEST: Duration = Duration::from_millis(200);
/// No wait is longer.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Waits of one queue.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    seed: RandomState,
}

impl Backoff {
    /// The wait after one more failure: between half of the full wait and all of it.
    pub fn after_failure(&mut self) -> Duration {
        let full = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        // The hasher is keyed at random per process; the counter makes each value another one.
        let chance = self.seed.hash_one(self.failures) % 1024;
        half + half.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1024.0)
    }

    /// Forgets the failures.
    pub fn after_success(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_start_over() {
        let mut backoff = Backoff::default();
        let mut full = SHORTEST;
        for _ in 0..1000 {
            let wait = backoff.after_failure();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        backoff.after_success();
        assert!(backoff.after_failure() <= SHORTEST);
    }

    #[test]
    fn waits_differ_between_hosts() {
        let waits: Vec<Duration> = (0..16).map(|_| Backoff::default().after_failure()).collect();
        assert!(waits.iter().any(|w| *w != waits[0]), "{waits:?}");
    }
}
