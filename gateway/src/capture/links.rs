//! Network devices of the calling thread's namespace, and names of other namespaces: rtnetlink(7).
//!
//! - input: the namespace of the calling thread
//! - output: [`Link`]s; ids of namespaces
//! - bound: [`MAX_LINKS`] listed, [`MAX_DATAGRAMS`] answers read, [`TIMEOUT`] for each
//! - on failure: the operating system's answer
//!
//! Layout as in `linux/if_link.h` and `linux/net_namespace.h`. Numbers are in host order.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::{Messages, answered, attribute};

/// Devices of one namespace that are looked at; more are an error.
pub(super) const MAX_LINKS: usize = 4096;
/// Netlink datagrams that are read for one question.
const MAX_DATAGRAMS: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(5);

const NETLINK_ROUTE: i32 = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct ifinfomsg`.
const LINK_BYTES: usize = 16;
/// `struct rtgenmsg`, padded.
const NSID_BYTES: usize = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFF_UP: u32 = 1;

/// One network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`, `macvlan` and so on; empty for hardware and loopback.
    pub(super) kind: String,
    /// Whether it was set up.
    pub(super) is_up: bool,
    /// The other end of a pair, or what it lies on.
    pub(super) peer: Option<u32>,
    /// The id of the namespace that `peer` is in; `None` for this one.
    pub(super) peer_netns: Option<u32>,
    /// The bridge that it is a port of.
    pub(super) master: Option<u32>,
}

/// All devices.
pub(super) fn list() -> io::Result<Vec<Link>> {
    let mut netlink = open()?;
    netlink.send(&request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &[0; LINK_BYTES]))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..MAX_DATAGRAMS {
        let len = netlink.read(&mut buffer)?;
        for (kind, body) in Messages(buffer.get(..len).unwrap_or_default()) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(answered(body)),
                RTM_NEWLINK => {
                    let link = parse(body);
                    found.push(link.ok_or_else(|| io::Error::other("a device without a name"))?);
                }
                _ => {}
            }
        }
        if found.len() > MAX_LINKS {
            return Err(io::Error::other(format!("more than {MAX_LINKS} network devices")));
        }
    }
    Err(io::Error::other("the list of network devices does not end"))
}

/// The id that this namespace has for another one; `None` when it has none, because no device of
/// here leads there.
pub(super) fn id_of(netns: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut netlink = open()?;
    let mut body = vec![0; NSID_BYTES];
    body.extend(8_u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(netns.as_raw_fd().to_ne_bytes());
    netlink.send(&request(RTM_GETNSID, NLM_F_REQUEST, &body))?;
    let mut buffer = vec![0; 4096];
    let len = netlink.read(&mut buffer)?;
    match Messages(buffer.get(..len).unwrap_or_default()).next() {
        Some((RTM_NEWNSID, body)) => {
            let id = attribute(body.get(NSID_BYTES..).unwrap_or_default(), NETNSA_NSID);
            // Minus one for none.
            Ok(id.and_then(number).filter(|id| *id <= u32::MAX / 2))
        }
        Some((NLMSG_ERROR, body)) => Err(answered(body)),
        _ => Err(io::Error::other("no answer about a network namespace")),
    }
}

/// Addresses with their prefix lengths, by the name of their device.
pub(super) fn addresses() -> io::Result<Vec<(String, IpAddr, u8)>> {
    let mut all = Vec::new();
    for one in nix::ifaddrs::getifaddrs()?.take(MAX_LINKS * 4) {
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| -> Option<IpAddr> {
            let address = address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        };
        let (Some(address), Some(mask)) = (ip(one.address), ip(one.netmask)) else { continue };
        let ones = match mask {
            IpAddr::V4(mask) => mask.to_bits().count_ones(),
            IpAddr::V6(mask) => mask.to_bits().count_ones(),
        };
        all.push((one.interface_name, address, u8::try_from(ones).unwrap_or(u8::MAX)));
    }
    Ok(all)
}

fn open() -> io::Result<Socket> {
    let netlink = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_ROUTE)),
    )?;
    netlink.set_read_timeout(Some(TIMEOUT))?;
    Ok(netlink)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(16 + body.len());
    let len = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one question on a socket of its own.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn parse(body: &[u8]) -> Option<Link> {
    let attributes = body.get(LINK_BYTES..)?;
    let find = |wanted| attribute(attributes, wanted);
    let kind = find(IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
    Some(Link {
        index: number(body.get(4..8)?)?,
        name: text(find(IFLA_IFNAME)?),
        kind: kind.map(text).unwrap_or_default(),
        is_up: number(body.get(8..12)?)? & IFF_UP != 0,
        peer: find(IFLA_LINK).and_then(number),
        peer_netns: find(IFLA_LINK_NETNSID).and_then(number),
        master: find(IFLA_MASTER).and_then(number),
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_is_listed_with_its_address() {
        let links = list().unwrap();
        let lo = links.iter().find(|link| link.index == 1).unwrap();
        assert_eq!((lo.name.as_str(), lo.kind.as_str(), lo.master), ("lo", "", None));
        let all = addresses().unwrap();
        assert!(all.contains(&("lo".into(), "127.0.0.1".parse().unwrap(), 8)), "{all:?}");
    }

    #[test]
    fn one_s_own_namespace_has_an_answer() {
        use std::os::fd::AsFd as _;
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        assert!(id_of(own.as_fd()).is_ok());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(id_of(file.as_fd()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_none_or(|link| link.name.len() <= 600));
        }
    }
}
