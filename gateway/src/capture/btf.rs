//! Finds structure members in the running kernel's type information (BTF).
//!
//! - input: `/sys/kernel/btf/vmlinux`
//! - output: [`Offsets`] for the BPF programs, which rustc cannot relocate by themselves
//! - bound: 64 MiB of input; [`MAX_STEPS`] members looked at per question
//! - on failure: [`BtfError`]; nothing is loaded
//!
//! Layout as in the kernel's `Documentation/bpf/btf.rst`. Every read is checked: a truncated or
//! garbled file gives an error or a wrong answer, never a panic or an endless loop.

use std::io::Read as _;

use weir_ebpf_common::{LsmOffsets, Offsets};

use super::CaptureError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Members looked at while searching one name: anonymous members nest.
pub const MAX_STEPS: u32 = 100_000;
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// What is wrong with type information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// A read past the end of its section.
    #[error("type information ends early")]
    Truncated,
    /// Not BTF, or BTF of the other byte order.
    #[error("not type information of this machine's byte order")]
    Magic,
    /// A kind this parser does not know, so that it cannot find the next type.
    #[error("unknown kind {0} in type information")]
    Kind(u32),
    /// The kernel has no such member.
    #[error("no member {0}.{1} in type information")]
    NoMember(String, String),
}

/// Offsets of everything the BPF programs read, from the running kernel; those of the optional
/// programs only where it has them.
///
/// # Errors
/// [`CaptureError::Unsupported`] when the kernel has no BTF or lacks a member.
pub fn running_kernel() -> Result<(Offsets, Option<LsmOffsets>), CaptureError> {
    let unsupported = |detail: String| CaptureError::Unsupported(format!("{VMLINUX}: {detail}"));
    let file = std::fs::File::open(VMLINUX).map_err(|error| unsupported(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| unsupported(error.to_string()))?;
    let btf = Btf::parse(bytes).map_err(|error| unsupported(error.to_string()))?;
    let needed = offsets(&btf).map_err(|error| unsupported(error.to_string()))?;
    Ok((needed, lsm_offsets(&btf).ok()))
}

/// The members that the security hooks and the watching programs read; `cgroup.ancestors` is younger
/// than the rest (6.1).
///
/// # Errors
/// [`BtfError::NoMember`] names the first that is missing.
pub fn lsm_offsets(btf: &Btf) -> Result<LsmOffsets, BtfError> {
    let sock = btf.offset("sock", "__sk_common")?;
    let group = btf.offset("sock", "sk_cgrp_data")?;
    Ok(LsmOffsets {
        socket_sk: btf.offset("socket", "sk")?,
        sock_family: sock.wrapping_add(btf.offset("sock_common", "skc_family")?),
        sock_cgroup: group.wrapping_add(btf.offset("sock_cgroup_data", "cgroup")?),
        cgroup_level: btf.offset("cgroup", "level")?,
        cgroup_ancestors: btf.offset("cgroup", "ancestors")?,
        cgroup_kn: btf.offset("cgroup", "kn")?,
        kernfs_node_id: btf.offset("kernfs_node", "id")?,
        kernfs_node_name: btf.offset("kernfs_node", "name")?,
        task_cgroups: btf.offset("task_struct", "cgroups")?,
        css_set_dfl_cgrp: btf.offset("css_set", "dfl_cgrp")?,
        task_comm: btf.offset("task_struct", "comm")?,
        task_real_cred: btf.offset("task_struct", "real_cred")?,
        cred_uid: btf.offset("cred", "uid")?,
        cred_gid: btf.offset("cred", "gid")?,
        sock_dport: sock.wrapping_add(btf.offset("sock_common", "skc_dport")?),
        sock_daddr: sock.wrapping_add(btf.offset("sock_common", "skc_daddr")?),
        // Without IPv6 nobody asks for it.
        sock_v6_daddr: sock
            .wrapping_add(btf.offset("sock_common", "skc_v6_daddr").unwrap_or_default()),
    })
}

/// The members that the BPF programs read.
///
/// # Errors
/// [`BtfError::NoMember`] names the first that is missing.
pub fn offsets(btf: &Btf) -> Result<Offsets, BtfError> {
    Ok(Offsets {
        task_group_leader: btf.offset("task_struct", "group_leader")?,
        task_real_parent: btf.offset("task_struct", "real_parent")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_start_boottime: btf.offset("task_struct", "start_boottime")?,
        task_mm: btf.offset("task_struct", "mm")?,
        mm_exe_file: btf.offset("mm_struct", "exe_file")?,
        mm_arg_start: btf.offset("mm_struct", "arg_start")?,
        mm_arg_end: btf.offset("mm_struct", "arg_end")?,
        file_f_inode: btf.offset("file", "f_inode")?,
        inode_i_ino: btf.offset("inode", "i_ino")?,
        inode_i_sb: btf.offset("inode", "i_sb")?,
        super_block_s_dev: btf.offset("super_block", "s_dev")?,
        task_signal: btf.offset("task_struct", "signal")?,
        signal_live: btf.offset("signal_struct", "live")?,
        task_children: btf.offset("task_struct", "children")?,
        task_sibling: btf.offset("task_struct", "sibling")?,
    })
}

/// Indexed type information.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where each type starts in `bytes`, by type id; id 0 is `void` and has no place.
    types: Vec<usize>,
    strings: usize,
    strings_end: usize,
}

