//! The maps, and one wrapper for each kernel helper that the programs use.
//!
//! - input: contexts and pointers from the kernel
//! - output: values, or `None` / `false` where the helper failed
//! - bound: stated at each map
//! - on failure: the caller counts and refuses
//!
//! Context fields are read and written with volatile operations only: LLVM would merge adjacent
//! accesses, and the verifier accepts none but the fields' own sizes.

use core::ffi::c_void;
use core::ptr::{NonNull, addr_of, addr_of_mut, null_mut, read_volatile};

use aya_ebpf::bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use weir_ebpf_common::{
    ABI_VERSION, ALIVE_BEAT, ALIVE_ENTRIES, Config, Counter, FLAG_FAIL_OPEN, Link, Listener,
    LsmOffsets, MAX_LINKS, MAX_NEIGHBOURS, MAX_NETNS, Neighbour, Offsets, Peer, Record, Tuple,
};

/// One entry. Owner: the loader, once.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Where the gateway listens, by network namespace cookie. 1024 entries, never evicted; an unknown
/// namespace is refused. Owner: the loader and registrations of namespaces.
#[map]
static NETNS: HashMap<u64, Listener> = HashMap::with_max_entries(MAX_NETNS, 0);

/// Devices by which packets may leave bridged namespaces. 4096 entries, never evicted. Owner:
/// registrations of namespaces.
#[map]
static LINKS: HashMap<Link, Peer> = HashMap::with_max_entries(MAX_LINKS, 0);

/// What bridged namespaces reach without the host: address ranges of their bridges, with the
/// bridge's own address in each. 16384 entries, never evicted. Owner: registrations of namespaces.
#[map]
static NEIGHBOURS: LpmTrie<Neighbour, [u32; 4]> = LpmTrie::with_max_entries(MAX_NEIGHBOURS, 0);

/// Destinations that are left alone. 256 entries each, never evicted. Owner: the loader.
#[map]
static EXCLUDE_V4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(256, 0);
/// See `EXCLUDE_V4`.
#[map]
static EXCLUDE_V6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(256, 0);

/// Records of SYNs on their way to the gateway: microseconds each. 16384 entries, least recently
/// used evicted: its connection then has no record and the gateway closes it. Owner: `sock_ops`.
#[map]
static TUPLES: LruHashMap<Tuple, Record> = LruHashMap::with_max_entries(16_384, 0);

/// One value per [`Counter`]. Owner: all programs.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// `ALIVE_*`: when the gateway last said that it lives. Owner: the gateway; read here.
#[map]
static ALIVE: Array<u64> = Array::with_max_entries(ALIVE_ENTRIES, 0);

/// Sockets whose connect passed because no gateway was alive: their packets pass also when one is
/// back. One per socket, charged to it, freed with it. Owner: `connect`; made only with
/// [`FLAG_FAIL_OPEN`].
#[btf_map]
static OPENED: SkStorage<u64> = SkStorage::new();

/// The client socket's record. One per socket, charged to it, freed with it. Owner: `connect`.
#[btf_map]
static CLIENT: SkStorage<Record> = SkStorage::new();

/// The accepted socket's record. One per socket, charged to it, freed with it. Owner: `sock_ops`;
/// read by the gateway with the socket's descriptor as key.
#[btf_map]
static SERVER: SkStorage<Record> = SkStorage::new();

/// Patched by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets {
    task_group_leader: 0,
    task_real_parent: 0,
    task_tgid: 0,
    task_start_boottime: 0,
    task_mm: 0,
    mm_exe_file: 0,
    mm_arg_start: 0,
    mm_arg_end: 0,
    file_f_inode: 0,
    inode_i_ino: 0,
    inode_i_sb: 0,
    super_block_s_dev: 0,
    task_signal: 0,
    signal_live: 0,
    task_children: 0,
    task_sibling: 0,
};

/// Patched like `OFFSETS`, for the security hooks and the watching programs.
#[unsafe(no_mangle)]
pub(crate) static LSM_OFFSETS: LsmOffsets = LsmOffsets {
    socket_sk: 0,
    sock_family: 0,
    sock_cgroup: 0,
    cgroup_level: 0,
    cgroup_ancestors: 0,
    cgroup_kn: 0,
    kernfs_node_id: 0,
    kernfs_node_name: 0,
    task_cgroups: 0,
    css_set_dfl_cgrp: 0,
    task_comm: 0,
    task_real_cred: 0,
    cred_uid: 0,
    cred_gid: 0,
    sock_dport: 0,
    sock_daddr: 0,
    sock_v6_daddr: 0,
};

