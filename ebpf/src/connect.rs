//! Address hooks of the captured cgroup: redirects TCP, refuses QUIC, keeps `getpeername` honest.
//!
//! - input: `connect(2)`, `getpeername(2)` and `sendmsg(2)` with an address (UDP)
//! - output: the address replaced by the gateway's, and a record in the client's socket storage
//! - bound: one record per socket
//! - on failure: the call is refused (`EPERM`) and counted
//!
//! Byte order: context addresses and ports are in network order; records keep addresses in network
//! order and ports in host order. Minimum kernels: connect 4.17, sendmsg 4.18, getpeername 5.8.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weir_ebpf_common::addr::{self, LOOPBACK_V6_WORD};
use weir_ebpf_common::{Counter, FAMILY_V4, FAMILY_V6, FLAG_REFUSE_QUIC, Listener};

use crate::maps::{self, count, field, set_field};
use crate::process;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, FAMILY_V6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn weir_sendmsg4(ctx: SockAddrContext) -> i32 {
    udp(ctx.sock_addr, FAMILY_V4, Counter::UdpSendRefused)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn weir_sendmsg6(ctx: SockAddrContext) -> i32 {
    udp(ctx.sock_addr, FAMILY_V6, Counter::UdpSendRefused)
}

#[cgroup_sock_addr(getpeername4)]
pub fn weir_peername4(ctx: SockAddrContext) -> i32 {
    peername(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_peername6(ctx: SockAddrContext) -> i32 {
    peername(ctx.sock_addr, FAMILY_V6)
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    match field!((*ctx).protocol) {
        // MPTCP sockets read as TCP here.
        IPPROTO_TCP => tcp(ctx, family),
        IPPROTO_UDP => udp(ctx, family, Counter::UdpConnectRefused),
        _ => {
            count(Counter::ConnectOtherProtocol);
            PASS
        }
    }
}

#[inline(always)]
fn tcp(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    // A socket may connect again (AF_UNSPEC in between), perhaps by another process, perhaps to an
    // excluded destination: what was known about it before is void.
    maps::forget_client_record(ctx);
    if maps::config().is_none() {
        count(Counter::RefusedConfig);
        return REFUSE;
    }
    let orig_addr = addr::effective(user_addr(ctx, family));
    if excluded(orig_addr) {
        count(Counter::ConnectExcluded);
        return PASS;
    }
    let netns_cookie = maps::netns_cookie(ctx);
    let Some(listener) = maps::listener(netns_cookie) else {
        count(Counter::RefusedNetns);
        return REFUSE;
    };
    let Some(record) = maps::client_record_or_new(ctx) else {
        count(Counter::RefusedStorage);
        return REFUSE;
    };
    record.socket_cookie = maps::socket_cookie(ctx);
    record.netns_cookie = netns_cookie;
    record.family = family;
    record.orig_addr = orig_addr;
    record.orig_port = user_port(ctx);
    if !process::describe(record) {
        maps::forget_client_record(ctx);
        count(Counter::RefusedIdentity);
        return REFUSE;
    }
    if field!((*maps::sock_of(ctx)).bound_dev_if) != 0 {
        if !maps::clear_bound_device(ctx) {
            maps::forget_client_record(ctx);
            count(Counter::RefusedBoundDevice);
            return REFUSE;
        }
        count(Counter::BoundDeviceCleared);
    }
    let gateway = addr::spread(record.socket_cookie, listener.addresses);
    redirect(ctx, family, orig_addr, gateway, listener);
    count(Counter::ConnectRedirected);
    PASS
}

/// Loopback in the socket's own family, because the socket cannot leave it.
#[inline(always)]
fn redirect(
    ctx: *mut bpf_sock_addr,
    family: u16,
    orig_addr: [u32; 4],
    gateway: u32,
    listener: &Listener,
) {
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, gateway);
    } else if addr::is_mapped(orig_addr) {
        set_user_addr6(ctx, addr::map_v4(gateway));
    } else {
        set_user_addr6(ctx, [0, 0, 0, LOOPBACK_V6_WORD]);
    }
    set_field!((*ctx).user_port, u32::from(listener.port.to_be()));
}

/// UDP itself is not captured. Refusing its port 443 as if nobody listened makes QUIC clients fall
/// back to TCP; `EPERM` would look like a broken network to them.
#[inline(always)]
fn udp(ctx: *mut bpf_sock_addr, family: u16, refused: Counter) -> i32 {
    let Some(config) = maps::config() else {
        count(Counter::RefusedConfig);
        return REFUSE;
    };
    if config.flags & FLAG_REFUSE_QUIC == 0
        || !addr::is_quic_port(user_port(ctx))
        || excluded(addr::effective(user_addr(ctx, family)))
    {
        count(Counter::UdpPassed);
        return PASS;
    }
    count(refused);
    maps::set_errno(ECONNREFUSED);
    REFUSE
}

#[inline(always)]
fn peername(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    let Some(record) = maps::client_record(ctx) else {
        return PASS;
    };
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, record.orig_addr[3]);
    } else {
        set_user_addr6(ctx, record.orig_addr);
    }
    set_field!((*ctx).user_port, u32::from(record.orig_port.to_be()));
    count(Counter::PeernameRestored);
    PASS
}

#[inline(always)]
fn excluded(addr: [u32; 4]) -> bool {
    if addr::is_mapped(addr) {
        maps::excluded_v4(addr[3])
    } else {
        addr::is_loopback_v6(addr) || maps::excluded_v6(addr)
    }
}

#[inline(always)]
fn user_addr(ctx: *mut bpf_sock_addr, family: u16) -> [u32; 4] {
    if family == FAMILY_V4 {
        return addr::map_v4(field!((*ctx).user_ip4));
    }
    [
        field!((*ctx).user_ip6[0]),
        field!((*ctx).user_ip6[1]),
        field!((*ctx).user_ip6[2]),
        field!((*ctx).user_ip6[3]),
    ]
}

#[inline(always)]
fn set_user_addr6(ctx: *mut bpf_sock_addr, addr: [u32; 4]) {
    set_field!((*ctx).user_ip6[0], addr[0]);
    set_field!((*ctx).user_ip6[1], addr[1]);
    set_field!((*ctx).user_ip6[2], addr[2]);
    set_field!((*ctx).user_ip6[3], addr[3]);
}

/// The destination port in host byte order; the context holds it in network order in 32 bits.
#[inline(always)]
fn user_port(ctx: *mut bpf_sock_addr) -> u16 {
    u16::from_be(field!((*ctx).user_port) as u16)
}