impl Btf {
    /// Indexes a BTF file.
    ///
    /// # Errors
    /// [`BtfError::Magic`], [`BtfError::Truncated`] or [`BtfError::Kind`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at| read_u32(&bytes, at);
        if word(0)? & 0xffff != u32::from(MAGIC) {
            return Err(BtfError::Magic);
        }
        let header = word(4)?;
        let section = |offset, len| {
            let start = place(header)?.checked_add(place(offset)?).ok_or(BtfError::Truncated)?;
            let end = start.checked_add(place(len)?).ok_or(BtfError::Truncated)?;
            if end > bytes.len() { Err(BtfError::Truncated) } else { Ok((start, end)) }
        };
        let (mut at, types_end) = section(word(8)?, word(12)?)?;
        let (strings, strings_end) = section(word(16)?, word(20)?)?;
        let mut types = vec![usize::MAX];
        while at < types_end {
            types.push(at);
            at = at.checked_add(type_bytes(word(at + 4)?)?).ok_or(BtfError::Truncated)?;
        }
        Ok(Self { bytes, types, strings, strings_end })
    }

    /// Byte offset of a member, also of one inside anonymous members.
    ///
    /// # Errors
    /// [`BtfError::NoMember`], or [`BtfError::Truncated`] when a type points outside the file.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let mut steps = MAX_STEPS;
        for at in self.types.iter().skip(1).copied() {
            let info = read_u32(&self.bytes, at + 4)?;
            if kind(info) != KIND_STRUCT || !self.is_named(at, structure)? {
                continue;
            }
            if let Some(bits) = self.member_bits(at, member, &mut steps)? {
                return Ok(bits / 8);
            }
        }
        Err(BtfError::NoMember(structure.to_owned(), member.to_owned()))
    }

    fn member_bits(
        &self,
        at: usize,
        wanted: &str,
        steps: &mut u32,
    ) -> Result<Option<u32>, BtfError> {
        // Places still to search, with the bit offset of what contains them. Never longer than the
        // number of steps taken.
        let mut pending = vec![(at, 0_u32)];
        while let Some((at, base)) = pending.pop() {
            let info = read_u32(&self.bytes, at + 4)?;
            if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
                continue;
            }
            let has_bitfields = info >> 31 == 1;
            for index in 0..place(info & 0xffff)? {
                *steps = match steps.checked_sub(1) {
                    Some(left) => left,
                    None => return Ok(None),
                };
                let member = at + 12 + 12 * index;
                let raw = read_u32(&self.bytes, member + 8)?;
                let bits = base.wrapping_add(if has_bitfields { raw & 0x00ff_ffff } else { raw });
                if self.is_named(member, wanted)? {
                    return Ok(Some(bits));
                }
                if self.is_named(member, "")? {
                    let id = place(read_u32(&self.bytes, member + 4)?)?;
                    let inner = self.types.get(id).filter(|_| id != 0);
                    pending.push((*inner.ok_or(BtfError::Truncated)?, bits));
                }
            }
        }
        Ok(None)
    }

    /// Whether the name of the type or member that starts at `at` is `name`.
    fn is_named(&self, at: usize, name: &str) -> Result<bool, BtfError> {
        let start = self
            .strings
            .checked_add(place(read_u32(&self.bytes, at)?)?)
            .ok_or(BtfError::Truncated)?;
        let found = self.bytes.get(start..self.strings_end).ok_or(BtfError::Truncated)?;
        Ok(found.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)))
    }
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Bytes of one type: the common head and what its kind appends.
fn type_bytes(info: u32) -> Result<usize, BtfError> {
    let members = place(info & 0xffff)?;
    let tail = match kind(info) {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // structure, union, data section, 64-bit enumeration
        4 | 5 | 15 | 19 => 12 * members,
        // enumeration, function prototype
        6 | 13 => 8 * members,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        other => return Err(BtfError::Kind(other)),
    };
    Ok(12 + tail)
}

