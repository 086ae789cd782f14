//! Finds the processes below a root that are older than its anchor.
//!
//! - input: `/proc`, again and again until nothing is new
//! - output: entries marked as walked, and a [`Walk`]
//! - bound: [`MAX_PASSES`] passes, [`MAX_PROCESSES`] processes
//! - on failure: [`AnchorError`]; a process that is missed has no anchor
//!
//! Once the root has its entry, the kernel gives every child of an anchored process its own. What a
//! walk has to find are the processes that existed before, and what they forked before they were
//! found. Numbers that are reused meanwhile cannot mislead it: a pass believes only in processes
//! that had started before it did, and of those no two can have had one number during the pass.
//! A process whose parent exited before it was found has no way to be found.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weir_ebpf_common::AnchorEntry;
use weir_ebpf_common::anchor::{ANCHOR_ROOT, ANCHOR_WALKED};

use super::stat::{self, Stat, TICK_NS};
use super::{AnchorError, AnchorId, Anchors, BPF_NOEXIST, boot_time_ns};

/// Passes over `/proc`. Two are enough unless processes that are not found yet keep forking.
pub(super) const MAX_PASSES: usize = 32;
/// Processes that a pass looks at.
const MAX_PROCESSES: usize = 1 << 18;

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Descendants that were older than the anchor.
    pub found: usize,
    /// Whether the last pass found nothing new. If not, some descendants may have no anchor.
    pub is_complete: bool,
}

/// What to do about the processes below a root.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// To be anchored; with whether an entry is in the way.
    take: Vec<(u32, Stat, bool)>,
    /// Started too lately to be believed in this pass, and without anchor.
    young: usize,
}

