//! DNS hooks of the captured cgroup: port 53 of any server is the gateway's resolver.
//!
//! - input: `connect(2)` (TCP and UDP), `sendmsg(2)` with an address, `recvmsg(2)`, `getpeername(2)`
//! - output: port 53 replaced by the resolver's port on loopback, and back again on what is received
//! - bound: one server remembered per socket: the one that was asked last
//! - on failure: the call is refused (`EPERM`) and counted
//!
//! Programs of their own, attached before those of `connect`: these then see loopback, which they
//! leave alone where it is excluded. Loopback servers are redirected too: a resolver of the host
//! would ask the internet for whoever asks it. Minimum kernels: recvmsg 5.2, others as in `connect`.

use core::ptr::{addr_of, null_mut};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, cgroup_sock_addr, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::SockAddrContext;
use weir_ebpf_common::addr::{self, LOOPBACK_V4, LOOPBACK_V6_WORD};
use weir_ebpf_common::{Counter, FAMILY_V4, FAMILY_V6};

use crate::connect::{set_user_addr6, user_addr, user_port};
use crate::maps::{self, count, field, set_field};

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const DNS_PORT: u16 = 53;

/// The server that a socket believes to talk to.
#[repr(C)]
#[derive(Clone, Copy)]
struct Server {
    addr: [u32; 4],
}

/// One entry: the resolver's port in host order, 0 to leave DNS alone. Owner: the loader.
#[map]
static DNS: Array<u32> = Array::with_max_entries(1, 0);

/// The server asked last. One per socket, charged to it, freed with it. Owner: this file.
#[btf_map]
static DNS_SERVER: SkStorage<Server> = SkStorage::new();

#[cgroup_sock_addr(connect4)]
pub fn weir_dns_connect4(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(connect6)]
pub fn weir_dns_connect6(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, FAMILY_V6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn weir_dns_sendmsg4(ctx: SockAddrContext) -> i32 {
    redirect(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn weir_dns_sendmsg6(ctx: SockAddrContext) -> i32 {
    redirect(ctx.sock_addr, FAMILY_V6)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn weir_dns_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn weir_dns_recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(ctx.sock_addr, FAMILY_V6)
}

#[cgroup_sock_addr(getpeername4)]
pub fn weir_dns_peer4(ctx: SockAddrContext) -> i32 {
    restore(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_dns_peer6(ctx: SockAddrContext) -> i32 {
    restore(ctx.sock_addr, FAMILY_V6)
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    if user_port(ctx) == DNS_PORT
        && port().is_some()
        && field!((*maps::sock_of(ctx)).bound_dev_if) != 0
        && !maps::clear_bound_device(ctx)
    {
        count(Counter::RefusedBoundDevice);
        return REFUSE;
    }
    redirect(ctx, family)
}

#[inline(always)]
fn redirect(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    if user_port(ctx) != DNS_PORT {
        return PASS;
    }
    let Some(port) = port() else { return PASS };
    // The resolver is in the gateway's namespace only: elsewhere loopback is somebody else.
    if maps::listener(maps::netns_cookie(ctx)).is_none() {
        count(Counter::RefusedNetns);
        return REFUSE;
    }
    let addr = user_addr(ctx, family);
    let Some(server) = server(ctx, BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        count(Counter::RefusedStorage);
        return REFUSE;
    };
    server.addr = addr;
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, LOOPBACK_V4);
    } else if addr::is_mapped(addr) {
        set_user_addr6(ctx, addr::map_v4(LOOPBACK_V4));
    } else {
        set_user_addr6(ctx, [0, 0, 0, LOOPBACK_V6_WORD]);
    }
    set_field!((*ctx).user_port, u32::from(port.to_be()));
    PASS
}

/// What comes from the resolver comes from the server that was asked.
#[inline(always)]
fn restore(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    let Some(port) = port() else { return PASS };
    let from = user_addr(ctx, family);
    let is_own = addr::is_loopback_v6(from) || from == addr::map_v4(LOOPBACK_V4);
    if user_port(ctx) != port || !is_own {
        return PASS;
    }
    let Some(server) = server(ctx, 0) else { return PASS };
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, server.addr[3]);
    } else {
        set_user_addr6(ctx, server.addr);
    }
    set_field!((*ctx).user_port, u32::from(DNS_PORT.to_be()));
    PASS
}

/// Where the resolver listens, if it does.
#[inline(always)]
pub(crate) fn port() -> Option<u16> {
    DNS.get(0).map(|port| *port as u16).filter(|port| *port != 0)
}

#[inline(always)]
fn server(ctx: *mut bpf_sock_addr, flags: u64) -> Option<&'static mut Server> {
    let map = addr_of!(DNS_SERVER).cast_mut().cast();
    // SAFETY: the socket pointer comes from the context, the map is this object's.
    let server =
        unsafe { helpers::bpf_sk_storage_get(map, maps::sock_of(ctx).cast(), null_mut(), flags) };
    // SAFETY: null or a live value that the socket keeps alive. Two senders of one socket may
    // write it at once: then one of two servers that were asked is shown.
    unsafe { server.cast::<Server>().as_mut() }
}
