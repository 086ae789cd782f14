//! Ends what captured sockets had before they were captured: sock_diag(7), `SOCK_DESTROY`.
//!
//! - input: ids of the captured cgroup and its children
//! - output: how many connections were aborted
//! - bound: [`MAX_SOCKETS`] listed, [`MAX_DATAGRAMS`] answers read, in the caller's network namespace
//! - on failure: a reason; packets of such sockets are dropped in any case, by `weir_egress`
//!
//! Layout as in `linux/inet_diag.h`: `SOCK_DESTROY` 4.9 (`CONFIG_INET_DIAG_DESTROY`), the attribute
//! `INET_DIAG_CGROUP_ID` 5.9. Numbers are in host order but for ports and addresses.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, Socket, Type};

/// Sockets of one family and protocol that are looked at.
const MAX_SOCKETS: usize = 100_000;
/// Netlink datagrams that are read for one question.
const MAX_DATAGRAMS: usize = 100_000;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`; `struct inet_diag_req_v2` is as long in front of the id as it needs.
const MESSAGE_BYTES: usize = 72;
/// `struct inet_diag_sockid`: ports, addresses, device, cookie.
const ID_BYTES: usize = 48;
const ID_OFFSET: usize = 4;
const REMOTE_PORT: std::ops::Range<usize> = 2..4;
const REMOTE_ADDR: std::ops::Range<usize> = 20..36;
const CGROUP_ID_ATTRIBUTE: u16 = 21;
const STATE_LISTEN: u8 = 10;

/// One socket as sock_diag names it.
type SocketId = [u8; ID_BYTES];

/// Aborts what is connected to somewhere else than loopback: TCP peers get a reset, UDP sockets an
/// error.
pub(super) fn abort(cgroups: &BTreeSet<u64>) -> io::Result<usize> {
    let mut netlink = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )?;
    netlink.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut aborted = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let (family, protocol) = (byte(family)?, byte(protocol)?);
            for id in list(&mut netlink, family, protocol, cgroups)? {
                aborted += usize::from(destroy(&mut netlink, family, protocol, &id)?);
            }
        }
    }
    Ok(aborted)
}

fn byte(number: i32) -> io::Result<u8> {
    u8::try_from(number).map_err(io::Error::other)
}

fn list(
    netlink: &mut Socket,
    family: u8,
    protocol: u8,
    cgroups: &BTreeSet<u64>,
) -> io::Result<Vec<SocketId>> {
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    netlink.send(&request(SOCK_DIAG_BY_FAMILY, flags, family, protocol, &[0; ID_BYTES]))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..MAX_DATAGRAMS {
        let len = netlink.read(&mut buffer)?;
        for (kind, body) in Messages(buffer.get(..len).unwrap_or_default()) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(answered(body)),
                SOCK_DIAG_BY_FAMILY if found.len() < MAX_SOCKETS => {
                    found.extend(chosen(body, family, cgroups));
                }
                _ => {}
            }
        }
    }
    Err(io::Error::other("the list of sockets does not end"))
}

/// The id of a socket that has to go.
fn chosen(body: &[u8], family: u8, cgroups: &BTreeSet<u64>) -> Option<SocketId> {
    let state = *body.get(1)?;
    let id: SocketId = body.get(ID_OFFSET..ID_OFFSET + ID_BYTES)?.try_into().ok()?;
    let cgroup = attribute(body.get(MESSAGE_BYTES..)?, CGROUP_ID_ATTRIBUTE)?;
    let cgroup = u64::from_ne_bytes(cgroup.get(..8)?.try_into().ok()?);
    let is_connected = state != STATE_LISTEN && id.get(REMOTE_PORT)? != [0; 2];
    let remote = id.get(REMOTE_ADDR)?;
    (is_connected && cgroups.contains(&cgroup) && !is_loopback(remote, family)).then_some(id)
}

fn is_loopback(remote: &[u8], family: u8) -> bool {
    let v4 = |bytes: &[u8]| {
        <[u8; 4]>::try_from(bytes).is_ok_and(|octets| Ipv4Addr::from(octets).is_loopback())
    };
    if i32::from(family) == libc::AF_INET {
        return remote.get(..4).is_some_and(v4);
    }
    let Ok(octets) = <[u8; 16]>::try_from(remote) else { return false };
    std::net::Ipv6Addr::from(octets).to_canonical().is_loopback()
}

/// Answers `false` when the socket is gone already.
fn destroy(netlink: &mut Socket, family: u8, protocol: u8, id: &SocketId) -> io::Result<bool> {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    netlink.send(&request(SOCK_DESTROY, flags, family, protocol, id))?;
    let mut buffer = vec![0; 4096];
    let len = netlink.read(&mut buffer)?;
    let first = Messages(buffer.get(..len).unwrap_or_default()).next();
    let Some((NLMSG_ERROR, body)) = first else {
        return Err(io::Error::other("no answer to the destruction of a socket"));
    };
    let error = answered(body);
    match error.raw_os_error() {
        Some(0) => Ok(true),
        Some(libc::ENOENT) => Ok(false),
        _ => Err(error),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: any state, no extensions.
fn request(kind: u16, flags: u16, family: u8, protocol: u8, id: &SocketId) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + 8 + ID_BYTES);
    let len = u32::try_from(HEADER_BYTES + 8 + ID_BYTES).unwrap_or(u32::MAX);
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one question at a time on a socket of our own.
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(id);
    message
}

/// `struct nlmsgerr` begins with a negative errno.
pub(super) fn answered(body: &[u8]) -> io::Error {
    let errno = body.get(..4).and_then(|four| four.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(errno.saturating_neg())
}

/// Kinds and bodies of the messages of a datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let len = usize::try_from(len).ok()?;
        // Refuses lengths below that of the header, too: otherwise this would not end.
        let body = self.0.get(HEADER_BYTES..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        // The upper two bits are flags.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(state: u8, remote: [u8; 4], port: u16, cgroup: u64) -> Vec<u8> {
        let mut body = vec![0; MESSAGE_BYTES];
        body[1] = state;
        body[ID_OFFSET + 2..ID_OFFSET + 4].copy_from_slice(&port.to_be_bytes());
        body[ID_OFFSET + 20..ID_OFFSET + 24].copy_from_slice(&remote);
        // Another attribute of an odd length comes first.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0, 12, 0, 21, 0]);
        body.extend(cgroup.to_ne_bytes());
        body
    }

    #[test]
    fn only_connections_of_the_cgroups_to_elsewhere_are_chosen() {
        let ours = BTreeSet::from([7]);
        let is = |body: Vec<u8>| chosen(&body, 2, &ours).is_some();
        assert!(is(message(1, [192, 0, 2, 1], 443, 7)));
        assert!(!is(message(1, [192, 0, 2, 1], 443, 8)), "another cgroup");
        assert!(!is(message(1, [127, 0, 0, 4], 443, 7)), "loopback");
        assert!(!is(message(10, [0; 4], 0, 7)), "listening");
        assert!(!is(message(7, [0; 4], 0, 7)), "not connected");
        assert!(!is(message(1, [192, 0, 2, 1], 443, 7)[..80].to_vec()), "cut");
    }

    #[test]
    fn loopback_of_both_families() {
        let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(is_loopback(&v6("::1"), 10));
        assert!(is_loopback(&v6("::ffff:127.0.0.1"), 10));
        assert!(!is_loopback(&v6("2001:db8::1"), 10));
        assert!(!is_loopback(&[127], 10));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic_and_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Messages(&bytes).count() <= 300);
            let _ = chosen(&bytes, 2, &BTreeSet::from([7]));
            let _ = attribute(&bytes, 21);
        }
    }
}
