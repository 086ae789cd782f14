//! Carries a record from the client's socket to the accepted one, at the two moments when the
//! kernel guarantees that both ends mean the same connection.
//!
//! - input: socket operations of the captured cgroup and of the gateway's
//! - output: `SERVER` storage of accepted sockets
//! - bound: `TUPLES` holds a record from before the SYN leaves until the handshake ends
//! - on failure: the accepted socket has no record, and the gateway closes it
//!
//! Minimum kernels: sock_ops 4.13, `TCP_CONNECT_CB` 4.16 with socket storage 5.10. Byte order:
//! `local_port` is in host order, `remote_port` in network order, addresses in network order.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use weir_ebpf_common::addr::map_v4;
use weir_ebpf_common::{Counter, FAMILY_V4, Tuple};

use crate::maps::{self, count, field};

/// On the captured cgroup.
#[sock_ops]
pub fn weir_client(ctx: SockOpsContext) -> u32 {
    let op = field!((*ctx.ops).op);
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        announce(&ctx);
    } else if op == BPF_SOCK_OPS_STATE_CB && new_state(&ctx) == BPF_TCP_CLOSE {
        withdraw(&ctx);
    }
    0
}

/// On the gateway's cgroup.
#[sock_ops]
pub fn weir_server(ctx: SockOpsContext) -> u32 {
    if field!((*ctx.ops).op) == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        join(&ctx);
    }
    0
}

/// The local port is chosen, the SYN has not left.
#[inline(always)]
fn announce(ctx: &SockOpsContext) {
    let Some(record) = socket(ctx.ops).and_then(maps::client_record_of) else {
        count(Counter::TupleNoRecord);
        return;
    };
    // Asked for first: without it an abandoned connect could leave its record behind.
    let followed = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_ok();
    let (local, remote) = ends(ctx.ops);
    if followed && maps::announce(&tuple(local, remote), record) {
        count(Counter::TupleStored);
    } else {
        count(Counter::TupleStoreFailed);
    }
}

/// The client's socket closes, perhaps before the gateway's side was established. The port is free
/// in a moment; whoever gets it next, captured or not, must not inherit the record.
#[inline(always)]
fn withdraw(ctx: &SockOpsContext) {
    let Some(own) = socket(ctx.ops).and_then(maps::client_record_of) else {
        return;
    };
    let (local, remote) = ends(ctx.ops);
    let tuple = tuple(local, remote);
    let Some(record) = maps::announced(&tuple) else {
        return;
    };
    if field!((*record).socket_cookie) == own.socket_cookie {
        maps::withdraw(&tuple);
        count(Counter::TupleWithdrawn);
    }
}

/// The handshake is complete; `accept(2)` cannot return this socket before we are done, because
/// we hold its lock.
#[inline(always)]
fn join(ctx: &SockOpsContext) {
    let (local, remote) = ends(ctx.ops);
    let tuple = tuple(remote, local);
    let Some(record) = maps::announced(&tuple) else {
        count(Counter::JoinNoTuple);
        return;
    };
    let stored = socket(ctx.ops).is_some_and(|sk| maps::store_server_record(sk, record));
    count(if stored { Counter::Joined } else { Counter::JoinStorageFailed });
    maps::withdraw(&tuple);
}

#[derive(Clone, Copy)]
struct End {
    addr: [u32; 4],
    port: u16,
}

#[inline(always)]
fn tuple(client: End, gateway: End) -> Tuple {
    Tuple {
        client_addr: client.addr,
        gateway_addr: gateway.addr,
        client_port: client.port,
        gateway_port: gateway.port,
        pad: 0,
    }
}

/// The local and the remote end. A v6 socket that speaks IPv4 says `::ffff:a.b.c.d`, its v4 peer
/// says `a.b.c.d`: both become the mapped form.
#[inline(always)]
fn ends(ops: *mut bpf_sock_ops) -> (End, End) {
    let local_port = field!((*ops).local_port) as u16;
    let remote_port = u32::from_be(field!((*ops).remote_port)) as u16;
    // All of them are read, whichever apply: from a branch, LLVM would merge the accesses of both
    // sides into one with a computed offset, which the verifier refuses.
    let local_v4 = map_v4(field!((*ops).local_ip4));
    let remote_v4 = map_v4(field!((*ops).remote_ip4));
    let local_v6 = [
        field!((*ops).local_ip6[0]),
        field!((*ops).local_ip6[1]),
        field!((*ops).local_ip6[2]),
        field!((*ops).local_ip6[3]),
    ];
    let remote_v6 = [
        field!((*ops).remote_ip6[0]),
        field!((*ops).remote_ip6[1]),
        field!((*ops).remote_ip6[2]),
        field!((*ops).remote_ip6[3]),
    ];
    let is_v4 = field!((*ops).family) == u32::from(FAMILY_V4);
    let (local, remote) = if is_v4 { (local_v4, remote_v4) } else { (local_v6, remote_v6) };
    (End { addr: local, port: local_port }, End { addr: remote, port: remote_port })
}

/// The full socket, `None` for a request socket.
#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<*mut bpf_sock> {
    let sk = field!((*ops).__bindgen_anon_2.sk);
    (!sk.is_null()).then_some(sk)
}

#[inline(always)]
fn new_state(ctx: &SockOpsContext) -> u32 {
    field!((*ctx.ops).__bindgen_anon_1.args[1])
}
