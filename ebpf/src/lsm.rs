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
use weir_ebpf_common::addr::map_v4;
use weir_ebpf_common::{Config, Counter, FAMILY_V4, FAMILY_V6};

use crate::events::{self, About};
use crate::maps::{self, lsm_offset, read_kernel};
use crate::watch;

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
    let kind: i32 = ctx.arg(1);
    let about = About { protocol: family as u32, what: kind as u32, ..About::NOTHING };
    events::tell(Counter::LsmFamilyRefused, &about);
    EPERM
}

#[lsm(hook = "socket_connect")]
pub fn weir_lsm_connect(ctx: LsmContext) -> i32 {
    let address = ctx.arg::<*const u8>(1) as u64;
    check_socket(ctx.arg::<*const u8>(0) as u64, Some(address), Counter::LsmConnectRefused)
}

#[lsm(hook = "socket_sendmsg")]
pub fn weir_lsm_sendmsg(ctx: LsmContext) -> i32 {
    check_socket(ctx.arg::<*const u8>(0) as u64, None, Counter::LsmSendRefused)
}

/// A captured task uses only sockets that were made inside: on others there are no hooks. Sockets of
/// other families may be older than the hooks.
#[inline(always)]
fn check_socket(socket: u64, address: Option<u64>, refused: Counter) -> i32 {
    let Some(config) = captured() else {
        return PASS;
    };
    let sk: Option<u64> = read_kernel(socket + lsm_offset!(socket_sk));
    match sk.and_then(|sk| is_foreign(sk, config)) {
        Some(false) => PASS,
        // Unreadable is refused, too.
        Some(true) | None => {
            let to = match address {
                Some(address) => requested(address),
                None => sk.and_then(watch::destination),
            };
            events::tell(refused, &to.unwrap_or(About::NOTHING));
            EPERM
        }
    }
}

/// What a `struct sockaddr` in kernel memory asks for.
#[inline(always)]
fn requested(address: u64) -> Option<About> {
    let family: u16 = read_kernel(address)?;
    let port: u16 = read_kernel(address + 2)?;
    let addr = match family {
        FAMILY_V4 => map_v4(read_kernel(address + 4)?),
        FAMILY_V6 => read_kernel(address + 8)?,
        _ => return None,
    };
    Some(About { addr, port: u16::from_be(port), ..About::NOTHING })
}

/// Whether a `struct sock` was made outside of the captured cgroup.
#[inline(always)]
pub(crate) fn is_foreign(sk: u64, config: &Config) -> Option<bool> {
    let family: u16 = read_kernel(sk + lsm_offset!(sock_family))?;
    if matches!(family, AF_UNIX | AF_NETLINK) {
        return Some(false);
    }
    if !matches!(family, FAMILY_V4 | FAMILY_V6) {
        return Some(true);
    }
    let cgroup: u64 = read_kernel(sk + lsm_offset!(sock_cgroup))?;
    is_below(cgroup, config).map(|below| !below)
}

/// Whether a `struct cgroup` is the captured one or below it.
#[inline(always)]
pub(crate) fn is_below(cgroup: u64, config: &Config) -> Option<bool> {
    let level: u32 = read_kernel(cgroup + lsm_offset!(cgroup_level))?;
    if level < config.captured_level {
        return Some(false);
    }
    let slot = lsm_offset!(cgroup_ancestors) + 8 * u64::from(config.captured_level);
    let ancestor: u64 = read_kernel(cgroup + slot)?;
    Some(events::cgroup_id(ancestor)? == config.captured_id)
}

/// The configuration, if the current task is captured.
#[inline(always)]
fn captured() -> Option<&'static Config> {
    let config = maps::config()?;
    (maps::current_ancestor(config.captured_level) == config.captured_id).then_some(config)
}
