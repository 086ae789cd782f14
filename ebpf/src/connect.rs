//! Address hooks of the captured cgroup: redirects TCP, refuses QUIC, keeps `getpeername` honest.
//!
//! - input: `connect(2)`, `getpeername(2)` and `sendmsg(2)` with an address (UDP)
//! - output: the address replaced by the gateway's (in a bridged namespace: left to the bridge), and
//!   a record in the client's socket storage
//! - bound: one record per socket
//! - on failure: the call is refused (`EPERM`) and counted
//!
//! Byte order: context addresses and ports are in network order; records keep addresses in network
//! order and ports in host order. Minimum kernels: connect 4.17, sendmsg 4.18, getpeername 5.8.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weir_ebpf_common::addr::{self, LOOPBACK_V6_WORD};
use weir_ebpf_common::{
    Config, Counter, FAMILY_V4, FAMILY_V6, FLAG_FAIL_OPEN, FLAG_LEVEL_KNOWN, FLAG_REFUSE_QUIC,
    LISTENER_BRIDGED, Listener, RECORD_SOCKET_MOVED,
};

use crate::dns;
use crate::events::{self, About};
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

/// What becomes of a TCP connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed(Counter),
    /// Redirected, but by a process outside: the socket or the process was moved.
    Moved,
    Refused(Counter),
}

#[inline(always)]
fn tcp(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    // A socket may connect again (AF_UNSPEC in between), perhaps by another process, perhaps to an
    // excluded destination: what was known about it before is void.
    maps::forget_client_record(ctx);
    let about = About {
        addr: addr::effective(user_addr(ctx, family)),
        port: user_port(ctx),
        protocol: IPPROTO_TCP,
        what: 0,
    };
    let fate = tcp_fate(ctx, family, &about);
    let (cause, verdict) = match fate {
        Fate::Passed(counter) => {
            count(counter);
            return PASS;
        }
        Fate::Moved => {
            count(Counter::ConnectRedirected);
            (Counter::SocketMoved, PASS)
        }
        Fate::Refused(counter) => (counter, REFUSE),
    };
    events::tell_socket(cause, &about, maps::sock_of(ctx));
    verdict
}

#[inline(always)]
fn tcp_fate(ctx: *mut bpf_sock_addr, family: u16, to: &About) -> Fate {
    let Some(config) = maps::config() else {
        return Fate::Refused(Counter::RefusedConfig);
    };
    if config.flags & FLAG_FAIL_OPEN != 0 {
        maps::forget_opened(ctx);
    }
    let netns_cookie = maps::netns_cookie(ctx);
    let listener = maps::listener(netns_cookie);
    let bridged = listener.filter(|one| one.kind == LISTENER_BRIDGED);
    // A bridge leads to the gateway and nowhere else: there only loopback can be excluded.
    let is_direct = match bridged {
        Some(bridge) => is_loopback(to.addr) || dns::is_resolver(bridge, to.addr, to.port),
        None => true,
    };
    if is_direct && (bridged.is_some() || excluded(to.addr)) {
        return Fate::Passed(Counter::ConnectExcluded);
    }
    let Some(listener) = listener else {
        return Fate::Refused(Counter::RefusedNetns);
    };
    if maps::is_open(config) {
        return pass_unseen(ctx);
    }
    let Some(record) = maps::client_record_or_new(ctx) else {
        return Fate::Refused(Counter::RefusedStorage);
    };
    record.socket_cookie = maps::socket_cookie(ctx);
    record.netns_cookie = netns_cookie;
    record.family = family;
    record.orig_addr = to.addr;
    record.orig_port = to.port;
    let moved = is_moved(config);
    record.flags = if moved { RECORD_SOCKET_MOVED } else { 0 };
    if !process::describe(record) {
        maps::forget_client_record(ctx);
        return Fate::Refused(Counter::RefusedIdentity);
    }
    if bridged.is_some() {
        // The bridge's own devices are the only way out (`egress`): a bound device may stay.
        if !to_bridge(ctx, family, netns_cookie, to.addr) {
            maps::forget_client_record(ctx);
            return Fate::Refused(Counter::RefusedUnbridged);
        }
        return if moved { Fate::Moved } else { Fate::Passed(Counter::ConnectBridged) };
    }
    if field!((*maps::sock_of(ctx)).bound_dev_if) != 0 {
        if !maps::clear_bound_device(ctx) {
            maps::forget_client_record(ctx);
            return Fate::Refused(Counter::RefusedBoundDevice);
        }
        count(Counter::BoundDeviceCleared);
    }
    let gateway = addr::spread(record.socket_cookie, listener.addresses);
    redirect(ctx, family, to.addr, gateway, listener);
    if moved { Fate::Moved } else { Fate::Passed(Counter::ConnectRedirected) }
}

