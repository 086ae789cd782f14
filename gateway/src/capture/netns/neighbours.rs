//! What a bridged namespace reaches without the host: map `NEIGHBOURS`.
//!
//! - input: addresses of a bridge and of devices inside
//! - output: address ranges, each with the bridge's own address
//! - bound: [`weir_ebpf_common::MAX_NEIGHBOURS`] over all namespaces
//! - on failure: [`CaptureError`]; the namespace is not registered

use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use weir_ebpf_common::Neighbour;
use weir_ebpf_common::addr::map_v4;

use super::{Bridge, CaptureError, Maps, bpf, map, words};

/// What a namespace reaches by a bridge without the host, each with the bridge's own address, or
/// zeros where it has none: then nobody there can be reached.
pub(super) fn ranges<'a>(
    bridge: &Bridge,
    inside: impl Iterator<Item = &'a (String, IpAddr, u8)>,
) -> Vec<(Key<Neighbour>, [u32; 4])> {
    let listener = bridge.listener();
    let v4 = if listener.bridge_v4 == 0 { [0; 4] } else { map_v4(listener.bridge_v4) };
    let ends = bridge.addresses.iter().copied().chain(inside.map(|(_, addr, len)| (*addr, *len)));
    // Link-local addresses mean nothing to a gateway that answers for many devices.
    let local = (IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10);
    ends.chain([local])
        .map(|(addr, len)| match addr {
            IpAddr::V4(addr) => {
                let addr = map_v4(u32::from_ne_bytes(addr.octets()));
                (key(Neighbour::BITS_BEFORE_V4 + u32::from(len), addr), v4)
            }
            IpAddr::V6(addr) if addr.is_unicast_link_local() => {
                (key(Neighbour::BITS_BEFORE_V6 + u32::from(len), words(addr.octets())), [0; 4])
            }
            IpAddr::V6(addr) => {
                let bits = Neighbour::BITS_BEFORE_V6 + u32::from(len);
                (key(bits, words(addr.octets())), listener.bridge_v6)
            }
        })
        .collect()
}

/// Without its namespace, which the writer adds.
fn key(bits: u32, addr: [u32; 4]) -> Key<Neighbour> {
    Key::new(bits, Neighbour::new(0, addr))
}

/// Puts in what is missing before it takes out what an earlier registration left.
pub(super) fn write(
    maps: impl Into<Maps>,
    cookie: u64,
    wanted: &[(Key<Neighbour>, [u32; 4])],
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf("writing NEIGHBOURS".into(), error);
    let map = map(maps, "NEIGHBOURS")?;
    let mut map = LpmTrie::<_, Neighbour, [u32; 4]>::try_from(map).map_err(|e| failed(&e))?;
    let mut wrote = Vec::new();
    for (key, bridge) in wanted {
        let key = Key::new(key.prefix_len(), Neighbour::new(cookie, masked(key)));
        map.insert(&key, bridge, 0).map_err(|e| failed(&e))?;
        wrote.push((key.prefix_len(), key.data()));
    }
    let found: Vec<Key<Neighbour>> = map.keys().filter_map(Result::ok).collect();
    for key in found {
        let is_ours = key.data().netns_cookie == Neighbour::new(cookie, [0; 4]).netns_cookie;
        if is_ours && !wrote.contains(&(key.prefix_len(), key.data())) {
            map.remove(&key).map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

/// The address of a key without the bits that do not count: as the kernel keeps it.
fn masked(key: &Key<Neighbour>) -> [u32; 4] {
    let mut left = key.prefix_len().saturating_sub(Neighbour::BITS_BEFORE_V6);
    key.data().addr.map(|word| {
        let bits = left.min(32);
        left -= bits;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        (u32::from_be(word) & mask).to_be()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_do_not_count_are_zero() {
        let ip = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(v4) => map_v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => words(v6.octets()),
        };
        assert_eq!(masked(&key(160 + 20, ip("10.77.255.3"))), ip("10.77.240.0"));
        assert_eq!(masked(&key(160 + 32, ip("10.77.255.3"))), ip("10.77.255.3"));
        assert_eq!(masked(&key(160, ip("10.77.255.3"))), ip("0.0.0.0"));
        assert_eq!(masked(&key(64 + 64, ip("2001:db8:77::3"))), ip("2001:db8:77::"));
        assert_eq!(masked(&key(64 + 10, ip("febf::1"))), ip("fe80::"));
    }

    #[test]
    fn ranges_lead_to_the_bridge_and_link_local_ones_nowhere() {
        let addresses = ["10.0.0.1", "fe80::5"].map(|text| (text.parse().unwrap(), 24)).to_vec();
        let bridge = Bridge { name: "b".into(), index: 3, addresses };
        let inside = [("eth0".to_owned(), "2001:db8::2".parse().unwrap(), 64)];
        let found = ranges(&bridge, inside.iter());
        let to: Vec<[u32; 4]> = found.iter().map(|(_, to)| *to).collect();
        let v4 = map_v4(u32::from_ne_bytes([10, 0, 0, 1]));
        assert_eq!(to, [v4, [0; 4], [0; 4], [0; 4]], "the bridge has no IPv6 address to go to");
    }
}
