//! Tells which connections passed unseen because no gateway was alive.
//!
//! - input: the kernel's count of them, and what the record knew before
//! - output: a gap row for those that are new, with the time in which they passed
//! - bound: two numbers with their times
//! - on failure: what could not be told is told later; what was told within the last seconds before
//!   a crash is told again

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Shared;
use crate::capture::Told;
use crate::record::Record;
use crate::record::row::GapRow;

/// What the recorder needs beyond `spool.sync_every` until a row is on disk.
const SYNC_TIME: Duration = Duration::from_secs(1);

/// Looks, tells, and remembers in the kernel what was told.
#[derive(Debug)]
pub(super) struct Watch {
    known: Unseen,
    /// When the last row is on disk, while it is not.
    on_disk: Option<Instant>,
}

impl Watch {
    /// Goes on where the last gateway stopped.
    pub(super) fn new(shared: &Shared) -> Self {
        let told = shared.seams.capture.told_bypassed().unwrap_or_else(|error| {
            tracing::error!(%error, "connections that passed unseen are told from the beginning");
            Told::default()
        });
        Self { known: Unseen::from(told, shared.seams.clock.mono()), on_disk: None }
    }

    /// Compares and tells.
    pub(super) async fn look(&mut self, shared: &Shared, count: u64) {
        if self.on_disk.is_none() {
            self.settle(shared);
        }
        let now = shared.seams.clock.mono();
        let Some(passed) = self.known.passed(count, now) else { return };
        if let Ok(permit) = shared.recorder.reserve().await {
            permit.send(Record::Gap(row(shared, passed)));
            self.known.tell(count, now);
            self.on_disk = Some(now + shared.config.spool.sync_every + SYNC_TIME);
        }
    }

    /// Returns when the last row is on disk; never, when there is none on its way.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub(super) async fn on_disk(&self) {
        match self.on_disk {
            Some(time) => tokio::time::sleep_until(time.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Remembers what is on disk. Nothing while the spool fails: the row may not be there.
    pub(super) fn settle(&mut self, shared: &Shared) {
        self.on_disk = None;
        if shared.recorder.health().is_ok() {
            self.close(shared);
        }
    }

    /// Remembers everything: the recorder has stopped well, and sealed what it had.
    pub(super) fn close(&self, shared: &Shared) {
        let told = self.known.settled(shared.seams.clock.mono());
        if let Err(error) = shared.seams.capture.tell_bypassed(told) {
            tracing::error!(%error, "connections that passed unseen may be told twice");
        }
    }
}

fn row(shared: &Shared, passed: Passed) -> GapRow {
    let Passed { connections, within } = passed;
    let seconds = within.as_secs() + 1;
    tracing::error!(connections, seconds, "connections passed unseen: no gateway was alive");
    GapRow {
        ts: shared.seams.clock.wall().0,
        cause: super::bypass::CAUSE,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records: connections,
        bytes: 0,
        detail: format!(
            "{connections} connections passed unseen within the {seconds} s before this: no \
             gateway was alive, and capture.danger_fail_open is true"
        ),
    }
}

/// What the record knows.
#[derive(Debug)]
struct Unseen {
    /// Told by a row of this gateway or an earlier one, and when the kernel had counted so many.
    told: u64,
    at: Instant,
    /// How much earlier than `at` that was, for what an earlier gateway told.
    before: Duration,
}

/// Connections that no row tells of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    connections: u64,
    /// They passed within this time before now.
    within: Duration,
}

impl Unseen {
    /// Goes on where the last gateway stopped.
    fn from(told: Told, now: Instant) -> Self {
        Self { told: told.count, at: now, before: told.ago }
    }

    /// What is told, for the next gateway. To be remembered when the row is on disk, not earlier: a
    /// crash tells twice rather than not at all.
    fn settled(&self, now: Instant) -> Told {
        Told { count: self.told, ago: self.before + now.saturating_duration_since(self.at) }
    }

    /// What is new. Answers the same again unless [`Self::tell`] follows.
    fn passed(&mut self, count: u64, now: Instant) -> Option<Passed> {
        if count < self.told {
            // Attached anew: the kernel counts from 0 again.
            self.told = 0;
        }
        let connections = count - self.told;
        let within = self.settled(now).ago;
        if connections == 0 {
            self.tell(count, now);
        }
        (connections > 0).then_some(Passed { connections, within })
    }

    /// A row that tells of all of them is on its way to the disk.
    fn tell(&mut self, count: u64, now: Instant) {
        *self = Self { told: count, at: now, before: Duration::ZERO };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn told(count: u64, ago: Duration) -> Told {
        Told { count, ago }
    }

    #[test]
    fn each_connection_is_told_once_and_with_its_time() {
        let start = Instant::now();
        let mut bypass = Unseen::from(told(3, 30 * SECOND), start);
        let passed = Some(Passed { connections: 7, within: 30 * SECOND });
        assert_eq!(bypass.passed(10, start), passed);
        bypass.tell(10, start);
        assert_eq!(bypass.passed(10, start + 10 * SECOND), None);
        let later = start + 20 * SECOND;
        let passed = Some(Passed { connections: 1, within: 10 * SECOND });
        assert_eq!(bypass.passed(11, later), passed);
    }

    #[test]
    fn what_no_row_could_tell_is_told_later() {
        let start = Instant::now();
        let mut bypass = Unseen::from(told(0, SECOND), start);
        assert!(bypass.passed(4, start).is_some());
        let later = start + 10 * SECOND;
        assert_eq!(bypass.settled(later), told(0, 11 * SECOND), "no row: not settled");
        let passed = Some(Passed { connections: 6, within: 11 * SECOND });
        assert_eq!(bypass.passed(6, later), passed);
        bypass.tell(6, later);
        assert_eq!(bypass.settled(later + SECOND), told(6, SECOND));
    }

    #[test]
    fn counters_that_start_over_are_told_from_0() {
        let start = Instant::now();
        let mut bypass = Unseen::from(told(100, SECOND), start);
        assert_eq!(bypass.passed(2, start).map(|new| new.connections), Some(2));
    }
}
