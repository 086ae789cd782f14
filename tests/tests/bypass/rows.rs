//! The ways past the capture, and what is expected of each.

/// What is expected of an attempt when everything that every kernel has is attached (`redirect`,
/// `egress`, `socket`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Redirected to the gateway.
    Captured,
    /// Refused.
    Refused,
    /// Leaks, or opens a way, unless one of these layers is active.
    ClosedBy(&'static [&'static str]),
    /// No layer closes it; this does.
    Leaks(&'static str),
}

/// When an attempt's first step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steps {
    /// There is only one.
    One,
    /// Before weir attaches: something that exists already.
    Existing,
    /// After, but what it sends does not count.
    Prepared,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) attempt: &'static str,
    pub(crate) steps: Steps,
    pub(crate) expect: Expect,
    /// Whether success alone is what must not happen: nothing is sent.
    pub(crate) opens: bool,
}

const fn row(attempt: &'static str, expect: Expect) -> Row {
    Row { attempt, steps: Steps::One, expect, opens: false }
}

const fn existing(attempt: &'static str, expect: Expect) -> Row {
    Row { attempt, steps: Steps::Existing, expect, opens: false }
}

const fn prepared(attempt: &'static str, expect: Expect) -> Row {
    Row { attempt, steps: Steps::Prepared, expect, opens: false }
}

const fn opens(attempt: &'static str, expect: Expect) -> Row {
    Row { attempt, steps: Steps::One, expect, opens: true }
}

use Expect::{Captured, ClosedBy, Leaks, Refused};

pub(crate) const ROWS: [Row; 51] = [
    row("tcp4", Captured),
    row("tcp6", Captured),
    row("tcp-mapped", Captured),
    row("tcp-other-port", Captured),
    row("tcp-bound-source", Captured),
    row("tcp-bound-device", Captured),
    row("tcp-mark", Captured),
    row("tcp-reconnect", Captured),
    row("tcp-fastopen-connect", Captured),
    row("tcp-fastopen-send", Captured),
    row("mptcp", Captured),
    row("io-uring", Captured),
    row("io-uring-sqpoll", Captured),
    row("io-uring-async", Captured),
    existing("tcp-existing", Refused),
    existing("tcp-listening", Refused),
    row("udp-connect-443", Refused),
    row("udp-sendto-443", Refused),
    row("udp-connect-53", Refused),
    row("udp-sendto-53", Refused),
    row("udp-sendto-5000", Refused),
    row("udp6-sendto-5000", Refused),
    row("udp-broadcast", Refused),
    row("udp-multicast", Refused),
    existing("udp-existing", Refused),
    row("group-join", Refused),
    row("udplite", Refused),
    row("sctp", Refused),
    row("ping", Refused),
    row("raw-tcp", Refused),
    row("raw-other", Refused),
    existing("raw-existing", Refused),
    existing("raw-existing-spoofed", Refused),
    row("packet", ClosedBy(&["devices", "lsm"])),
    row("packet-qdisc-bypass", Refused),
    existing("packet-existing-bypass", ClosedBy(&["lsm"])),
    opens("xdp", Refused),
    opens("vsock", ClosedBy(&["lsm"])),
    opens("bind-gateway-port", Refused),
    row("netns-tcp", Refused),
    row("netns-udp", Refused),
    row("netns-packet", ClosedBy(&["lsm"])),
    opens("new-netns", Refused),
    row("move-user", Refused),
    row("made-inside-moved", Captured),
    row("made-outside-joined", ClosedBy(&["lsm"])),
    row("made-outside-udp", ClosedBy(&["lsm"])),
    prepared("passed-unconnected", ClosedBy(&["lsm"])),
    prepared("passed-connected", ClosedBy(&["lsm"])),
    row("move-root", Leaks("host: no write access to the cgroup file system")),
    row("unix-proxy", Leaks("host: no socket of a daemon outside that connects for others")),
];
