//! DNS hooks of the captured cgroup: port 53 of any server is the gateway's resolver.
//!
//! - input: `connect(2)` (TCP and UDP), `sendmsg(2)` with an address, `recvmsg(2)`, `getpeername(2)`
//! - output: port 53 replaced by the resolver's port on loopback (or, in a bridged namespace, on the
//!   bridge), and back again on what is received; for the resolver, who asks
//! - bound: one server and one asker remembered per socket: the last ones; `DNS_ASKERS`
//! - on failure: the call is refused (`EPERM`) and counted
//!
//! Programs of their own, attached before those of `connect`: these then see loopback, which they
//! leave alone where it is excluded. Loopback servers are redirected too: a resolver of the host
//! would ask the internet for whoever asks it. Minimum kernels: recvmsg 5.2, others as in `connect`.
//!
//! Who asks is known in `connect` and `sendmsg`, in that process's context; by which port and with
//! which message is known when the packet leaves, and a packet over loopback leaves before it
//! arrives. So the hooks put the asker into the socket's storage, and `weir_egress` copies it to where
//! the resolver looks it up.

use core::ffi::c_void;
use core::ptr::{addr_of, null_mut};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, cgroup_sock_addr, map};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::SockAddrContext;
use weir_ebpf_common::addr::{self, LOOPBACK_V4, LOOPBACK_V6_WORD};
use weir_ebpf_common::{
    Counter, FAMILY_V4, FAMILY_V6, LISTENER_BRIDGED, Listener, Question, Record,
};

use crate::connect::{is_loopback, set_user_addr6, user_addr, user_port};
use crate::events::{self, About};
use crate::maps::{self, count, field, set_field};
use crate::process;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const DNS_PORT: u16 = 53;

/// The server that a socket believes to talk to.
#[repr(C)]
#[derive(Clone, Copy)]
struct Server {
    addr: [u32; 4],
    /// The socket's namespace, for `egress`.
    netns_cookie: u64,
}

/// One entry: the resolver's port in host order, 0 to leave DNS alone. Owner: the loader.
#[map]
static DNS: Array<u32> = Array::with_max_entries(1, 0);

/// The server asked last. One per socket, charged to it, freed with it. Owner: this file.
#[btf_map]
static DNS_SERVER: SkStorage<Server> = SkStorage::new();

/// Who asked last by a socket. One per socket, charged to it, freed with it. Owner: this file.
#[btf_map]
static DNS_ASKER: SkStorage<Record> = SkStorage::new();

/// Who asks, for the resolver. 8192 questions, least recently used evicted: its row then names
/// nobody. Owner: `weir_egress`; read by the gateway.
#[map]
static DNS_ASKERS: LruHashMap<Question, Record> = LruHashMap::with_max_entries(8192, 0);

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
    let stuck = user_port(ctx) == DNS_PORT
        && port().is_some()
        && !maps::config().is_some_and(maps::is_open)
        && bridged(ctx).is_none()
        && field!((*maps::sock_of(ctx)).bound_dev_if) != 0
        && !maps::clear_bound_device(ctx);
    verdict(ctx, family, stuck)
}

#[inline(always)]
fn redirect(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    verdict(ctx, family, false)
}

#[inline(always)]
fn verdict(ctx: *mut bpf_sock_addr, family: u16, stuck: bool) -> i32 {
    let Some(port) = port() else { return PASS };
    let addr = user_addr(ctx, family);
    let to = user_port(ctx);
    let itself = to == port && is_own(ctx, addr, port);
    if to != DNS_PORT && !itself {
        return PASS;
    }
    // Without a gateway there is no resolver.
    if maps::config().is_some_and(maps::is_open) {
        count(Counter::DnsFailedOpen);
        return PASS;
    }
    let refused = if stuck {
        Some(Counter::RefusedBoundDevice)
    } else if itself {
        describe(ctx, addr, to).err()
    } else {
        to_resolver(ctx, family, addr, port).err()
    };
    let Some(cause) = refused else { return PASS };
    let protocol = field!((*ctx).protocol);
    events::tell(cause, &About { addr, port: DNS_PORT, protocol, what: 0 });
    REFUSE
}

