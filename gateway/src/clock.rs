//! Wall and monotonic time behind one seam, so that tests can jump the clock.
//!
//! - input: nothing
//! - output: microseconds since the Unix epoch, and a monotonic instant
//! - bound: none
//! - on failure: a wall clock before 1970 reads as 0; durations use the monotonic clock only

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Wall-clock time, microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallUs(pub i64);

/// The `Clock` seam.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Current wall-clock time. May jump; only for records, never for deadlines.
    fn wall(&self) -> WallUs;
    /// Current monotonic time, for durations and deadlines.
    fn mono(&self) -> Instant;
}

/// The clock handle that stages carry.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may read the wall clock")]
    fn wall(&self) -> WallUs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        WallUs(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    fn mono(&self) -> Instant {
        Instant::now()
    }
}

/// Clocks that tests move by hand.
#[derive(Debug)]
pub struct FakeClock {
    wall_us: AtomicI64,
    /// The monotonic clock is the real one, this much ahead.
    ahead_us: AtomicU64,
}

impl FakeClock {
    /// A wall clock that stands at `start`, and the real monotonic clock.
    pub fn at(start: WallUs) -> Self {
        Self { wall_us: AtomicI64::new(start.0), ahead_us: AtomicU64::new(0) }
    }

    /// Moves the wall clock forward, as a jump does.
    pub fn advance(&self, by: Duration) {
        let us = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.wall_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Moves both clocks forward, as time does.
    pub fn elapse(&self, by: Duration) {
        self.elapse_mono(by);
        self.advance(by);
    }

    /// Moves the monotonic clock forward: what waits is due, and tokens are as fresh as before.
    pub fn elapse_mono(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.ahead_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn wall(&self) -> WallUs {
        WallUs(self.wall_us.load(Ordering::Relaxed))
    }

    fn mono(&self) -> Instant {
        Instant::now() + Duration::from_micros(self.ahead_us.load(Ordering::Relaxed))
    }
}
