//! Security hooks, where the kernel has them: they see the calling task, not only the socket's
//! cgroup, and every address family.
//!
//! - input: `socket(2)`, `connect(2)` and sends of tasks in the captured cgroup
//! - output: 0, or `-EPERM`
//! - bound: none needed
//! - on failure: the call is refused and counted; other tasks are never touched
//!
//! Needs `CONFIG_BPF_LSM` and `bpf` in `/sys/kernel/security/lsm` (5.7; `cgroup.ancestors` 6.1).
//! Optional: the loader reports their absence.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use weir_ebpf_common::{Config, Counter, FAMILY_V4, FAMILY_V6};

use crate::maps::{self, count, lsm_offset, read_kernel};

const PASS: i32 = 0;
const EPERM: i32 = -1;
const AF_UNIX: u16 = 1;
const AF_NETLINK: u16 = 16;

/// Families of captured tasks: those with hooks, and those that stay on the host.
#[lsm(hook = "socket_create")]
pub fn weir_lsm_create(ctx: LsmContext) -> i32 {
    let kernel: i32 = ctx.arg(3);
    if kernel != 0 || captured().is_none() {
        return PASS;
    }
    let family: i32 = ctx.arg(0);
    if matches!(family as u16, AF_UNIX | AF_NETLINK | FAMILY_V4 | FAMILY_V6) {
        return PASS;
    }
    count(Counter::LsmFamilyRefused);
    EPERM
}

#[lsm(hook = "socket_connect")]
pub fn weir_lsm_connect(ctx: LsmContext) -> i32 {
    check_socket(ctx.arg::<*const u8>(0) as u64, Counter::LsmConnectRefused)
}

#[lsm(hook = "socket_sendmsg")]
pub fn weir_lsm_sendmsg(ctx: LsmContext) -> i32 {
    check_socket(ctx.arg::<*const u8>(0) as u64, Counter::LsmSendRefused)
}

/// A captured task uses only sockets that were made inside: on others there are no hooks. Sockets of
/// other families may be older than the hooks.
#[inline(always)]
fn check_socket(socket: u64, refused: Counter) -> i32 {
    let Some(config) = captured() else {
        return PASS;
    };
    match is_foreign(socket, config) {
        Some(false) => PASS,
        // Unreadable is refused, too.
        Some(true) | None => {
            count(refused);
            EPERM
        }
    }
}

#[inline(always)]
fn is_foreign(socket: u64, config: &Config) -> Option<bool> {
    let sk: u64 = read_kernel(socket + lsm_offset!(socket_sk))?;
    let family: u16 = read_kernel(sk + lsm_offset!(sock_family))?;
    if matches!(family, AF_UNIX | AF_NETLINK) {
        return Some(false);
    }
    if !matches!(family, FAMILY_V4 | FAMILY_V6) {
        return Some(true);
    }
    let cgroup: u64 = read_kernel(sk + lsm_offset!(sock_cgroup))?;
    let level: u32 = read_kernel(cgroup + lsm_offset!(cgroup_level))?;
    if level < config.captured_level {
        return Some(true);
    }
    let slot = lsm_offset!(cgroup_ancestors) + 8 * u64::from(config.captured_level);
    let ancestor: u64 = read_kernel(cgroup + slot)?;
    let node: u64 = read_kernel(ancestor + lsm_offset!(cgroup_kn))?;
    let id: u64 = read_kernel(node + lsm_offset!(kernfs_node_id))?;
    Some(id != config.captured_id)
}

/// The configuration, if the current task is captured.
#[inline(always)]
fn captured() -> Option<&'static Config> {
    let config = maps::config()?;
    (maps::current_ancestor(config.captured_level) == config.captured_id).then_some(config)
}
