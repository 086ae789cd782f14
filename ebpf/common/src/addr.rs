//! Matching of addresses as BPF contexts show them: four words in network byte order.
//!
//! - input: `[u32; 4]` words whose memory holds the address bytes in network order
//! - output: classifications and normal forms
//! - bound: none
//! - on failure: cannot fail
//!
//! Small and branch-poor, because the kernel's verifier walks every path of it.

/// Third word of `::ffff:0:0/96`.
pub const MAPPED_WORD: u32 = 0xffff_u32.to_be();
/// 127.0.0.1
pub const LOOPBACK_V4: u32 = 0x7f00_0001_u32.to_be();
/// Last word of `::1`.
pub const LOOPBACK_V6_WORD: u32 = 1_u32.to_be();

/// An IPv4 address as `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn map_v4(addr: u32) -> [u32; 4] {
    [0, 0, MAPPED_WORD, addr]
}

/// Whether an address is `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn is_mapped(addr: [u32; 4]) -> bool {
    (addr[0] | addr[1]) == 0 && addr[2] == MAPPED_WORD
}

/// What connecting to an address means: the unspecified address stands for loopback
/// (`ip_route_connect`, `tcp_v6_connect`), so that `0.0.0.0` and `::` cannot dodge a rule about
/// loopback.
#[inline(always)]
pub const fn effective(addr: [u32; 4]) -> [u32; 4] {
    if addr[3] != 0 || (addr[0] | addr[1]) != 0 {
        addr
    } else if addr[2] == MAPPED_WORD {
        map_v4(LOOPBACK_V4)
    } else if addr[2] == 0 {
        [0, 0, 0, LOOPBACK_V6_WORD]
    } else {
        addr
    }
}

/// Whether an address is `::1`, which is never redirected.
#[inline(always)]
pub const fn is_loopback_v6(addr: [u32; 4]) -> bool {
    (addr[0] | addr[1] | addr[2]) == 0 && addr[3] == LOOPBACK_V6_WORD
}

/// Whether an address is in `::ffff:127.0.0.0/104`.
#[inline(always)]
pub const fn is_loopback_v4(addr: [u32; 4]) -> bool {
    is_mapped(addr) && u32::from_be(addr[3]) >> 24 == 127
}

/// Which of the gateway's IPv4 addresses a socket is sent to: 127.0.0.1 and those that follow.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder is less than its 16-bit divisor")]
pub const fn spread(socket_cookie: u64, addresses: u16) -> u32 {
    // Cookies count up, so that the remainder spreads evenly.
    let index = if addresses == 0 { 0 } else { (socket_cookie % addresses as u64) as u32 };
    (0x7f00_0001 + index).to_be()
}

/// Whether a UDP destination port belongs to QUIC. Host byte order.
#[inline(always)]
pub const fn is_quic_port(port: u16) -> bool {
    port == 443
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn words(text: &str) -> [u32; 4] {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        words
    }

    fn v4(text: &str) -> u32 {
        u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets())
    }

    #[test]
    fn only_the_mapped_prefix_is_mapped() {
        assert!(is_mapped(words("::ffff:192.0.2.1")));
        assert!(is_mapped(words("::ffff:0.0.0.0")));
        for other in
            ["::192.0.2.1", "::1", "::", "1::ffff:1.2.3.4", "0:0:0:1:0:ffff::", "64:ff9b::1"]
        {
            assert!(!is_mapped(words(other)), "{other}");
        }
        assert_eq!(map_v4(v4("192.0.2.1")), words("::ffff:192.0.2.1"));
    }

    #[test]
    fn unspecified_means_loopback_and_nothing_else_changes() {
        assert_eq!(effective(words("::")), words("::1"));
        assert_eq!(effective(words("::ffff:0.0.0.0")), words("::ffff:127.0.0.1"));
        for same in ["::1", "::2", "2001:db8::", "::ffff:0.0.0.1", "0:0:0:0:1::", "0:0:0:0:0:1::"] {
            assert_eq!(effective(words(same)), words(same), "{same}");
        }
    }

    #[test]
    fn loopback_v6_is_exactly_one_address() {
        assert!(is_loopback_v6(words("::1")));
        for other in ["::", "::2", "::1:1", "1::1", "::ffff:127.0.0.1", "::100:0"] {
            assert!(!is_loopback_v6(words(other)), "{other}");
        }
        assert_eq!(LOOPBACK_V4, v4("127.0.0.1"));
    }

    #[test]
    fn loopback_v4_is_its_range() {
        for inside in ["::ffff:127.0.0.1", "::ffff:127.255.255.255", "::ffff:127.0.0.0"] {
            assert!(is_loopback_v4(words(inside)), "{inside}");
        }
        for outside in
            ["::ffff:126.0.0.1", "::ffff:128.0.0.1", "::127.0.0.1", "::1", "::ffff:1.0.0.127"]
        {
            assert!(!is_loopback_v4(words(outside)), "{outside}");
        }
    }

    #[test]
    fn sockets_spread_over_all_addresses_and_no_other() {
        for (cookie, addresses, address) in [
            (0, 0, "127.0.0.1"),
            (7, 1, "127.0.0.1"),
            (4, 4, "127.0.0.1"),
            (7, 4, "127.0.0.4"),
            (u64::MAX, 64, "127.0.0.64"),
        ] {
            assert_eq!(spread(cookie, addresses), v4(address), "{cookie} of {addresses}");
        }
    }

    #[test]
    fn quic_is_port_443() {
        assert!(is_quic_port(443));
        assert!(!is_quic_port(443_u16.swap_bytes()));
        assert!(!is_quic_port(80));
    }
}