/// Reads a context field with exactly one access of its size.
macro_rules! field {
    ($($place:tt)+) => {{
        // SAFETY: the kernel passes a valid context for the program type (the verifier checks the
        // offset and size of the access); no reference to it is made.
        let pointer = unsafe { core::ptr::addr_of!($($place)+) };
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(pointer) }
    }};
}
/// Writes a context field with exactly one access of its size.
macro_rules! set_field {
    ($place:expr, $value:expr) => {{
        let value = $value;
        // SAFETY: as in `field!`; the verifier knows which fields are writable.
        let pointer = unsafe { core::ptr::addr_of_mut!($place) };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(pointer, value) }
    }};
}
pub(crate) use {field, set_field};

/// One patched offset. Volatile, because the compiler would fold in the zeros of the source.
macro_rules! offset {
    ($name:ident) => {{
        let pointer = core::ptr::addr_of!($crate::maps::OFFSETS.$name);
        // SAFETY: a static is always valid.
        u64::from(unsafe { core::ptr::read_volatile(pointer) })
    }};
}
pub(crate) use offset;

/// One patched offset of the security hooks; see [`offset`].
macro_rules! lsm_offset {
    ($name:ident) => {{
        let pointer = core::ptr::addr_of!($crate::maps::LSM_OFFSETS.$name);
        // SAFETY: a static is always valid.
        u64::from(unsafe { core::ptr::read_volatile(pointer) })
    }};
}
pub(crate) use lsm_offset;

/// Adds one. Per CPU and not atomic: a lost update costs a count, never a verdict.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a non-null lookup in an array map points to a live value for the program's life.
        unsafe { *value += 1 }
    }
}

/// The configuration, if the loader wrote one of this version.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.abi_version == ABI_VERSION)
}

/// Whether traffic passes unseen now: the option is set and the gateway's last beat is too old.
#[inline(always)]
pub(crate) fn is_open(config: &Config) -> bool {
    if config.flags & FLAG_FAIL_OPEN == 0 {
        return false;
    }
    let Some(beat) = ALIVE.get_ptr(ALIVE_BEAT) else { return false };
    // SAFETY: an array value is live for the program's life; the gateway writes it whole.
    let beat = unsafe { read_volatile(beat) };
    // SAFETY: takes nothing.
    let now = unsafe { helpers::bpf_ktime_get_ns() };
    weir_ebpf_common::is_dead(beat, now)
}

/// Remembers that a socket's connect passed unseen. False without memory for it.
#[inline(always)]
pub(crate) fn mark_opened(ctx: *mut bpf_sock_addr) -> bool {
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    storage_of(addr_of!(OPENED), sock_of(ctx), null_mut(), create).is_some()
}

/// Forgets it: the socket connects somewhere else now.
#[inline(always)]
pub(crate) fn forget_opened(ctx: *mut bpf_sock_addr) {
    // SAFETY: the socket pointer comes from the context; the map is this object's.
    let _ = unsafe {
        helpers::bpf_sk_storage_delete(addr_of!(OPENED).cast_mut().cast(), sock_of(ctx).cast())
    };
}

/// Whether a packet's socket has such a connection (`cgroup_skb`: 5.2).
#[inline(always)]
pub(crate) fn is_opened(skb: *mut __sk_buff) -> bool {
    let sk = field!((*skb).__bindgen_anon_2.sk);
    if sk.is_null() {
        return false;
    }
    // SAFETY: the kernel's own pointer, checked for null.
    let sk = unsafe { helpers::bpf_sk_fullsock(sk) };
    !sk.is_null() && storage_of(addr_of!(OPENED), sk, null_mut(), 0).is_some()
}

#[inline(always)]
pub(crate) fn listener(netns_cookie: u64) -> Option<&'static Listener> {
    // SAFETY: hash map values may change under a reader. Cookies are not reused: an entry that is
    // written again says the same, or another address of the same bridge.
    unsafe { NETNS.get(netns_cookie) }
}

/// Whether packets of a bridged namespace may leave it by a device.
#[inline(always)]
pub(crate) fn is_link(netns_cookie: u64, ifindex: u32) -> bool {
    // SAFETY: only looked for, not read.
    unsafe { LINKS.get(Link { netns_cookie, ifindex, pad: 0 }) }.is_some()
}

/// The bridge's own address, if a bridged namespace would reach `addr` without the host.
#[inline(always)]
pub(crate) fn bridge_of_neighbour(netns_cookie: u64, addr: [u32; 4]) -> Option<[u32; 4]> {
    NEIGHBOURS.get(Key::new(Neighbour::BITS, Neighbour::new(netns_cookie, addr))).copied()
}