/// These hooks run for sockets of the captured cgroup. A process outside got hold of one: it was
/// passed on, or the process was moved.
#[inline(always)]
fn is_moved(config: &Config) -> bool {
    config.flags & FLAG_LEVEL_KNOWN != 0
        && maps::current_ancestor(config.captured_level) != config.captured_id
}

/// No gateway is alive and whoever attached wants connections to go on without one. Only what a
/// gateway would have carried: what was refused before this point stays refused.
#[inline(always)]
fn pass_unseen(ctx: *mut bpf_sock_addr) -> Fate {
    if maps::mark_opened(ctx) {
        Fate::Passed(Counter::ConnectFailedOpen)
    } else {
        // Without the mark its packets would be dropped as soon as a gateway is back.
        Fate::Refused(Counter::RefusedStorage)
    }
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

/// Leaves a destination as it is, because the bridge hands it to the gateway; but another container
/// of the bridge would be reached without the host, so there the bridge itself is the destination.
/// False where the bridge does not lead there.
#[inline(always)]
fn to_bridge(ctx: *mut bpf_sock_addr, family: u16, netns_cookie: u64, orig_addr: [u32; 4]) -> bool {
    let Some(bridge) = maps::bridge_of_neighbour(netns_cookie, orig_addr) else {
        return true;
    };
    if bridge == [0; 4] || bridge == orig_addr {
        return bridge == orig_addr;
    }
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, bridge[3]);
    } else {
        set_user_addr6(ctx, bridge);
    }
    count(Counter::ConnectNeighbour);
    true
}

/// UDP itself is not captured. Refusing its port 443 as if nobody listened makes QUIC clients fall
/// back to TCP; `EPERM` would look like a broken network to them.
#[inline(always)]
fn udp(ctx: *mut bpf_sock_addr, family: u16, refused: Counter) -> i32 {
    let addr = addr::effective(user_addr(ctx, family));
    let about = About { addr, port: user_port(ctx), protocol: IPPROTO_UDP, what: 0 };
    let config = maps::config();
    if config.is_some_and(|config| {
        config.flags & FLAG_REFUSE_QUIC == 0 || !addr::is_quic_port(about.port) || excluded(addr)
    }) {
        count(Counter::UdpPassed);
        return PASS;
    }
    let cause = if config.is_some() { refused } else { Counter::RefusedConfig };
    events::tell(cause, &about);
    if config.is_some() {
        maps::set_errno(ECONNREFUSED);
    }
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
pub(crate) fn is_loopback(addr: [u32; 4]) -> bool {
    addr::is_loopback_v4(addr) || addr::is_loopback_v6(addr)
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
pub(crate) fn user_addr(ctx: *mut bpf_sock_addr, family: u16) -> [u32; 4] {
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
pub(crate) fn set_user_addr6(ctx: *mut bpf_sock_addr, addr: [u32; 4]) {
    set_field!((*ctx).user_ip6[0], addr[0]);
    set_field!((*ctx).user_ip6[1], addr[1]);
    set_field!((*ctx).user_ip6[2], addr[2]);
    set_field!((*ctx).user_ip6[3], addr[3]);
}

/// The destination port in host byte order; the context holds it in network order in 32 bits.
#[inline(always)]
pub(crate) fn user_port(ctx: *mut bpf_sock_addr) -> u16 {
    u16::from_be(field!((*ctx).user_port) as u16)
}
