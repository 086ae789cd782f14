//! weir's BPF programs: they collect, look up, rewrite and return a verdict; nothing else.
//!
//! - input: sockets, connects, packets and handshakes of two cgroups: the captured one and the
//!   gateway's
//! - output: connections redirected to the gateway, each with a [`weir_ebpf_common::Record`]; events
//! - bound: no loops but the six ancestors; every map has a fixed size (`maps.rs`)
//! - on failure: the connect is refused and counted; nothing passes around the gateway
//!
//! How original destination and process reach the accepted socket, without a lookup by address
//! after the fact, is argued in `docs/decisions/0001-socket-storage-join.md`.
#![no_std]
#![no_main]

mod anchor;
mod connect;
mod dns;
mod egress;
mod events;
mod lookup;
mod lsm;
mod maps;
mod process;
mod sock_ops;
mod socket;
mod watch;

// Read by the kernel: `bpf_probe_read_kernel` and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