#[inline(always)]
pub(crate) fn excluded_v4(addr: u32) -> bool {
    EXCLUDE_V4.get(Key::new(32, addr)).is_some()
}

#[inline(always)]
pub(crate) fn excluded_v6(addr: [u32; 4]) -> bool {
    EXCLUDE_V6.get(Key::new(128, addr)).is_some()
}

/// `bpf_get_netns_cookie` (5.6 for socket addresses).
#[inline(always)]
pub(crate) fn netns_cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: `ctx` is the context the kernel passed.
    unsafe { helpers::bpf_get_netns_cookie(ctx.cast()) }
}

/// `bpf_get_socket_cookie` (4.12).
#[inline(always)]
pub(crate) fn socket_cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: `ctx` is the context the kernel passed.
    unsafe { helpers::bpf_get_socket_cookie(ctx.cast()) }
}

/// Makes the refused call fail with `errno` instead of `EPERM`. `bpf_set_retval` (5.18).
#[inline(always)]
pub(crate) fn set_errno(errno: i32) {
    // SAFETY: takes a plain number. It fails on no path: the programs that call it may.
    let _ = unsafe { helpers::bpf_set_retval(-errno) };
}

/// Clears `SO_BINDTODEVICE`: loopback is not reachable through another device.
/// `bpf_setsockopt` with this option: 5.7.
#[inline(always)]
pub(crate) fn clear_bound_device(ctx: *mut bpf_sock_addr) -> bool {
    const SOL_SOCKET: i32 = 1;
    const SO_BINDTODEVICE: i32 = 25;
    let mut none = [0_u8; 4];
    let (name, len) = (none.as_mut_ptr(), none.len() as i32);
    // SAFETY: `ctx` is the kernel's; `name` points to `len` initialised bytes on the stack.
    unsafe {
        helpers::bpf_setsockopt(ctx.cast(), SOL_SOCKET, SO_BINDTODEVICE, name.cast(), len) == 0
    }
}

/// The record of a client socket in a connect hook, created zeroed if there is none (5.2).
#[inline(always)]
pub(crate) fn client_record_or_new(ctx: *mut bpf_sock_addr) -> Option<&'static mut Record> {
    storage(addr_of!(CLIENT), sock_of(ctx), null_mut(), BPF_SK_STORAGE_GET_F_CREATE.into())
}

/// The record of a client socket in an address hook.
#[inline(always)]
pub(crate) fn client_record(ctx: *mut bpf_sock_addr) -> Option<&'static mut Record> {
    storage(addr_of!(CLIENT), sock_of(ctx), null_mut(), 0)
}

/// Forgets the record of a client socket, if it has one: it connects somewhere else now.
#[inline(always)]
pub(crate) fn forget_client_record(ctx: *mut bpf_sock_addr) {
    // SAFETY: the socket pointer comes from the context; the map is this object's.
    let _ = unsafe {
        helpers::bpf_sk_storage_delete(addr_of!(CLIENT).cast_mut().cast(), sock_of(ctx).cast())
    };
}

/// The record of a client socket in a socket operation (5.2).
#[inline(always)]
pub(crate) fn client_record_of(sk: *mut bpf_sock) -> Option<&'static mut Record> {
    storage(addr_of!(CLIENT), sk, null_mut(), 0)
}

/// The full socket of a packet; `None` for packets without one (5.1).
#[inline(always)]
pub(crate) fn socket_of_packet(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    let sk = field!((*skb).__bindgen_anon_2.sk);
    if sk.is_null() {
        return None;
    }
    // SAFETY: the pointer comes from the context and is not null.
    let sk = unsafe { helpers::bpf_sk_fullsock(sk) };
    (!sk.is_null()).then_some(sk)
}

/// Copies a record into an accepted socket's storage.
#[inline(always)]
pub(crate) fn store_server_record(sk: *mut bpf_sock, record: *mut Record) -> bool {
    storage(addr_of!(SERVER), sk, record, BPF_SK_STORAGE_GET_F_CREATE.into()).is_some()
}

#[inline(always)]
pub(crate) fn announce(tuple: &Tuple, record: &Record) -> bool {
    TUPLES.insert(tuple, record, 0).is_ok()
}

#[inline(always)]
pub(crate) fn announced(tuple: &Tuple) -> Option<*mut Record> {
    TUPLES.get_ptr_mut(tuple)
}

#[inline(always)]
pub(crate) fn withdraw(tuple: &Tuple) {
    // Fails only if it is gone already, which is what was wanted.
    let _ = TUPLES.remove(tuple);
}