fn place(value: u32) -> Result<usize, BtfError> {
    usize::try_from(value).map_err(|_too_large| BtfError::Truncated)
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    at.checked_add(4)
        .and_then(|end| bytes.get(at..end))
        .and_then(|four| four.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or(BtfError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct outer { int a; union { int b; struct { int :8; int c; }; }; };`
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0int\0";
        let (outer, a, b, c, int) = (1, 7, 9, 11, 13);
        let types: Vec<u32> = [
            vec![int, 1 << 24, 4, 32],
            vec![outer, (4 << 24) | 2, 12, a, 1, 0, 0, 3, 32],
            vec![0, (5 << 24) | 2, 8, b, 1, 0, 0, 4, 0],
            vec![0, 1 << 31 | (4 << 24) | 2, 8, 0, 1, 8 << 24, c, 1, 32],
        ]
        .concat();
        let types_len = u32::try_from(types.len() * 4).unwrap();
        let strings_len = u32::try_from(strings.len()).unwrap();
        let header = [0x1_eb9f, 24, 0, types_len, types_len, strings_len];
        let mut bytes: Vec<u8> =
            header.iter().chain(&types).flat_map(|word: &u32| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "a"), Ok(0));
        assert_eq!(btf.offset("outer", "b"), Ok(4));
        assert_eq!(btf.offset("outer", "c"), Ok(8));
        let missing = |s: &str, m: &str| Err(BtfError::NoMember(s.into(), m.into()));
        assert_eq!(btf.offset("outer", "d"), missing("outer", "d"));
        assert_eq!(btf.offset("oute", "a"), missing("oute", "a"));
        assert_eq!(btf.offset("outer", "int"), missing("outer", "int"));
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(Btf::parse(Vec::new()).unwrap_err(), BtfError::Truncated);
        assert_eq!(Btf::parse(b"\x7fELF\x02\x01\x01".to_vec()).unwrap_err(), BtfError::Magic);
        let mut unknown = sample();
        unknown[24 + 7] = 31;
        assert_eq!(Btf::parse(unknown).unwrap_err(), BtfError::Kind(31));
    }

    #[test]
    fn a_type_that_contains_itself_ends_the_search() {
        let mut endless = sample();
        // The anonymous union's second member becomes the union itself, twice over.
        let union = 24 + 16 + 36;
        for member in 0..2 {
            let at = union + 12 + 12 * member;
            endless[at..at + 4].fill(0);
            endless[at + 4..at + 8].copy_from_slice(&3_u32.to_ne_bytes());
        }
        let btf = Btf::parse(endless).unwrap();
        assert!(matches!(btf.offset("outer", "c"), Err(BtfError::NoMember(..))));
    }

    proptest! {
        #[test]
        fn truncated_or_garbled_input_never_panics(
            cut in 0_usize..200, garble in proptest::collection::vec((0_usize..200, any::<u8>()), 0..6)
        ) {
            let mut bytes = sample();
            for (at, value) in garble {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            bytes.truncate(cut.max(20));
            if let Ok(btf) = Btf::parse(bytes) {
                for member in ["a", "b", "c", ""] {
                    let answer = btf.offset("outer", member);
                    prop_assert!(answer.is_ok() || answer.is_err());
                }
            }
        }

        #[test]
        fn any_bytes_behind_a_good_header_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = sample();
            bytes.truncate(24);
            let half = u32::try_from(tail.len() / 2).unwrap();
            bytes[12..16].copy_from_slice(&half.to_ne_bytes());
            bytes[16..20].copy_from_slice(&half.to_ne_bytes());
            bytes[20..24].copy_from_slice(&half.to_ne_bytes());
            bytes.extend(tail);
            let found = Btf::parse(bytes).and_then(|btf| btf.offset("outer", "a"));
            prop_assert!(found.is_err());
        }
    }
}
