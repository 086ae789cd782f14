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
