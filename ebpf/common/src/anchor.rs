//! Job anchors: which process tree a process belongs to.
//!
//! - input: none; plain types and one comparison
//! - output: values of the maps `ANCHORS` and `ANCHOR_ROOTS`
//! - bound: [`MAX_ENTRIES`] processes, [`MAX_ANCHORS`] anchors; nothing is evicted
//! - on failure: cannot fail

/// Entries of map `ANCHORS`. A process that finds it full has no anchor; it is never given another.
pub const MAX_ENTRIES: u32 = 65_536;
/// Entries of map `ANCHOR_ROOTS`.
pub const MAX_ANCHORS: u32 = 1024;

/// Flag: the anchor was found by ancestry, for this process or one above it: by walking `/proc`, or
/// by the kernel where no program had seen the fork.
pub const ANCHOR_WALKED: u32 = 1;
/// Flag: the process is its anchor's root. Not inherited.
pub const ANCHOR_ROOT: u32 = 2;
/// Flag of [`crate::Record`] only: the anchor had ended when the process connected.
pub const ANCHOR_ENDED: u32 = 4;

/// Value of map `ANCHORS`, by thread group id in the initial pid namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnchorEntry {
    /// Key of map `ANCHOR_ROOTS`; never zero, never used twice within a boot.
    pub anchor_id: u64,
    /// `task_struct.start_boottime` of the group leader, nanoseconds; with `start_span_ns`, the
    /// earliest that it can be.
    pub start_time_ns: u64,
    /// How much later it may be: zero where the kernel wrote the entry, and less than one clock
    /// tick where `/proc` was read.
    pub start_span_ns: u32,
    /// `ANCHOR_*` bits.
    pub flags: u32,
}

impl AnchorEntry {
    /// Whether the entry is about the process that started then. If not, the number was reused.
    #[inline(always)]
    pub const fn is_of(&self, start_time_ns: u64) -> bool {
        start_time_ns.wrapping_sub(self.start_time_ns) <= self.start_span_ns as u64
    }

    /// What a child that started then gets.
    #[inline(always)]
    pub const fn inherited(&self, start_time_ns: u64) -> Self {
        Self {
            anchor_id: self.anchor_id,
            start_time_ns,
            start_span_ns: 0,
            flags: self.flags & ANCHOR_WALKED,
        }
    }
}

/// Value of map `ANCHOR_ROOTS`, by anchor id. Made and removed by the gateway; an anchor without one
/// has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnchorRoot {
    /// See [`AnchorEntry::start_time_ns`].
    pub start_time_ns: u64,
    /// When the root exited, nanoseconds since boot (`CLOCK_BOOTTIME`); zero while it lives.
    /// Written by the kernel.
    pub ended_ns: u64,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// See [`AnchorEntry::start_span_ns`].
    pub start_span_ns: u32,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<AnchorEntry>() == 24);
    assert!(offset_of!(AnchorEntry, start_span_ns) == 16);
    assert!(offset_of!(AnchorEntry, flags) == 20);
    assert!(size_of::<AnchorRoot>() == 24);
    assert!(offset_of!(AnchorRoot, tgid) == 16);
    assert!(offset_of!(AnchorRoot, start_span_ns) == 20);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_number_is_another_process() {
        let exact = AnchorEntry { anchor_id: 7, start_time_ns: 1000, start_span_ns: 0, flags: 0 };
        assert!(exact.is_of(1000));
        assert!(!exact.is_of(999) && !exact.is_of(1001) && !exact.is_of(0));
        let read = AnchorEntry { start_span_ns: 99, ..exact };
        assert!(read.is_of(1000) && read.is_of(1099));
        assert!(!read.is_of(999) && !read.is_of(1100) && !read.is_of(u64::MAX));
    }

    #[test]
    fn a_child_is_no_root_and_as_sure_as_its_parent() {
        let all = ANCHOR_WALKED | ANCHOR_ROOT;
        let parent = AnchorEntry { anchor_id: 7, start_time_ns: 1, start_span_ns: 9, flags: all };
        let child =
            AnchorEntry { anchor_id: 7, start_time_ns: 20, start_span_ns: 0, flags: ANCHOR_WALKED };
        assert_eq!(parent.inherited(20), child);
    }
}
