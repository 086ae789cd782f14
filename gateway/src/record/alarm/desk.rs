//! Where alarms become rows: equal ones are put together, and floods are summed up.
//!
//! - input: alarms, in the recorder's thread
//! - output: rows: the first of equal alarms at once, the others of [`WINDOW`] as one row at its
//!   end; what is beyond the rate (`rate`) as one summary per job and severity and window
//! - bound: [`MAX_OPEN`] different alarms at once, beyond which equal ones are not put together;
//!   `rate::MAX_SOURCES` summaries
//! - on failure: cannot fail
//!
//! The counts of all rows add up to the number of alarms.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::rate::{MAX_SOURCES, Rates, Source};
use super::{Alarm, Destination, Severity};
use crate::capture::{CgroupId, ProcessKey};
use crate::clock::WallUs;
use crate::record::row::AlarmRow;

/// How long equal alarms are put together.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Different alarms that are remembered at once.
pub(super) const MAX_OPEN: usize = 1024;
/// Kind of a summary.
const SUMMARY: &str = "alarms_suppressed";

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: &'static str,
    process: ProcessKey,
    destination: Option<Destination>,
    detail: String,
}

/// What was not written yet.
#[derive(Debug)]
struct Pending {
    since: Instant,
    /// The row that tells it, with the first time and the count so far.
    row: AlarmRow,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::record) struct Desk {
    rates: Rates,
    /// Alarms whose first row was written.
    open: HashMap<Key, Pending>,
    /// Alarms beyond the rate.
    summed: HashMap<Source, Pending>,
}

impl Desk {
    /// Takes an alarm; a row if it is to be written at once.
    pub(in crate::record) fn take(
        &mut self,
        alarm: Alarm,
        wall: WallUs,
        now: Instant,
    ) -> Option<AlarmRow> {
        let age = i64::try_from(alarm.age.as_micros()).unwrap_or(i64::MAX);
        let ts = wall.0.saturating_sub(age);
        let key = Key {
            kind: alarm.kind,
            process: alarm.process.as_ref().map(|one| one.process.key).unwrap_or_default(),
            destination: alarm.destination.clone(),
            detail: alarm.detail.clone(),
        };
        if let Some(open) = self.open.get_mut(&key) {
            if open.row.count == 0 {
                open.row.ts = ts;
            }
            open.row.count = open.row.count.saturating_add(alarm.count);
            return None;
        }
        let source = Source {
            cgroup: alarm.process.as_ref().map_or(CgroupId(0), |one| one.process.cgroup_id),
            severity: alarm.severity,
        };
        if !self.rates.admit(source, now) {
            self.sum_up(source, alarm, ts, now);
            return None;
        }
        let row = alarm.into_row(ts);
        if self.open.len() < MAX_OPEN {
            let pending = Pending { since: now, row: AlarmRow { count: 0, ..row.clone() } };
            self.open.insert(key, pending);
        }
        Some(row)
    }

    /// Alarms that did not get here.
    pub(in crate::record) fn lost(&mut self, count: u64, wall: WallUs, now: Instant) {
        let mut alarm = Alarm::new(SUMMARY, Severity::Error, "no place in the recorder's queue");
        alarm.count = count;
        self.sum_up(Source::shared(Severity::Error), alarm, wall.0, now);
    }

    fn sum_up(&mut self, source: Source, alarm: Alarm, ts: i64, now: Instant) {
        let full = self.summed.len() >= MAX_SOURCES && !self.summed.contains_key(&source);
        let source = if full { Source::shared(source.severity) } else { source };
        let count = alarm.count;
        let summed = self.summed.entry(source).or_insert_with(|| {
            let mut row = alarm.into_row(ts);
            row.detail = format!("more than are recorded one by one; first {}", first(&row));
            row.kind = SUMMARY;
            row.count = 0;
            Pending { since: now, row }
        });
        summed.row.count = summed.row.count.saturating_add(count);
    }

    /// Rows whose window has ended.
    pub(in crate::record) fn due(&mut self, now: Instant) -> Vec<AlarmRow> {
        self.end(|since| now.saturating_duration_since(since) >= WINDOW)
    }

    /// All rows that are left, at the end.
    pub(in crate::record) fn rest(&mut self) -> Vec<AlarmRow> {
        self.end(|_| true)
    }

    fn end(&mut self, ended: impl Fn(Instant) -> bool) -> Vec<AlarmRow> {
        let open = self.open.extract_if(|_, pending| ended(pending.since)).map(|(_, one)| one);
        let summed = self.summed.extract_if(|_, pending| ended(pending.since)).map(|(_, one)| one);
        open.chain(summed).map(|pending| pending.row).filter(|row| row.count > 0).collect()
    }
}

#[cfg(test)]
impl Desk {
    /// How much is remembered.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.open.len(), self.summed.len())
    }
}

fn first(row: &AlarmRow) -> String {
    if row.detail.is_empty() {
        row.kind.to_owned()
    } else {
        format!("{}: {}", row.kind, row.detail)
    }
}
