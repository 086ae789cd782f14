//! ABI between weir's BPF programs and its userspace, and the pure matching both sides share.
//!
//! - input: none; plain types and functions
//! - output: `repr(C)` types whose sizes and offsets are asserted at compile time
//! - bound: every type has a fixed size; see [`MAX_ANCESTORS`] and [`MAX_ARGV_BYTES`]
//! - on failure: a layout that changes without [`ABI_VERSION`] fails an assertion below
//!
//! Compatibility: none is promised across versions. A gateway refuses pinned maps whose version
//! differs; `weir detach` followed by `weir attach` replaces them.
#![no_std]

pub mod addr;
pub mod anchor;
pub mod counter;
pub mod event;

#[cfg(feature = "user")]
mod pod;

pub use anchor::{AnchorEntry, AnchorRoot};
pub use counter::Counter;
pub use event::Event;

/// Version of everything in this crate. Any change of layout, meaning or map name raises it.
pub const ABI_VERSION: u32 = 3;
/// Ancestors recorded of a process, parent first.
pub const MAX_ANCESTORS: usize = 6;
/// Bytes recorded of a process's arguments.
pub const MAX_ARGV_BYTES: usize = 128;
/// Bytes of a thread name, `TASK_COMM_LEN`.
pub const COMM_BYTES: usize = 16;

/// Socket family of [`Record::family`], `AF_INET`.
pub const FAMILY_V4: u16 = 2;
/// Socket family of [`Record::family`], `AF_INET6`.
pub const FAMILY_V6: u16 = 10;

/// Flag of [`Config`]: refuse UDP to port 443, so that clients fall back from QUIC to TCP.
pub const FLAG_REFUSE_QUIC: u32 = 1;
/// Flag of [`Config`]: let UDP to port 53 leave.
pub const FLAG_ALLOW_DNS: u32 = 2;
/// Flag of [`Config`]: while no gateway is alive, TCP and DNS pass instead of being refused.
pub const FLAG_FAIL_OPEN: u32 = 4;
/// Index into map `ALIVE`: the gateway's last beat, `bpf_ktime_get_ns` (`CLOCK_MONOTONIC`); 0 when
/// no gateway has ever run. Written by the gateway.
pub const ALIVE_BEAT: u32 = 0;
/// Index into map `ALIVE`: how many [`Counter::ConnectFailedOpen`] the record knows of. Written by
/// the gateway; here because it must live exactly as long as the counter.
pub const ALIVE_TOLD: u32 = 1;
/// Index into map `ALIVE`: when the counter had that value, on the clock of [`ALIVE_BEAT`]. Written
/// by the loader (when it attached) and the gateway.
pub const ALIVE_TOLD_AT: u32 = 2;
/// Entries of map `ALIVE`.
pub const ALIVE_ENTRIES: u32 = 3;
/// A gateway whose last beat is older than this is dead, nanoseconds. Twenty beats: a gateway that
/// waits for a busy CPU or disk is not dead, and shorter outages are refused in any case.
pub const FAIL_OPEN_AFTER_NS: u64 = 2_000_000_000;
/// Flag of [`Config`]: [`Config::captured_level`] counts from the root of the whole hierarchy, so that
/// the cgroup of a task can be compared with the captured one.
pub const FLAG_LEVEL_KNOWN: u32 = 8;
/// Bit of [`Record::flags`]: the calling process was outside the captured cgroup, its socket inside.
pub const RECORD_SOCKET_MOVED: u16 = 1;
/// Most loopback addresses that the gateway listens on.
pub const MAX_ADDRESSES: u16 = 64;

/// Written once by the loader, read by every program; the only entry of map `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of the loader.
    pub abi_version: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// Id of the captured cgroup.
    pub captured_id: u64,
    /// Its depth: 1 is a child of the root.
    pub captured_level: u32,
    /// The gateway's port in the loader's network namespace, host byte order. Nobody captured may
    /// bind it. Redirects go where map `NETNS` says.
    pub gateway_port: u16,
    /// See [`Listener::addresses`].
    pub addresses: u16,
}

/// Kind of a [`Listener`]: the gateway listens on loopback in the namespace itself.
pub const LISTENER_LOCAL: u16 = 0;
/// Kind of a [`Listener`]: connections leave the namespace by a bridge of the gateway's, and meet
/// the gateway there.
pub const LISTENER_BRIDGED: u16 = 1;

/// Value of map `NETNS`: where the gateway listens for a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Local: port on 127.0.0.1 and ::1, host byte order. Bridged: zero.
    pub port: u16,
    /// Local: how many addresses from 127.0.0.1 on have it, 1 to [`MAX_ADDRESSES`]: each gives
    /// captured sockets a range of source ports of its own. Bridged: zero.
    pub addresses: u16,
    /// [`LISTENER_LOCAL`] or [`LISTENER_BRIDGED`].
    pub kind: u16,
    /// Zero.
    pub pad: [u8; 2],
    /// Bridged: an address of the bridge, where the resolver listens; zero for none.
    pub bridge_v4: u32,
    /// See `bridge_v4`.
    pub bridge_v6: [u32; 4],
}

