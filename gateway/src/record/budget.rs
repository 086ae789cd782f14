//! The memory that bodies may take between the wire and the spool, all exchanges together.
//!
//! - input: the bytes that a body wants to keep
//! - output: leases; bytes that give their lease back when the last reference is gone
//! - bound: `record.max_memory`
//! - on failure: no lease; the body is then not recorded

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

/// The budget. Clones share it.
#[derive(Clone, Debug)]
pub struct BodyBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    left: AtomicUsize,
    max: usize,
    refused: AtomicU64,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a lease gives its bytes back"]
pub struct BodyLease {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner { left: AtomicUsize::new(max), max, refused: AtomicU64::new(0) }))
    }

    /// Takes `bytes`, if there are so many.
    pub fn try_take(&self, bytes: usize) -> Option<BodyLease> {
        let mut lease = BodyLease { budget: self.clone(), bytes: 0 };
        lease.grow(bytes).then_some(lease)
    }

    /// How often there was not enough left: each is a body that is not recorded.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.max.saturating_sub(self.0.left.load(Ordering::Relaxed))
    }
}

impl BodyLease {
    /// Takes `more` bytes into the same lease; without success nothing changes.
    pub fn grow(&mut self, more: usize) -> bool {
        let take = |left: usize| left.checked_sub(more);
        let left = &self.budget.0.left;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if taken {
            self.bytes = self.bytes.saturating_add(more);
        } else {
            self.budget.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Bytes of this lease.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it is of no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Binds the lease to data: it ends with the last clone or slice of the result.
    pub fn attach(self, data: Vec<u8>) -> Bytes {
        Bytes::from_owner(Leased { data, _lease: self })
    }
}

impl Drop for BodyLease {
    fn drop(&mut self) {
        self.budget.0.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

struct Leased {
    data: Vec<u8>,
    _lease: BodyLease,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_refused_when_used_up_and_returns_with_the_last_slice() {
        let budget = BodyBudget::new(10);
        let mut lease = budget.try_take(6).unwrap();
        assert!(budget.try_take(5).is_none());
        assert!(!lease.grow(5));
        assert!(lease.grow(4));
        assert_eq!((lease.len(), budget.used(), budget.refused()), (10, 10, 2));
        let bytes = lease.attach(vec![7; 10]);
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(budget.used(), 10, "a slice still holds the memory");
        drop(slice);
        assert_eq!(budget.used(), 0);
    }
}
