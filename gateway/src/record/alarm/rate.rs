//! How many alarm rows may be written: per job and severity, and in all per severity.
//!
//! - input: who asks, and when
//! - output: yes or no
//! - bound: [`MAX_SOURCES`] jobs apart; those beyond share one
//! - on failure: cannot fail
//!
//! Severities do not share: a process that floods the record with small things must not hide its
//! large one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Severity;
use crate::capture::CgroupId;

/// Jobs that are told apart.
pub(super) const MAX_SOURCES: usize = 64;
/// Rows of one job and severity: at once, and then one per interval.
const JOB: Limit = Limit { burst: 50, every: Duration::from_secs(1) };
/// Rows of one severity, all jobs together.
const ALL: Limit = Limit { burst: 500, every: Duration::from_millis(100) };

struct Limit {
    burst: u32,
    every: Duration,
}

/// Who an alarm is charged to: the cgroup of the process, and the severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) cgroup: CgroupId,
    pub(super) severity: Severity,
}

impl Source {
    /// What has no job, and those for which there is no place.
    pub(super) fn shared(severity: Severity) -> Self {
        Self { cgroup: CgroupId(0), severity }
    }
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Rates {
    jobs: HashMap<Source, Instant>,
    all: HashMap<Severity, Instant>,
}

impl Rates {
    /// Whether a source may write a row now, which is then counted.
    pub(super) fn admit(&mut self, source: Source, now: Instant) -> bool {
        if self.jobs.len() >= MAX_SOURCES && !self.jobs.contains_key(&source) {
            self.jobs.retain(|_, free_at| *free_at > now);
        }
        let full = self.jobs.len() >= MAX_SOURCES && !self.jobs.contains_key(&source);
        let source = if full { Source::shared(source.severity) } else { source };
        let job = self.jobs.get(&source).copied();
        let all = self.all.get(&source.severity).copied();
        let (Some(job), Some(all)) = (JOB.next(job, now), ALL.next(all, now)) else {
            return false;
        };
        self.jobs.insert(source, job);
        self.all.insert(source.severity, all);
        true
    }
}

impl Limit {
    /// The generic cell rate algorithm: `free_at` is when all of the burst is there again.
    fn next(&self, free_at: Option<Instant>, now: Instant) -> Option<Instant> {
        let from = free_at.map_or(now, |at| at.max(now));
        let next = from + self.every;
        (next.saturating_duration_since(now) <= self.every * self.burst).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(cgroup: u64, severity: Severity) -> Source {
        Source { cgroup: CgroupId(cgroup), severity }
    }

    fn admitted(rates: &mut Rates, source: Source, at: Instant) -> usize {
        (0..10_000).take_while(|_| rates.admit(source, at)).count()
    }

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let one = source(1, Severity::Warn);
        assert_eq!(admitted(&mut rates, one, start), 50);
        assert_eq!(admitted(&mut rates, one, start + Duration::from_millis(999)), 0);
        assert_eq!(admitted(&mut rates, one, start + Duration::from_secs(3)), 3);
        assert_eq!(admitted(&mut rates, one, start + Duration::from_secs(1000)), 50);
    }

    #[test]
    fn a_flood_takes_nothing_from_other_jobs_or_severities() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        assert_eq!(admitted(&mut rates, source(1, Severity::Info), now), 50);
        assert_eq!(admitted(&mut rates, source(2, Severity::Info), now), 50);
        assert_eq!(admitted(&mut rates, source(1, Severity::Error), now), 50);
    }

    #[test]
    fn many_jobs_together_are_bounded_too() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let all: usize =
            (1..1000).map(|job| admitted(&mut rates, source(job, Severity::Warn), now)).sum();
        assert_eq!(all, 500);
        assert!(rates.jobs.len() <= MAX_SOURCES + 1, "{}", rates.jobs.len());
        assert_eq!(admitted(&mut rates, source(1, Severity::Error), now), 50);
    }
}
