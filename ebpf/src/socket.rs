//! What captured processes may make, bind and set: only sockets that the address hooks see.
//!
//! - input: `socket(2)`, `bind(2)` and `setsockopt(2)` of the captured cgroup
//! - output: a verdict
//! - bound: none needed
//! - on failure: the call is refused (`EPERM`) and counted
//!
//! Minimum kernels: `sock_create` 4.10 (its protocol field holds more than eight bits since 5.6),
//! bind 4.17, setsockopt 5.3. `sock_create` runs for `AF_INET` and `AF_INET6` only; `lsm` sees the
//! other families.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, cgroup_sockopt};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockoptContext};
use weir_ebpf_common::Counter;

use crate::maps::{self, count, field, set_field};

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

const LEVEL_IP: i32 = 0;
const LEVEL_IPV6: i32 = 41;
const LEVEL_PACKET: i32 = 263;
const LEVEL_XDP: i32 = 283;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_JOIN_ANYCAST: i32 = 27;

/// Raw sockets (ping among them) write their own headers; unknown protocols have no connect hook.
#[cgroup_sock(sock_create)]
pub fn weir_create(ctx: SockContext) -> i32 {
    let kind = field!((*ctx.sock).type_);
    let protocol = field!((*ctx.sock).protocol);
    let known = match kind {
        SOCK_STREAM => protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP,
        SOCK_DGRAM => protocol == IPPROTO_UDP,
        SOCK_RAW => {
            count(Counter::SocketRefusedRaw);
            return REFUSE;
        }
        _ => false,
    };
    if known {
        return PASS;
    }
    count(Counter::SocketRefusedProtocol);
    REFUSE
}

#[cgroup_sock_addr(bind4)]
pub fn weir_bind4(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr)
}

#[cgroup_sock_addr(bind6)]
pub fn weir_bind6(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr)
}

/// While the gateway is down its port is free; whoever listened there would receive what other
/// jobs send.
#[inline(always)]
fn bind(ctx: *mut bpf_sock_addr) -> i32 {
    let port = u16::from_be(field!((*ctx).user_port) as u16);
    if port == 0 {
        return PASS;
    }
    let Some(config) = maps::config() else {
        count(Counter::RefusedConfig);
        return REFUSE;
    };
    let here = maps::listener(maps::netns_cookie(ctx));
    if port == config.gateway_port || here.is_some_and(|one| one.port == port) {
        count(Counter::BindRefused);
        return REFUSE;
    }
    PASS
}

/// Options that make packets leave without a send that anybody checks: packet sockets past the
/// queueing layer (`PACKET_QDISC_BYPASS`) or through a ring, `AF_XDP` altogether, and group
/// memberships, whose reports carry an address of the caller's choice.
#[cgroup_sockopt(setsockopt)]
pub fn weir_setsockopt(ctx: SockoptContext) -> i32 {
    let level = field!((*ctx.sockopt).level);
    let name = field!((*ctx.sockopt).optname);
    let refused = match level {
        LEVEL_PACKET | LEVEL_XDP => true,
        LEVEL_IP => matches!(
            name,
            IP_ADD_MEMBERSHIP
                | IP_ADD_SOURCE_MEMBERSHIP
                | MCAST_JOIN_GROUP
                | MCAST_JOIN_SOURCE_GROUP
        ),
        LEVEL_IPV6 => matches!(
            name,
            IPV6_ADD_MEMBERSHIP | IPV6_JOIN_ANYCAST | MCAST_JOIN_GROUP | MCAST_JOIN_SOURCE_GROUP
        ),
        _ => false,
    };
    if refused {
        count(Counter::OptionRefused);
        return REFUSE;
    }
    // "Unchanged": otherwise values longer than a page are refused (`EFAULT`).
    set_field!((*ctx.sockopt).optlen, 0);
    PASS
}
