//! Counters of the BPF programs: one per way a program can return.
//!
//! - input: none
//! - output: indexes into the per-CPU array `COUNTERS`, and their names
//! - bound: [`Counter::COUNT`] entries
//! - on failure: cannot fail
//!
//! New counters are appended; an index keeps its meaning within an ABI version.

macro_rules! counters {
    ($($(#[doc = $doc:expr])+ $variant:ident = $name:literal,)+) => {
        /// An index into map `COUNTERS`. Only its number crosses the ABI.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])+ $variant,)+ }

        impl Counter {
            /// All counters, in index order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// Entries of map `COUNTERS`.
            pub const COUNT: u32 = 0 $(+ { let _ = $name; 1 })+;

            /// The metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

counters! {
    /// TCP connect sent to the gateway.
    ConnectRedirected = "connect_redirected",
    /// TCP connect to an excluded destination, left alone.
    ConnectExcluded = "connect_excluded",
    /// Connect of a protocol that is neither TCP nor UDP, left alone; nftables decides.
    ConnectOtherProtocol = "connect_other_protocol",
    /// Refused: the configuration entry is missing or has another ABI version.
    RefusedConfig = "refused_config",
    /// Refused: no gateway listens in the socket's network namespace.
    RefusedNetns = "refused_netns",
    /// Refused: no memory for socket storage.
    RefusedStorage = "refused_storage",
    /// Refused: the calling process could not be read.
    RefusedIdentity = "refused_identity",
    /// Refused: `SO_BINDTODEVICE` could not be cleared.
    RefusedBoundDevice = "refused_bound_device",
    /// `SO_BINDTODEVICE` was cleared before a redirect.
    BoundDeviceCleared = "bound_device_cleared",
    /// The arguments of a process could not be read; it was redirected without them.
    ArgvUnreadable = "argv_unreadable",
    /// UDP connect or send that is not QUIC, left alone.
    UdpPassed = "udp_passed",
    /// UDP connect to port 443, refused.
    UdpConnectRefused = "udp_connect_refused",
    /// UDP send to port 443, refused.
    UdpSendRefused = "udp_send_refused",
    /// `getpeername` answered with the original destination.
    PeernameRestored = "peername_restored",
    /// A redirected SYN was announced to the gateway side.
    TupleStored = "tuple_stored",
    /// A redirected SYN could not be announced; the gateway will close the connection.
    TupleStoreFailed = "tuple_store_failed",
    /// A captured connection without a record (excluded destination, or older than the hooks).
    TupleNoRecord = "tuple_no_record",
    /// An announced connection was closed before the gateway's side was established.
    TupleWithdrawn = "tuple_withdrawn",
    /// An accepted connection got its record.
    Joined = "joined",
    /// An accepted connection has no record: somebody connected to the gateway directly.
    JoinNoTuple = "join_no_tuple",
    /// An accepted connection could not get its record for want of memory.
    JoinStorageFailed = "join_storage_failed",
    /// Packet to loopback, passed.
    EgressLoopback = "egress_loopback",
    /// Packet to an excluded destination, passed.
    EgressExcluded = "egress_excluded",
    /// DNS query over UDP, passed.
    EgressDns = "egress_dns",
    /// Packet dropped: the configuration entry is missing or has another ABI version.
    EgressRefusedConfig = "egress_refused_config",
    /// Packet of a TCP connection that was not redirected, dropped.
    EgressRefusedTcp = "egress_refused_tcp",
    /// UDP packet, dropped.
    EgressRefusedUdp = "egress_refused_udp",
    /// ICMP packet, dropped.
    EgressRefusedIcmp = "egress_refused_icmp",
    /// Packet of another protocol or unreadable, dropped.
    EgressRefusedOther = "egress_refused_other",
    /// Packet that a captured process wrote onto a device itself, dropped.
    DeviceRefused = "device_refused",
    /// Raw socket, refused.
    SocketRefusedRaw = "socket_refused_raw",
    /// Socket of a protocol other than TCP, UDP and multipath TCP, refused.
    SocketRefusedProtocol = "socket_refused_protocol",
    /// Bind to the gateway's port, refused.
    BindRefused = "bind_refused",
    /// Socket option that sends packets unseen, refused.
    OptionRefused = "option_refused",
    /// Socket of another address family, refused by a security hook.
    LsmFamilyRefused = "lsm_family_refused",
    /// Connect of a socket that was made outside, refused by a security hook.
    LsmConnectRefused = "lsm_connect_refused",
    /// Send on a socket that was made outside, refused by a security hook.
    LsmSendRefused = "lsm_send_refused",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_names_differ() {
        assert_eq!(Counter::ALL.len(), Counter::COUNT as usize);
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert!(Counter::ALL[..index].iter().all(|other| other.name() != counter.name()));
        }
    }
}
