//! Default deny for packets: whatever way a captured socket found around the address hooks, its
//! packets leave only to loopback, to excluded destinations, in a registered namespace by a bridge to
//! the gateway, and (while allowed) to DNS.
//!
//! - input: packets of captured sockets, on their way out, in any network namespace
//! - output: a verdict
//! - bound: one header per packet
//! - on failure: the packet is dropped, the sender gets `EPERM`, and it is counted
//!
//! Two programs: `weir_egress` on the captured cgroup follows every IP socket; `weir_tcx` on a
//! device sees packet sockets, which have no IP layer to pass. Minimum kernels: `cgroup_skb` 4.10,
//! tcx 6.6. Addresses are in network byte order.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use weir_ebpf_common::addr;
use weir_ebpf_common::{
    Config, Counter, FAMILY_V4, FAMILY_V6, FLAG_ALLOW_DNS, FLAG_FAIL_OPEN, Question,
};

use crate::dns;
use crate::maps::{self, count, field};

const PASS: i32 = 1;
const DROP: i32 = 0;
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;
/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK_DEVICE: u32 = 1;
const ETHERTYPE_V4: u32 = 0x0800;
const ETHERTYPE_V6: u32 = 0x86dd;
const PROTO_ICMP: u8 = 1;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
const PROTO_ICMP_V6: u8 = 58;
const TCP_SYN: u8 = 2;
const DNS_PORT: u16 = 53;

/// What an IP header says.
struct Header {
    source: [u32; 4],
    destination: [u32; 4],
    protocol: u8,
    /// Where the next header starts; zero where a fragment has none.
    payload: usize,
}

#[cgroup_skb(egress)]
pub fn weir_egress(ctx: SkBuffContext) -> i32 {
    let Some(config) = maps::config() else {
        count(Counter::EgressRefusedConfig);
        return DROP;
    };
    let Some(header) = header(&ctx) else {
        count(Counter::EgressRefusedOther);
        return DROP;
    };
    if is_loopback(&ctx, header.destination) {
        question(&ctx, &header);
        count(Counter::EgressLoopback);
        return PASS;
    }
    if excluded(header.destination) {
        count(Counter::EgressExcluded);
        return PASS;
    }
    if let Some(passed) = by_bridge(&ctx, &header) {
        if let Counter::EgressBridgedDns = passed {
            question(&ctx, &header);
        }
        count(passed);
        return PASS;
    }
    if config.flags & FLAG_ALLOW_DNS != 0 && is_dns(&ctx, &header) {
        count(Counter::EgressDns);
        return PASS;
    }
    if config.flags & FLAG_FAIL_OPEN != 0 && is_failed_open(&ctx, &header, config) {
        count(Counter::EgressFailedOpen);
        return PASS;
    }
    count(match header.protocol {
        PROTO_TCP => Counter::EgressRefusedTcp,
        PROTO_UDP => Counter::EgressRefusedUdp,
        PROTO_ICMP | PROTO_ICMP_V6 => Counter::EgressRefusedIcmp,
        _ => Counter::EgressRefusedOther,
    });
    DROP
}

/// What a gateway would have carried, while there is none: DNS, and TCP connections that began
/// then, which go on also when a gateway is back.
#[inline(always)]
fn is_failed_open(ctx: &SkBuffContext, header: &Header, config: &Config) -> bool {
    match header.protocol {
        PROTO_TCP => maps::is_opened(ctx.skb.skb),
        PROTO_UDP => is_dns(ctx, header) && maps::is_open(config),
        _ => false,
    }
}

/// IP packets of captured sockets have passed `weir_egress`; anything else that a captured socket
/// gives to a device was written by hand.
#[classifier]
pub fn weir_tcx(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let sk = field!((*skb).__bindgen_anon_2.sk);
    if sk.is_null() {
        return TCX_NEXT;
    }
    let family = field!((*sk).family);
    if family == u32::from(FAMILY_V4) || family == u32::from(FAMILY_V6) {
        return TCX_NEXT;
    }
    let Some(config) = maps::config() else {
        return TCX_NEXT;
    };
    if maps::ancestor_of_packet(ctx.as_ptr(), config.captured_level) == config.captured_id {
        count(Counter::DeviceRefused);
        return TCX_DROP;
    }
    TCX_NEXT
}

