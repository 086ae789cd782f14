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

            /// The counter with this number.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|counter| *counter as u32 == number)
            }

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
    /// TCP connect passed unseen: no gateway was alive, and `danger_fail_open` is set.
    ConnectFailedOpen = "connect_failed_open",
    /// DNS query or connect passed to its own server, for the same reason.
    DnsFailedOpen = "dns_failed_open",
    /// Packet of such a connection or query, passed.
    EgressFailedOpen = "egress_failed_open",
    /// TCP connect in a bridged namespace, described and left to the bridge.
    ConnectBridged = "connect_bridged",
    /// The same to another container of the bridge, sent to the bridge's own address instead.
    ConnectNeighbour = "connect_neighbour",
    /// Refused: the destination cannot be reached by way of the bridge.
    RefusedUnbridged = "refused_unbridged",
    /// Packet of a described connection in a bridged namespace, passed.
    EgressBridged = "egress_bridged",
    /// DNS query from a bridged namespace to the resolver, passed.
    EgressBridgedDns = "egress_bridged_dns",
    /// Connection from a bridge given to the gateway.
    LookupAssigned = "lookup_assigned",
    /// DNS connection from a bridge to the resolver, left alone.
    LookupResolver = "lookup_resolver",
    /// Connection from a bridge dropped: the gateway does not listen.
    LookupNoListener = "lookup_no_listener",
    /// TCP connect of a process outside with a socket that was made inside; redirected.
    SocketMoved = "socket_moved",
    /// TCP connect of a captured process with a socket that was made outside, seen and not stopped.
    ForeignSocket = "foreign_socket",
    /// A captured process was moved out, or made outside by one.
    ProcessMovedOut = "process_moved_out",
    /// An event found no room in the ring buffer.
    EventsLost = "events_lost",
    /// An event was not written because its process had written enough of them.
    EventsSuppressed = "events_suppressed",
    /// Lost events that the record tells of. Written by the gateway, never by a program.
    EventsTold = "events_told",
    /// Datagram of a captured socket to the resolver, passed.
    DnsDatagram = "dns_datagram",
    /// Connection of a captured socket to the resolver, begun.
    DnsConnection = "dns_connection",
    /// Datagram or connection to the resolver of which the hooks do not know who asks.
    DnsNoAsker = "dns_no_asker",
    /// Who asks could not be told to the resolver for want of memory.
    DnsAskerLost = "dns_asker_lost",
    /// A process was forked and got its parent's anchor.
    AnchorInherited = "anchor_inherited",
    /// The entry of a forking process belongs to an earlier one of the same number: not inherited.
    AnchorStale = "anchor_stale",
    /// A forked process has no anchor, because the map is full.
    AnchorFull = "anchor_full",
    /// The process or its child could not be read at fork: the child has no anchor.
    AnchorUnreadable = "anchor_unreadable",
    /// A process whose fork no program saw got the anchor of one above it.
    AnchorRepaired = "anchor_repaired",
    /// The root of an anchor exited.
    AnchorEnded = "anchor_ended",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_names_differ() {
        assert_eq!(Counter::ALL.len(), Counter::COUNT as usize);
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert_eq!(Counter::from_number(*counter as u32), Some(*counter));
            assert!(Counter::ALL[..index].iter().all(|other| other.name() != counter.name()));
        }
        assert_eq!(Counter::from_number(Counter::COUNT), None);
    }
}