/// Anchors what is below `root`. `before` is the anchor that it was in until now.
pub(super) fn walk(
    anchors: &mut Anchors,
    root: u32,
    id: AnchorId,
    before: Option<AnchorId>,
) -> Result<Walk, AnchorError> {
    let mut found = 0;
    for _ in 0..MAX_PASSES {
        let now_ticks = boot_time_ns()? / u64::from(TICK_NS);
        let processes = processes()?;
        let mut failed = None;
        let plan = plan(root, &processes, now_ticks, (id, before), |pid| {
            anchors.entry(pid).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if plan.take.is_empty() && plan.young == 0 {
            return Ok(Walk { found, is_complete: true });
        }
        let nothing_to_take = plan.take.is_empty();
        for (pid, stat, is_replaced) in plan.take {
            found += usize::from(take(anchors, id, pid, &stat, is_replaced)?);
        }
        if nothing_to_take {
            // The young ones are old enough with the next tick.
            std::thread::sleep(Duration::from_nanos(TICK_NS.into()));
        }
    }
    Ok(Walk { found, is_complete: false })
}

/// Anchors one process, unless it is gone.
fn take(
    anchors: &mut Anchors,
    id: AnchorId,
    pid: u32,
    stat: &Stat,
    is_replaced: bool,
) -> Result<bool, AnchorError> {
    let entry = stat.entry(id, ANCHOR_WALKED);
    match anchors.put(pid, &entry, if is_replaced { 0 } else { BPF_NOEXIST }) {
        Ok(()) => {}
        // The number was reused, and by an anchored process; or we were told twice.
        Err(AnchorError::Taken(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    if stat::read(pid).is_ok_and(|now| now.is_same(stat)) {
        return Ok(true);
    }
    anchors.take_back(pid, &entry)?;
    Ok(false)
}

/// Descends from the root. Other anchors' processes are left alone with all that is below them.
fn plan(
    root: u32,
    processes: &BTreeMap<u32, Stat>,
    now_ticks: u64,
    (id, before): (AnchorId, Option<AnchorId>),
    mut entry: impl FnMut(u32) -> Option<AnchorEntry>,
) -> Plan {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, stat) in processes {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut plan = Plan::default();
    let mut pending = VecDeque::from([root]);
    while let Some(parent) = pending.pop_front() {
        // Removed, so that no garbled table can lead in circles.
        for pid in children.remove(&parent).unwrap_or_default() {
            let Some(stat) = processes.get(&pid).filter(|stat| !stat.is_dying) else { continue };
            let raw = entry(pid);
            let own = raw.filter(|entry| stat.is_of(entry));
            let is_ours = own.is_some_and(|own| own.anchor_id == id.0);
            let was_outer = own.is_some_and(|own| {
                before.is_some_and(|before| own.anchor_id == before.0)
                    && own.flags & ANCHOR_ROOT == 0
            });
            if is_ours {
                pending.push_back(pid);
            } else if own.is_some() && !was_outer {
                // Another job's, or what is left of one.
            } else if stat.start_ticks >= now_ticks {
                plan.young += 1;
            } else {
                plan.take.push((pid, *stat, raw.is_some()));
                pending.push_back(pid);
            }
        }
    }
    plan
}

fn processes() -> Result<BTreeMap<u32, Stat>, AnchorError> {
    let listed = std::fs::read_dir("/proc").map_err(AnchorError::Proc)?;
    Ok(listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .take(MAX_PROCESSES)
        // Whoever is gone by now needs no anchor.
        .filter_map(|pid| Some((pid, stat::read(pid).ok()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: AnchorId = AnchorId(100);
    const OUTER: AnchorId = AnchorId(50);

    /// Pid, parent, start in ticks.
    fn table(rows: &[(u32, u32, u64)]) -> BTreeMap<u32, Stat> {
        let stat = |parent, start_ticks| Stat { parent, start_ticks, is_dying: false };
        rows.iter().map(|(pid, parent, ticks)| (*pid, stat(*parent, *ticks))).collect()
    }

    fn taken(plan: &Plan) -> Vec<u32> {
        plan.take.iter().map(|(pid, _, _)| *pid).collect()
    }

    #[test]
    fn everything_below_the_root_is_taken_and_nothing_else() {
        let all = table(&[(1, 0, 0), (10, 1, 5), (11, 10, 6), (12, 11, 7), (13, 1, 6), (9, 12, 8)]);
        let plan = plan(10, &all, 100, (NEW, None), |_| None);
        assert_eq!(taken(&plan), [11, 12, 9]);
        assert_eq!(plan.young, 0);
    }

    #[test]
    fn the_young_wait_for_the_next_pass_with_all_below_them() {
        let all = table(&[(11, 10, 99), (12, 10, 100), (13, 12, 100)]);
        let plan = plan(10, &all, 100, (NEW, None), |_| None);
        assert_eq!((taken(&plan), plan.young), (vec![11], 1));
    }

    #[test]
    fn entries_decide_who_is_left_alone() {
        let all = table(&[
            (11, 10, 5),
            (12, 11, 6),
            (20, 10, 5),
            (21, 20, 6),
            (30, 10, 5),
            (31, 30, 6),
            (40, 10, 5),
            (41, 40, 6),
        ]);
        let of = |pid: u32, id: AnchorId, flags| all.get(&pid).map(|stat| stat.entry(id, flags));
        let plan = plan(10, &all, 100, (NEW, Some(OUTER)), |pid| match pid {
            // Inherited already; its child was not.
            11 => of(pid, NEW, 0),
            // In the anchor that the root was in.
            20 => of(pid, OUTER, 0),
            // An orphan of a job that ended.
            30 => of(pid, AnchorId(7), 0),
            // An entry of an earlier process of this number.
            40 => of(11, AnchorId(7), 0).map(|old| AnchorEntry { start_time_ns: 1, ..old }),
            _ => None,
        });
        assert_eq!(taken(&plan), [20, 40, 12, 21, 41]);
        let replaced: Vec<bool> = plan.take.iter().map(|(_, _, replaced)| *replaced).collect();
        assert_eq!(replaced, [true, true, false, false, false]);
    }

    #[test]
    fn the_dying_and_circles_end_the_descent() {
        let mut all = table(&[(11, 10, 5), (12, 11, 6), (10, 12, 4)]);
        assert_eq!(taken(&plan(10, &all, 100, (NEW, None), |_| None)), [11, 12, 10]);
        all.get_mut(&11).unwrap().is_dying = true;
        assert_eq!(plan(10, &all, 100, (NEW, None), |_| None), Plan::default());
    }
}
