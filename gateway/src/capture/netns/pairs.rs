//! Decides whether a namespace's only ways out are the configured bridges.
//!
//! - input: the devices of both namespaces, and what this one calls the other
//! - output: [`Paired`] devices
//! - bound: as many as there are devices inside
//! - on failure: says which device leads elsewhere

use super::Bridge;
use super::links::Link;

/// Devices that a kernel with tunnel modules puts into every namespace. They are harmless while they
/// are down, and packets of captured sockets do not pass them in any case.
const FALLBACK_KINDS: [&str; 10] =
    ["ipip", "gre", "gretap", "erspan", "sit", "vti", "vti6", "ip6tnl", "ip6gre", "ip6gretap"];

/// A device inside, its other end here, and the bridge that this one is a port of.
#[derive(Debug)]
pub(super) struct Paired<'a> {
    pub(super) link: &'a Link,
    pub(super) peer: &'a Link,
    pub(super) bridge: &'a Bridge,
}

/// Every device but loopback must be one end of a pair whose other end is a port of one of the
/// bridges. What the namespace says about itself is believed only as far as this side confirms it.
pub(super) fn pair<'a>(
    inside: &'a [Link],
    here: &'a [Link],
    id: Option<u32>,
    bridges: &'a [Bridge],
) -> Result<Vec<Paired<'a>>, String> {
    let mut paired = Vec::new();
    for link in inside {
        let is_fallback = FALLBACK_KINDS.contains(&link.kind.as_str()) && !link.is_up;
        if link.index == 1 || is_fallback {
            continue;
        }
        if link.kind != "veth" {
            let kind = if link.kind.is_empty() { "hardware" } else { &link.kind };
            return Err(format!("its device {} is {kind}, not veth", link.name));
        }
        let peer = here.iter().find(|one| {
            one.kind == "veth"
                && one.peer == Some(link.index)
                && one.peer_netns.is_some()
                && one.peer_netns == id
        });
        let Some(peer) = peer else {
            return Err(format!("its device {} does not lead to this namespace", link.name));
        };
        let Some(bridge) = bridges.iter().find(|one| peer.master == Some(one.index)) else {
            let name = &peer.name;
            return Err(format!(
                "its device {} leads to {name}, on no bridge of capture.bridges",
                link.name
            ));
        };
        paired.push(Paired { link, peer, bridge });
    }
    if paired.is_empty() {
        Err("it has no device that leads to a bridge".into())
    } else {
        Ok(paired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str, peer: Option<u32>, netns: Option<u32>) -> Link {
        let name = format!("d{index}");
        let kind = kind.to_owned();
        Link { index, name, kind, peer, peer_netns: netns, is_up: true, master: None }
    }

    fn bridge(index: u32) -> Bridge {
        Bridge { name: format!("b{index}"), index, addresses: Vec::new() }
    }

    #[test]
    fn both_sides_must_agree() {
        let lo = link(1, "", None, None);
        let eth = link(2, "veth", Some(7), Some(0));
        let port = Link { master: Some(3), ..link(7, "veth", Some(2), Some(5)) };
        let bridges = [bridge(3)];
        let is = |inside: &[Link], here: &[Link], id| pair(inside, here, id, &bridges).is_ok();
        let inside = [lo.clone(), eth.clone()];
        assert!(is(&inside, std::slice::from_ref(&port), Some(5)));
        assert!(!is(&inside, std::slice::from_ref(&port), Some(6)), "another namespace's");
        assert!(!is(&inside, std::slice::from_ref(&port), None), "no way from here to there");
        assert!(!is(&inside, &[], Some(5)), "no other end here");
        assert!(!is(std::slice::from_ref(&lo), std::slice::from_ref(&port), Some(5)), "no device");
        for wrong in [
            Link { peer: Some(9), ..port.clone() },
            Link { peer_netns: None, ..port.clone() },
            Link { master: Some(4), ..port.clone() },
            Link { master: None, ..port.clone() },
            Link { kind: "macvlan".into(), ..port.clone() },
        ] {
            assert!(!is(&inside, std::slice::from_ref(&wrong), Some(5)), "{wrong:?}");
        }
        for more in ["", "macvlan", "veth", "wireguard", "sit"] {
            let inside = [lo.clone(), eth.clone(), link(3, more, Some(8), None)];
            assert!(!is(&inside, std::slice::from_ref(&port), Some(5)), "{more:?}");
        }
        let down = Link { is_up: false, ..link(3, "sit", None, None) };
        assert!(is(&[lo, eth, down], &[port], Some(5)), "a tunnel device that is down");
    }
}