/// Key of map `LINKS`: a device of a bridged namespace by which captured packets may leave it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Cookie of the namespace.
    pub netns_cookie: u64,
    /// Index of the device, in that namespace.
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of map `LINKS`: where such a device leads to, in the gateway's namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Index of the other end of the pair.
    pub ifindex: u32,
    /// Index of the bridge that it belongs to.
    pub bridge: u32,
}

/// Key of map `NEIGHBOURS`, behind a prefix length: an address as a bridged namespace sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Cookie of the namespace, in two words.
    pub netns_cookie: [u32; 2],
    /// Network byte order, IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u32; 4],
}

impl Neighbour {
    /// Bits of a whole key.
    pub const BITS: u32 = 192;
    /// Bits before those of an IPv4 address.
    pub const BITS_BEFORE_V4: u32 = 160;
    /// Bits before those of an IPv6 address.
    pub const BITS_BEFORE_V6: u32 = 64;

    /// The key of an address in a namespace.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
    pub const fn new(netns_cookie: u64, addr: [u32; 4]) -> Self {
        Self { netns_cookie: [netns_cookie as u32, (netns_cookie >> 32) as u32], addr }
    }
}

/// Slot of map `LISTENERS`: the gateway's transparent socket for IPv4.
pub const SLOT_V4: u32 = 0;
/// Slot of map `LISTENERS`: the gateway's transparent socket for IPv6.
pub const SLOT_V6: u32 = 1;
/// Slots of map `LISTENERS`.
pub const SLOTS: u32 = 2;
/// Network namespaces that can be captured at once, entries of map `NETNS`.
pub const MAX_NETNS: u32 = 1024;
/// Devices of all bridged namespaces together, entries of map `LINKS`.
pub const MAX_LINKS: u32 = 4096;
/// Address ranges of all bridged namespaces together, entries of map `NEIGHBOURS`.
pub const MAX_NEIGHBOURS: u32 = 16_384;
/// Bridges that captured namespaces may be on.
pub const MAX_BRIDGES: u32 = 64;

/// A process in a [`Record`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancestor {
    /// `task_struct.start_boottime` of the group leader, nanoseconds.
    pub start_time_ns: u64,
    /// Thread group id in the initial pid namespace; zero ends the list.
    pub tgid: u32,
    /// Zero.
    pub pad: u32,
}

/// What the connect hook knows about one redirected connection. Lives in socket storage (maps
/// `CLIENT` and `SERVER`) and, between SYN and handshake, in map `TUPLES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// `bpf_get_socket_cookie` of the client's socket.
    pub socket_cookie: u64,
    /// `bpf_get_netns_cookie` of the client's socket.
    pub netns_cookie: u64,
    /// Cgroup of the calling process.
    pub cgroup_id: u64,
    /// `task_struct.start_boottime` of the calling process's group leader, nanoseconds.
    pub start_time_ns: u64,
    /// Inode number of the executable.
    pub exe_ino: u64,
    /// `super_block.s_dev` of the executable: 12 bits major, 20 bits minor.
    pub exe_dev: u32,
    /// Thread group id of the calling process.
    pub tgid: u32,
    /// Its user id, in the initial user namespace.
    pub uid: u32,
    /// Its group id, in the initial user namespace.
    pub gid: u32,
    /// Original destination: four words in network byte order, IPv4 as `::ffff:a.b.c.d`.
    pub orig_addr: [u32; 4],
    /// Original destination port, host byte order.
    pub orig_port: u16,
    /// Family of the client's socket: [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u16,
    /// Bytes of `argv` that are valid, at most [`MAX_ARGV_BYTES`].
    pub argv_len: u16,
    /// `RECORD_*` bits.
    pub flags: u16,
    /// Thread name, NUL-padded: text that the process chose itself.
    pub comm: [u8; COMM_BYTES],
    /// Parent first; ends with pid 1, a zero, or the end of the array.
    pub ancestors: [Ancestor; MAX_ANCESTORS],
    /// Arguments separated by NUL: text that the process chose itself.
    pub argv: [u8; MAX_ARGV_BYTES],
    /// The process's anchor, [`AnchorEntry::anchor_id`]; zero if it has none.
    pub anchor_id: u64,
    /// `anchor::ANCHOR_*` bits.
    pub anchor_flags: u32,
    /// Zero.
    pub anchor_pad: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            socket_cookie: 0,
            netns_cookie: 0,
            cgroup_id: 0,
            start_time_ns: 0,
            exe_ino: 0,
            exe_dev: 0,
            tgid: 0,
            uid: 0,
            gid: 0,
            orig_addr: [0; 4],
            orig_port: 0,
            family: 0,
            argv_len: 0,
            flags: 0,
            comm: [0; COMM_BYTES],
            ancestors: [Ancestor { start_time_ns: 0, tgid: 0, pad: 0 }; MAX_ANCESTORS],
            argv: [0; MAX_ARGV_BYTES],
            anchor_id: 0,
            anchor_flags: 0,
            anchor_pad: 0,
        }
    }
}

