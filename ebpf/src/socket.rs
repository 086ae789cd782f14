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
use weir_ebpf_common::{Counter, FAMILY_V4, FAMILY_V6};

use crate::connect::{user_addr, user_port};
use crate::events::{self, About};
use crate::maps::{self, field, set_field};

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
        _ => false,
    };
    if known {
        return PASS;
    }
    let cause = match kind {
        SOCK_RAW => Counter::SocketRefusedRaw,
        _ => Counter::SocketRefusedProtocol,
    };
    events::tell(cause, &About { protocol, what: kind, ..About::NOTHING });
    REFUSE
}

#[cgroup_sock_addr(bind4)]
pub fn weir_bind4(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr, FAMILY_V4)
}

#[cgroup_sock_addr(bind6)]
pub fn weir_bind6(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr, FAMILY_V6)
}

/// While the gateway is down its port is free; whoever listened there would receive what other
/// jobs send.
#[inline(always)]
fn bind(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    let port = user_port(ctx);
    if port == 0 {
        return PASS;
    }
    let cause = match maps::config() {
        None => Counter::RefusedConfig,
        Some(config) => {
            let here = maps::listener(maps::netns_cookie(ctx));
            if port != config.gateway_port
                && here.is_none_or(|one| one.port != port)
                && crate::dns::port() != Some(port)
            {
                return PASS;
            }
            Counter::BindRefused
        }
    };
    let (addr, protocol) = (user_addr(ctx, family), field!((*ctx).protocol));
    events::tell(cause, &About { addr, port, protocol, what: 0 });
    REFUSE
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
        let what = (level as u32) << 16 | (name as u32 & 0xffff);
        events::tell(Counter::OptionRefused, &About { what, ..About::NOTHING });
        return REFUSE;
    }
    // "Unchanged": otherwise values longer than a page are refused (`EFAULT`).
    set_field!((*ctx.sockopt).optlen, 0);
    PASS
}