#[inline(always)]
fn header(ctx: &SkBuffContext) -> Option<Header> {
    match u32::from(u16::from_be(field!((*ctx.skb.skb).protocol) as u16)) {
        ETHERTYPE_V4 => {
            let length: u8 = ctx.load(0).ok()?;
            let fragment: u16 = ctx.load(6).ok()?;
            let first = u16::from_be(fragment) & 0x1fff == 0;
            Some(Header {
                source: addr::map_v4(ctx.load(12).ok()?),
                destination: addr::map_v4(ctx.load(16).ok()?),
                protocol: ctx.load(9).ok()?,
                payload: if first { usize::from(length & 0xf) * 4 } else { 0 },
            })
        }
        ETHERTYPE_V6 => Some(Header {
            source: [ctx.load(8).ok()?, ctx.load(12).ok()?, ctx.load(16).ok()?, ctx.load(20).ok()?],
            destination: [
                ctx.load(24).ok()?,
                ctx.load(28).ok()?,
                ctx.load(32).ok()?,
                ctx.load(36).ok()?,
            ],
            // Extension headers are a protocol of their own here, and as such not DNS.
            protocol: ctx.load(6).ok()?,
            payload: 40,
        }),
        _ => None,
    }
}

/// The device too: whoever writes headers himself can write 127.0.0.1 into a packet that leaves.
#[inline(always)]
fn is_loopback(ctx: &SkBuffContext, destination: [u32; 4]) -> bool {
    field!((*ctx.skb.skb).ifindex) == LOOPBACK_DEVICE
        && (addr::is_loopback_v4(destination) || addr::is_loopback_v6(destination))
}

#[inline(always)]
fn excluded(destination: [u32; 4]) -> bool {
    if addr::is_loopback_v4(destination) || addr::is_loopback_v6(destination) {
        // On another device than `lo`: no exclusion means that.
        return false;
    }
    if addr::is_mapped(destination) {
        maps::excluded_v4(destination[3])
    } else {
        maps::excluded_v6(destination)
    }
}

/// Whether a packet goes to the gateway by a bridge: of a connection that has a record, or to the
/// resolver, and by a device that was looked at when the namespace was registered.
#[inline(always)]
fn by_bridge(ctx: &SkBuffContext, header: &Header) -> Option<Counter> {
    let is_tcp = header.protocol == PROTO_TCP;
    if !is_tcp && header.protocol != PROTO_UDP {
        return None;
    }
    let device = field!((*ctx.skb.skb).ifindex);
    let sk = maps::socket_of_packet(ctx.skb.skb)?;
    if is_tcp && let Some(record) = maps::client_record_of(sk) {
        return maps::is_link(record.netns_cookie, device).then_some(Counter::EgressBridged);
    }
    let netns_cookie = dns::asks_from(sk)?;
    let listener = maps::listener(netns_cookie)?;
    // Later fragments have no port: a query that long is asked over TCP.
    if header.payload == 0 || !maps::is_link(netns_cookie, device) {
        return None;
    }
    let port: u16 = ctx.load(header.payload + 2).ok()?;
    let is_asked = dns::is_resolver(listener, header.destination, u16::from_be(port));
    is_asked.then_some(Counter::EgressBridgedDns)
}

/// Tells the resolver who sends this question to it, if it is one.
#[inline(always)]
fn question(ctx: &SkBuffContext, header: &Header) {
    let is_tcp = header.protocol == PROTO_TCP;
    if header.payload == 0 || !(is_tcp || header.protocol == PROTO_UDP) {
        return;
    }
    let Some(port) = dns::port() else { return };
    let to: Result<u16, _> = ctx.load(header.payload + 2);
    if !to.is_ok_and(|to| u16::from_be(to) == port) {
        return;
    }
    // The handshake of a connection names it; a datagram begins with the id of its message.
    let (counter, id) = if is_tcp {
        let flags: u8 = ctx.load(header.payload + 13).unwrap_or_default();
        if flags & TCP_SYN == 0 {
            return;
        }
        (Counter::DnsConnection, 0)
    } else {
        (Counter::DnsDatagram, ctx.load(header.payload + 8).map_or(0, u16::from_be))
    };
    count(counter);
    let Ok(client_port) = ctx.load::<u16>(header.payload) else { return };
    let question = Question {
        client_addr: header.source,
        client_port: u16::from_be(client_port),
        id,
        protocol: u32::from(header.protocol),
    };
    dns::announce(field!((*ctx.skb.skb).__bindgen_anon_2.sk).cast(), &question);
}

/// UDP only: a TCP connect to port 53 goes to the gateway like any other.
#[inline(always)]
fn is_dns(ctx: &SkBuffContext, header: &Header) -> bool {
    if header.protocol != PROTO_UDP || header.payload == 0 {
        return false;
    }
    let port: Result<u16, _> = ctx.load(header.payload + 2);
    port.is_ok_and(|port| u16::from_be(port) == DNS_PORT)
}