/// The socket of an address hook. The verifier knows that it is never null.
#[inline(always)]
pub(crate) fn sock_of(ctx: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: `ctx` is the context the kernel passed; `sk` is its only union member in use.
    let pointer = unsafe { addr_of!((*ctx).__bindgen_anon_1.sk) };
    // SAFETY: as above.
    unsafe { read_volatile(pointer) }
}

/// Not `SkStorage`'s own methods: they take an address context only.
#[inline(always)]
fn storage(
    map: *const SkStorage<Record>,
    sk: *mut bpf_sock,
    initial: *mut Record,
    flags: u64,
) -> Option<&'static mut Record> {
    let record = storage_of(map, sk, initial, flags)?;
    // SAFETY: a live value that the socket keeps alive; hooks of one socket run under its lock, so
    // nobody else holds a reference.
    unsafe { record.as_ptr().as_mut() }
}

#[inline(always)]
fn storage_of<T>(
    map: *const SkStorage<T>,
    sk: *mut bpf_sock,
    initial: *mut T,
    flags: u64,
) -> Option<NonNull<T>> {
    // SAFETY: the socket pointer comes from a context, the map is this object's and its value type
    // is `T`, `initial` is null or a whole value.
    let value = unsafe {
        helpers::bpf_sk_storage_get(map.cast_mut().cast(), sk.cast(), initial.cast(), flags)
    };
    NonNull::new(value.cast())
}

/// Reads kernel memory, or `None` if the address is bad (5.5).
#[inline(always)]
pub(crate) fn read_kernel<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    let size = size_of::<T>() as u32;
    let into = addr_of_mut!(value).cast::<c_void>();
    // SAFETY: `into` has `size` bytes; the helper checks `address` itself.
    let answer = unsafe { helpers::bpf_probe_read_kernel(into, size, address as *const c_void) };
    (answer == 0).then_some(value)
}

/// Reads user memory; `len` is masked so that the verifier sees its bound (5.5).
#[inline(always)]
pub(crate) fn read_user_argv(record: &mut Record, address: u64, len: u32) -> bool {
    let len = len & 0xff;
    if len as usize > weir_ebpf_common::MAX_ARGV_BYTES {
        return false;
    }
    let into = addr_of_mut!(record.argv).cast::<c_void>();
    // SAFETY: `into` has at least `len` bytes; the helper checks `address` itself.
    unsafe { helpers::bpf_probe_read_user(into, len, address as *const c_void) == 0 }
}

/// Reads a NUL-terminated name of the kernel's, or what fits of it (5.5).
#[inline(always)]
pub(crate) fn read_kernel_name<const N: usize>(into: &mut [u8; N], address: u64) {
    let place = into.as_mut_ptr().cast::<c_void>();
    // SAFETY: `place` has `N` bytes; the helper checks `address` itself. A name that cannot be read is
    // left empty.
    let _ =
        unsafe { helpers::bpf_probe_read_kernel_str(place, N as u32, address as *const c_void) };
}

/// `CLOCK_BOOTTIME`, nanoseconds (5.8).
#[inline(always)]
pub(crate) fn boot_time_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_ktime_get_boot_ns() }
}

#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_get_current_task() }
}

#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    // SAFETY: takes nothing.
    let both = unsafe { helpers::bpf_get_current_pid_tgid() };
    (both >> 32) as u32
}

/// User and group id.
#[inline(always)]
pub(crate) fn current_uid_gid() -> (u32, u32) {
    // SAFETY: takes nothing.
    let both = unsafe { helpers::bpf_get_current_uid_gid() };
    (both as u32, (both >> 32) as u32)
}

#[inline(always)]
pub(crate) fn current_cgroup_id() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_get_current_cgroup_id() }
}

/// Id of the current task's ancestor cgroup at a level; zero if it is not that deep (5.6).
#[inline(always)]
pub(crate) fn current_ancestor(level: u32) -> u64 {
    // SAFETY: takes a plain number.
    unsafe { helpers::bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Id of the ancestor at a level of the cgroup of a packet's socket; zero if there is none (4.19).
#[inline(always)]
pub(crate) fn ancestor_of_packet(skb: *mut c_void, level: u32) -> u64 {
    // SAFETY: `skb` is the context the kernel passed.
    unsafe { helpers::bpf_skb_ancestor_cgroup_id(skb.cast(), level as i32) }
}

#[inline(always)]
pub(crate) fn current_comm(record: &mut Record) -> bool {
    let into = addr_of_mut!(record.comm).cast::<c_void>();
    let len = weir_ebpf_common::COMM_BYTES as u32;
    // SAFETY: `into` has `len` bytes.
    unsafe { helpers::bpf_get_current_comm(into, len) == 0 }
}