/// Key of map `TUPLES`: both ends of a redirected connection, as both ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Client address: network byte order, IPv4 as `::ffff:a.b.c.d`.
    pub client_addr: [u32; 4],
    /// Gateway address, in the same form.
    pub gateway_addr: [u32; 4],
    /// Client port, host byte order.
    pub client_port: u16,
    /// Gateway port, host byte order.
    pub gateway_port: u16,
    /// Zero.
    pub pad: u32,
}

/// Key of map `DNS_ASKERS`: a question on its way to the resolver, as the resolver sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Client address: network byte order, IPv4 as `::ffff:a.b.c.d`.
    pub client_addr: [u32; 4],
    /// Client port, host byte order.
    pub client_port: u16,
    /// The id of the message, host byte order; zero for a connection.
    pub id: u16,
    /// 17 for a datagram, 6 for a connection.
    pub protocol: u32,
}

/// Byte offsets of kernel structure members, from the running kernel's BTF. rustc emits no CO-RE
/// relocations, so the loader patches this constant (`.rodata`) before it loads the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.real_parent`
    pub task_real_parent: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `mm_struct.arg_start`
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end`
    pub mm_arg_end: u32,
    /// `file.f_inode`
    pub file_f_inode: u32,
    /// `inode.i_ino`
    pub inode_i_ino: u32,
    /// `inode.i_sb`
    pub inode_i_sb: u32,
    /// `super_block.s_dev`
    pub super_block_s_dev: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `task_struct.children`
    pub task_children: u32,
    /// `task_struct.sibling`
    pub task_sibling: u32,
}

/// See [`Offsets`]: what the security hooks and the watching programs read. All zero where the kernel lacks a member, and the
/// hooks are not loaded then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LsmOffsets {
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock.__sk_common.skc_family`
    pub sock_family: u32,
    /// `sock.sk_cgrp_data.cgroup`
    pub sock_cgroup: u32,
    /// `cgroup.level`
    pub cgroup_level: u32,
    /// `cgroup.ancestors`
    pub cgroup_ancestors: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kernfs_node_id: u32,
    /// `kernfs_node.name`
    pub kernfs_node_name: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`
    pub css_set_dfl_cgrp: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.real_cred`
    pub task_real_cred: u32,
    /// `cred.uid`
    pub cred_uid: u32,
    /// `cred.gid`
    pub cred_gid: u32,
    /// `sock.__sk_common.skc_dport`
    pub sock_dport: u32,
    /// `sock.__sk_common.skc_daddr`
    pub sock_daddr: u32,
    /// `sock.__sk_common.skc_v6_daddr`
    pub sock_v6_daddr: u32,
}

/// Whether a gateway is dead: its last beat and now, both in nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub const fn is_dead(beat_ns: u64, now_ns: u64) -> bool {
    beat_ns == 0 || now_ns.saturating_sub(beat_ns) > FAIL_OPEN_AFTER_NS
}

// The layout both sides agree on. No implicit padding: sizes are the sums of the fields.
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Config>() == 24);
    assert!(offset_of!(Config, captured_id) == 8);
    assert!(offset_of!(Config, addresses) == 22);
    assert!(size_of::<Listener>() == 28);
    assert!(offset_of!(Listener, kind) == 4);
    assert!(offset_of!(Listener, bridge_v4) == 8);
    assert!(size_of::<Link>() == 16);
    assert!(size_of::<Peer>() == 8);
    assert!(size_of::<Neighbour>() == 24);
    assert!(size_of::<Ancestor>() == 16);
    assert!(size_of::<Tuple>() == 40);
    assert!(offset_of!(Tuple, client_port) == 32);
    assert!(offset_of!(Tuple, gateway_port) == 34);
    assert!(size_of::<Question>() == 24);
    assert!(offset_of!(Question, client_port) == 16);
    assert!(offset_of!(Question, protocol) == 20);
    assert!(size_of::<Offsets>() == 16 * 4);
    assert!(size_of::<LsmOffsets>() == 17 * 4);
    assert!(align_of::<Record>() == 8);
    assert!(offset_of!(Record, exe_dev) == 40);
    assert!(offset_of!(Record, orig_addr) == 56);
    assert!(offset_of!(Record, orig_port) == 72);
    assert!(offset_of!(Record, argv_len) == 76);
    assert!(offset_of!(Record, flags) == 78);
    assert!(offset_of!(Record, comm) == 80);
    assert!(offset_of!(Record, ancestors) == 96);
    assert!(offset_of!(Record, argv) == 192);
    assert!(offset_of!(Record, anchor_id) == 192 + MAX_ARGV_BYTES);
    assert!(offset_of!(Record, anchor_flags) == 200 + MAX_ARGV_BYTES);
    assert!(size_of::<Record>() == 208 + MAX_ARGV_BYTES);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_dead_before_its_first_beat_and_long_after_its_last() {
        assert!(is_dead(0, 1), "never started");
        assert!(!is_dead(7, 7 + FAIL_OPEN_AFTER_NS));
        assert!(is_dead(7, 8 + FAIL_OPEN_AFTER_NS));
        assert!(!is_dead(9, 8), "a beat from another CPU, a moment ahead of us");
    }
}
