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
pub mod counter;

#[cfg(feature = "user")]
mod pod;

pub use counter::Counter;

/// Version of everything in this crate. Any change of layout, meaning or map name raises it.
pub const ABI_VERSION: u32 = 2;
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

/// Value of map `NETNS`: where the gateway listens in a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Port on 127.0.0.1 and ::1, host byte order.
    pub port: u16,
    /// How many addresses from 127.0.0.1 on have it, 1 to [`MAX_ADDRESSES`]: each gives captured
    /// sockets a range of source ports of its own.
    pub addresses: u16,
    /// Zero.
    pub pad: [u8; 4],
}

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
    pub argv_len: u32,
    /// Thread name, NUL-padded: text that the process chose itself.
    pub comm: [u8; COMM_BYTES],
    /// Parent first; ends with pid 1, a zero, or the end of the array.
    pub ancestors: [Ancestor; MAX_ANCESTORS],
    /// Arguments separated by NUL: text that the process chose itself.
    pub argv: [u8; MAX_ARGV_BYTES],
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
            comm: [0; COMM_BYTES],
            ancestors: [Ancestor { start_time_ns: 0, tgid: 0, pad: 0 }; MAX_ANCESTORS],
            argv: [0; MAX_ARGV_BYTES],
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
}

/// See [`Offsets`]: what the security hooks read. All zero where the kernel lacks a member, and the
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
    /// Zero.
    pub pad: u32,
}

// The layout both sides agree on. No implicit padding: sizes are the sums of the fields.
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Config>() == 24);
    assert!(offset_of!(Config, captured_id) == 8);
    assert!(offset_of!(Config, addresses) == 22);
    assert!(size_of::<Listener>() == 8);
    assert!(size_of::<Ancestor>() == 16);
    assert!(size_of::<Tuple>() == 40);
    assert!(offset_of!(Tuple, client_port) == 32);
    assert!(offset_of!(Tuple, gateway_port) == 34);
    assert!(size_of::<Offsets>() == 12 * 4);
    assert!(size_of::<LsmOffsets>() == 8 * 4);
    assert!(align_of::<Record>() == 8);
    assert!(offset_of!(Record, exe_dev) == 40);
    assert!(offset_of!(Record, orig_addr) == 56);
    assert!(offset_of!(Record, orig_port) == 72);
    assert!(offset_of!(Record, argv_len) == 76);
    assert!(offset_of!(Record, comm) == 80);
    assert!(offset_of!(Record, ancestors) == 96);
    assert!(offset_of!(Record, argv) == 192);
    assert!(size_of::<Record>() == 192 + MAX_ARGV_BYTES);
};
