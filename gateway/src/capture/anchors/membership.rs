//! What a process has to do with an anchor.
//!
//! - input: the anchor fields of a record
//! - output: [`Membership`]
//! - bound: none
//! - on failure: `None`: the process has no anchor

use weir_ebpf_common::anchor::{ANCHOR_ENDED, ANCHOR_ROOT, ANCHOR_WALKED};

use super::AnchorId;

/// How it is known that a process belongs somewhere, surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnchorSource {
    /// The kernel saw every fork between the root and the process.
    Fork,
    /// The process, or one above it, was found below the root: it was older than the anchor, or
    /// no program saw its fork.
    Walked,
    /// Its cgroup: a container, or a unit.
    Cgroup,
    /// Its user and login session.
    Session,
}

/// What a process has to do with an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which anchor.
    pub id: AnchorId,
    /// [`AnchorSource::Fork`] or [`AnchorSource::Walked`].
    pub source: AnchorSource,
    /// Whether it is the root itself.
    pub is_root: bool,
    /// Whether the anchor had ended: the process is an orphan of a job that is over.
    pub is_ended: bool,
}

impl Membership {
    /// From the fields of a record.
    pub(in crate::capture) fn of(anchor_id: u64, flags: u32) -> Option<Self> {
        let has = |flag| flags & flag != 0;
        (anchor_id != 0).then(|| Self {
            id: AnchorId(anchor_id),
            source: if has(ANCHOR_WALKED) { AnchorSource::Walked } else { AnchorSource::Fork },
            is_root: has(ANCHOR_ROOT),
            is_ended: has(ANCHOR_ENDED),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_how_sure_it_is_and_whether_it_is_over() {
        assert_eq!(Membership::of(0, ANCHOR_ENDED), None);
        let sure = Membership {
            id: AnchorId(7),
            source: AnchorSource::Fork,
            is_root: false,
            is_ended: false,
        };
        assert_eq!(Membership::of(7, 0), Some(sure));
        assert_eq!(Membership::of(7, ANCHOR_ROOT), Some(Membership { is_root: true, ..sure }));
        let orphan = Membership { source: AnchorSource::Walked, is_ended: true, ..sure };
        assert_eq!(Membership::of(7, ANCHOR_WALKED | ANCHOR_ENDED), Some(orphan));
        assert!(AnchorSource::Fork < AnchorSource::Walked);
    }
}