#[inline(always)]
fn to_resolver(
    ctx: *mut bpf_sock_addr,
    family: u16,
    addr: [u32; 4],
    port: u16,
) -> Result<(), Counter> {
    // The resolver is in the gateway's namespace only: elsewhere loopback is somebody else.
    let netns_cookie = maps::netns_cookie(ctx);
    let listener = maps::listener(netns_cookie).ok_or(Counter::RefusedNetns)?;
    let is_v4 = family == FAMILY_V4 || addr::is_mapped(addr);
    let bridged = listener.kind == LISTENER_BRIDGED;
    if bridged && is_loopback(addr::effective(addr)) {
        // A resolver of the container's own; what it asks itself comes by here or by the bridge.
        return Ok(());
    }
    let resolver = match (bridged, is_v4) {
        (true, true) => addr::map_v4(listener.bridge_v4),
        (true, false) => listener.bridge_v6,
        (false, true) => addr::map_v4(LOOPBACK_V4),
        (false, false) => [0, 0, 0, LOOPBACK_V6_WORD],
    };
    if resolver[3] == 0 {
        return Err(Counter::RefusedUnbridged);
    }
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    let server = server(ctx, create).ok_or(Counter::RefusedStorage)?;
    server.addr = addr;
    server.netns_cookie = netns_cookie;
    describe(ctx, addr, DNS_PORT)?;
    if family == FAMILY_V4 {
        set_field!((*ctx).user_ip4, resolver[3]);
    } else {
        set_user_addr6(ctx, resolver);
    }
    set_field!((*ctx).user_port, u32::from(port.to_be()));
    Ok(())
}

/// What comes from the resolver comes from the server that was asked.
#[inline(always)]
fn restore(ctx: *mut bpf_sock_addr, family: u16) -> i32 {
    let Some(port) = port() else { return PASS };
    if user_port(ctx) != port {
        return PASS;
    }
    let from = user_addr(ctx, family);
    if user_port(ctx) != port || !is_own(ctx, from, port) {
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

/// Whether the socket's namespace has the resolver at this address.
#[inline(always)]
fn is_own(ctx: *mut bpf_sock_addr, addr: [u32; 4], port: u16) -> bool {
    match bridged(ctx) {
        Some(to) => is_resolver(to, addr, port),
        None => addr::is_loopback_v6(addr) || addr == addr::map_v4(LOOPBACK_V4),
    }
}

/// Notes who asks. Two processes that send by one socket at once may get each other's name.
#[inline(always)]
fn describe(ctx: *mut bpf_sock_addr, server: [u32; 4], port: u16) -> Result<(), Counter> {
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    let record = asker(maps::sock_of(ctx).cast(), create).ok_or(Counter::RefusedStorage)?;
    record.socket_cookie = maps::socket_cookie(ctx);
    record.netns_cookie = maps::netns_cookie(ctx);
    record.orig_addr = server;
    record.orig_port = port;
    if process::describe(record) { Ok(()) } else { Err(Counter::RefusedIdentity) }
}

/// Tells the resolver who asks: `sk` sends this question now.
#[inline(always)]
pub(crate) fn announce(sk: *mut c_void, question: &Question) {
    if sk.is_null() {
        count(Counter::DnsNoAsker);
        return;
    }
    let Some(record) = asker(sk, 0) else {
        count(Counter::DnsNoAsker);
        return;
    };
    if DNS_ASKERS.insert(question, record, 0).is_err() {
        count(Counter::DnsAskerLost);
    }
}

/// Where the resolver listens, if it does.
#[inline(always)]
pub(crate) fn port() -> Option<u16> {
    DNS.get(0).map(|port| *port as u16).filter(|port| *port != 0)
}

/// Whether an address is where a bridged namespace reaches the resolver.
#[inline(always)]
pub(crate) fn is_resolver(bridged: &Listener, to: [u32; 4], to_port: u16) -> bool {
    let is_bridge = if addr::is_mapped(to) {
        to[3] == bridged.bridge_v4 && to[3] != 0
    } else {
        to == bridged.bridge_v6 && to[3] != 0
    };
    is_bridge && port() == Some(to_port)
}

/// The namespace of a packet's socket, if that socket was sent to the resolver.
#[inline(always)]
pub(crate) fn asks_from(sk: *mut bpf_sock) -> Option<u64> {
    let map = addr_of!(DNS_SERVER).cast_mut().cast();
    // SAFETY: the socket pointer comes from the context, the map is this object's.
    let server = unsafe { helpers::bpf_sk_storage_get(map, sk.cast(), null_mut(), 0) };
    // SAFETY: null or a live value that the socket keeps alive.
    unsafe { server.cast::<Server>().as_ref() }.map(|server| server.netns_cookie)
}

/// Where the gateway is, if the socket's namespace is behind a bridge.
#[inline(always)]
fn bridged(ctx: *mut bpf_sock_addr) -> Option<&'static Listener> {
    maps::listener(maps::netns_cookie(ctx)).filter(|one| one.kind == LISTENER_BRIDGED)
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

#[inline(always)]
fn asker(sk: *mut c_void, flags: u64) -> Option<&'static mut Record> {
    let map = addr_of!(DNS_ASKER).cast_mut().cast();
    // SAFETY: the socket pointer comes from a context, the map is this object's. The helper answers
    // null for request and time-wait sockets.
    let record = unsafe { helpers::bpf_sk_storage_get(map, sk, null_mut(), flags) };
    // SAFETY: null or a live value that the socket keeps alive. Two senders of one socket may
    // write it at once: then the row names one of them, or a mixture of both.
    unsafe { record.cast::<Record>().as_mut() }
}
