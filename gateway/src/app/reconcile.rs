//! Compares what the kernel handed over with what the gateway accepted.
//!
//! - input: the kernel's count of joined records, the gateway's count of accepted connections
//! - output: how many connections the gateway never saw
//! - bound: two numbers
//! - on failure: cannot fail; without kernel counts (tests) nothing is compared

/// Both counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Connections whose record the kernel put on a gateway socket.
    pub(super) joined: u64,
    /// Connections that the gateway accepted with a record.
    pub(super) accepted: u64,
}

/// What was compared last.
#[derive(Debug)]
pub(super) struct Reconcile {
    base: Counts,
    /// Missing at the last look: a connection may be between the kernel and `accept(2)`, so that
    /// only what is missing twice in a row is lost.
    missing: u64,
}

impl Reconcile {
    /// Starts counting. Read `accepted` before `joined`: what is on its way then counts for us.
    pub(super) fn from(base: Counts) -> Self {
        Self { base, missing: 0 }
    }

    /// Connections lost since the last look, each told once. Read `joined` before `accepted`.
    pub(super) fn lost(&mut self, now: Counts) -> u64 {
        if now.joined < self.base.joined {
            // Attached anew: the kernel counts from 0 again.
            *self = Self::from(now);
            return 0;
        }
        let joined = now.joined.saturating_sub(self.base.joined);
        let accepted = now.accepted.saturating_sub(self.base.accepted);
        let missing = joined.saturating_sub(accepted);
        let lost = missing.min(self.missing);
        self.base.joined += lost;
        self.missing = missing - lost;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(joined: u64, accepted: u64) -> Counts {
        Counts { joined, accepted }
    }

    #[test]
    fn equal_progress_is_no_loss_wherever_it_began() {
        let mut reconcile = Reconcile::from(at(1000, 3));
        assert_eq!(reconcile.lost(at(1500, 503)), 0);
        assert_eq!(reconcile.lost(at(1500, 503)), 0);
    }

    #[test]
    fn a_connection_on_its_way_is_no_loss() {
        let mut reconcile = Reconcile::from(at(0, 0));
        assert_eq!(reconcile.lost(at(10, 8)), 0);
        assert_eq!(reconcile.lost(at(20, 20)), 0);
    }

    #[test]
    fn what_stays_missing_is_told_once() {
        let mut reconcile = Reconcile::from(at(0, 0));
        assert_eq!(reconcile.lost(at(10, 7)), 0);
        assert_eq!(reconcile.lost(at(20, 17)), 3);
        assert_eq!(reconcile.lost(at(30, 27)), 0);
        assert_eq!(reconcile.lost(at(30, 27)), 0);
    }

    #[test]
    fn counters_that_start_over_are_no_loss() {
        let mut reconcile = Reconcile::from(at(1000, 50));
        assert_eq!(reconcile.lost(at(3, 53)), 0);
        assert_eq!(reconcile.lost(at(9, 57)), 0);
        assert_eq!(reconcile.lost(at(9, 57)), 2, "and compared again from there");
    }
}
