//! Compares what the kernel handed over with what the gateway accepted.
//!
//! - input: the kernel's count of joined records, the gateway's count of accepted connections
//! - output: how many connections the gateway never saw
//! - bound: two numbers
//! - on failure: cannot fail; without kernel counts (tests) nothing is compared
//!
//! The kernel has one count for all gateways. While two accept, neither compares; the older one
//! then says how many it has accounted for, and the newer one goes on from there.

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
pub(crate) struct Reconcile {
    base: Counts,
    /// Missing at the last look: a connection may be between the kernel and `accept(2)`, so that
    /// only what is missing twice in a row is lost.
    missing: u64,
}

/// Whether and from where to compare.
#[derive(Debug, Default)]
pub(crate) enum Baseline {
    /// From the next look on.
    #[default]
    Unknown,
    /// Not while an older gateway accepts.
    Awaited,
    /// Compared.
    Known(Reconcile),
    /// A newer gateway compares.
    Ended,
}

impl Baseline {
    /// As [`Reconcile::lost`]. `before` is what was accepted before `joined` was read.
    pub(super) fn lost(&mut self, before: u64, now: Counts) -> u64 {
        match self {
            Self::Unknown => {
                *self = Self::Known(Reconcile::from(Counts { accepted: before, ..now }));
                0
            }
            Self::Known(reconcile) => reconcile.lost(now),
            Self::Awaited | Self::Ended => 0,
        }
    }
}

impl Reconcile {
    /// How many of the kernel's joined connections were accepted or told as lost, in all, when so
    /// many are accepted and no more will be.
    pub(super) fn accounted(&self, accepted: u64) -> u64 {
        self.base.joined.saturating_add(accepted.saturating_sub(self.base.accepted))
    }

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
    fn a_newer_gateway_goes_on_where_the_older_one_stopped() {
        let mut old = Baseline::default();
        assert_eq!(old.lost(0, at(100, 0)), 0);
        assert_eq!(old.lost(40, at(150, 40)), 0, "ten on their way");
        let Baseline::Known(old) = old else { panic!("{old:?}") };
        // It accepts 43 in all; 20 more came to both, of which the newer one had 15.
        let accounted = old.accounted(43);
        assert_eq!(accounted, 143);
        let mut new = Baseline::Awaited;
        assert_eq!(new.lost(15, at(170, 15)), 0, "not while both accept");
        new = Baseline::Known(Reconcile::from(Counts { joined: accounted, accepted: 0 }));
        // Of 27 joined for it two are missing for good.
        assert_eq!(new.lost(25, at(170, 25)), 0);
        assert_eq!(new.lost(25, at(170, 25)), 2);
        assert_eq!(new.lost(25, at(170, 25)), 0);
    }

    #[test]
    fn counters_that_start_over_are_no_loss() {
        let mut reconcile = Reconcile::from(at(1000, 50));
        assert_eq!(reconcile.lost(at(3, 53)), 0);
        assert_eq!(reconcile.lost(at(9, 57)), 0);
        assert_eq!(reconcile.lost(at(9, 57)), 2, "and compared again from there");
    }
}
