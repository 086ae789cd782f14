//! `/proc/PID/stat`: readable for every user, and all that a walk needs.
//!
//! - input: one line of text, of which the process chose a part (its name)
//! - output: [`Stat`]
//! - bound: [`MAX_STAT_BYTES`]
//! - on failure: the operating system's answer; `InvalidData` for a line that is none

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};

use weir_ebpf_common::AnchorEntry;

use super::AnchorId;

/// A clock tick of procfs: `USER_HZ` is 100 on every architecture that we build for.
pub(super) const TICK_NS: u32 = 10_000_000;
const MAX_STAT_BYTES: u64 = 4096;
/// `PF_EXITING`: set before the kernel's exit hook runs.
const EXITING: u64 = 4;

/// What a walk needs to know about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its parent, or who adopted it; 0 for the first process.
    pub(super) parent: u32,
    /// When it started: clock ticks since boot, rounded down.
    pub(super) start_ticks: u64,
    /// Whether its last thread is exiting or has exited.
    pub(super) is_dying: bool,
}

impl Stat {
    /// Nanoseconds since boot, rounded down to a clock tick.
    pub(super) fn started_ns(&self) -> u64 {
        self.start_ticks.saturating_mul(u64::from(TICK_NS))
    }

    /// The entry of this process in an anchor.
    pub(super) fn entry(&self, id: AnchorId, flags: u32) -> AnchorEntry {
        let start_time_ns = self.started_ns();
        AnchorEntry { anchor_id: id.0, start_time_ns, start_span_ns: TICK_NS - 1, flags }
    }

    /// Whether an entry is about the process that started then.
    pub(super) fn is_of(&self, entry: &AnchorEntry) -> bool {
        entry.start_time_ns / u64::from(TICK_NS) == self.start_ticks
    }

    /// Whether this is the same process as before, and alive.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        !self.is_dying && self.start_ticks == before.start_ticks
    }
}

/// Reads a process. `NotFound` or `ESRCH` when it is gone.
pub(super) fn read(pid: u32) -> Result<Stat> {
    let mut line = Vec::new();
    File::open(format!("/proc/{pid}/stat"))?.take(MAX_STAT_BYTES).read_to_end(&mut line)?;
    parse(&line).ok_or_else(|| Error::new(ErrorKind::InvalidData, "not a line of /proc/PID/stat"))
}

fn parse(line: &[u8]) -> Option<Stat> {
    // The name in parentheses may contain anything, parentheses too.
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let exited = matches!(*fields.first()?, "Z" | "X");
    let exiting = number(6)? & EXITING != 0;
    let threads = number(17)?;
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        start_ticks: number(19)?,
        // A leader may exit before the others: the process lives on.
        is_dying: (exited || exiting) && threads <= 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(name: &str, state: &str, flags: u64, threads: u64) -> String {
        format!(
            "4242 ({name}) {state} 17 4242 4242 0 -1 {flags} 163 0 0 0 0 0 0 0 20 0 {threads} 0 \
             123456 8392704 520 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
        )
    }

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        for name in ["sh", "a b", ") R 1 1 1", "((", "", "x\u{fffd}\n"] {
            let stat = parse(line(name, "S", 0x40_0000, 3).as_bytes());
            let wanted = Stat { parent: 17, start_ticks: 123_456, is_dying: false };
            assert_eq!(stat, Some(wanted), "{name:?}");
        }
    }

    #[test]
    fn a_process_is_dying_with_its_last_thread() {
        let dying = |state, flags, threads| {
            parse(line("x", state, flags, threads).as_bytes()).unwrap().is_dying
        };
        assert!(dying("Z", 4, 1) && dying("R", 4, 1) && dying("X", 4, 0));
        assert!(!dying("Z", 4, 2), "only the leader has exited");
        assert!(!dying("D", 0, 1));
    }

    #[test]
    fn the_own_process_is_alive_and_has_its_parent() {
        let me = read(std::process::id()).unwrap();
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert!(!me.is_dying && me.start_ticks > 0);
        let entry = me.entry(AnchorId(7), 0);
        assert!(me.is_of(&entry) && entry.is_of(me.started_ns() + 9_999_999));
        assert!(!entry.is_of(me.started_ns() + 10_000_000));
        assert_eq!(read(u32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
