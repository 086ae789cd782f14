//! Hands what arrives by a bridge to the gateway, whatever address and port it was meant for.
//!
//! - input: look-ups of listening sockets in the gateway's network namespace
//! - output: the gateway's transparent socket
//! - bound: 64 bridges
//! - on failure: the connection is dropped and counted: no other listener of the host may get what was
//!   meant for the internet
//!
//! Runs for every new connection of that namespace; those of other devices are left alone. Minimum
//! kernels: `sk_lookup` 5.9, `ingress_ifindex` 5.17. Addresses are in network byte order, the local
//! port in host order.

use aya_ebpf::macros::{map, sk_lookup};
use aya_ebpf::maps::{HashMap, SockMap};
use aya_ebpf::programs::SkLookupContext;
use weir_ebpf_common::addr::map_v4;
use weir_ebpf_common::{
    Counter, FAMILY_V4, LISTENER_BRIDGED, Listener, MAX_BRIDGES, SLOT_V4, SLOT_V6, SLOTS,
};

use crate::dns;
use crate::maps::{count, field};

const PASS: u32 = 1;
const DROP: u32 = 0;
const IPPROTO_TCP: u32 = 6;

/// Bridges, by device index, with their own addresses. 64 entries, never evicted. Owner: the loader.
#[map]
static BRIDGES: HashMap<u32, Listener> = HashMap::with_max_entries(MAX_BRIDGES, 0);

/// The gateway's transparent sockets, one per family: each stands for its group of
/// `SO_REUSEPORT`. Owner: the gateway; a socket that is closed leaves by itself.
#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(SLOTS, 0);

#[sk_lookup]
pub fn weir_lookup(ctx: SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    if field!((*lookup).protocol) != IPPROTO_TCP {
        return PASS;
    }
    let device = field!((*lookup).ingress_ifindex);
    // SAFETY: entries are written before this program is attached, and only looked at here.
    let Some(bridge) = (unsafe { BRIDGES.get(device) }) else {
        return PASS;
    };
    let is_v4 = field!((*lookup).family) == u32::from(FAMILY_V4);
    let v4 = map_v4(field!((*lookup).local_ip4));
    let v6 = [
        field!((*lookup).local_ip6[0]),
        field!((*lookup).local_ip6[1]),
        field!((*lookup).local_ip6[2]),
        field!((*lookup).local_ip6[3]),
    ];
    let to = if is_v4 { v4 } else { v6 };
    let port = field!((*lookup).local_port) as u16;
    if bridge.kind == LISTENER_BRIDGED && dns::is_resolver(bridge, to, port) {
        count(Counter::LookupResolver);
        return PASS;
    }
    let slot = if is_v4 { SLOT_V4 } else { SLOT_V6 };
    if LISTENERS.redirect_sk_lookup(&ctx, slot, 0).is_ok() {
        count(Counter::LookupAssigned);
        return PASS;
    }
    count(Counter::LookupNoListener);
    DROP
}
