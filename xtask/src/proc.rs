//! What processes cost, from /proc.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

/// A process and all that descend from it.
pub(crate) fn tree(root: u32) -> Result<BTreeSet<u32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end at any moment.
        let Some(stat) = stat(pid) else { continue };
        let Some(parent) = stat.get(1).and_then(|field| field.parse::<u32>().ok()) else {
            continue;
        };
        parents.push((pid, parent));
    }
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        if found.len() == before {
            return Ok(found);
        }
    }
}

/// Fields of /proc/PID/stat from the third (state) on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// User and system time of these processes.
pub(crate) fn cpu(pids: &BTreeSet<u32>) -> Result<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let mut ticks = 0_u64;
    for stat in pids.iter().filter_map(|pid| stat(*pid)) {
        for field in [11, 12] {
            ticks += stat.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Proportional set size of these processes in bytes.
pub(crate) fn memory(pids: &BTreeSet<u32>) -> u64 {
    let rollup = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let pss = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?.to_owned();
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(rollup).filter_map(pss).sum::<u64>() * 1024
}

/// True if an argument of the process is `word`.
pub(crate) fn has_argument(pid: u32, word: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
}
