//! Namespaces that no bridge leads out of: the gateway listens inside.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;

use weir_gateway::accept::inside::{self, Order};
use weir_gateway::capture::netns::{self, Way};
use weir_gateway::capture::{CaptureError, cgroup};

use crate::network::{Bridged, Netns};

const EPERM: i64 = 1;
const ECONNREFUSED: i64 = 111;

/// Takes one order, as the gateway does.
fn gateway(listener: UnixListener) -> std::thread::JoinHandle<Order> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let order = inside::take(&stream).unwrap();
        inside::answer(&stream).unwrap();
        order
    })
}

/// Registers with the calling process in the gateway's cgroup, as `weir netns add` is.
fn register(world: &Bridged, netns: &Netns) -> (u64, Order) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netns.sock");
    let taken = gateway(UnixListener::bind(&path).unwrap());
    cgroup::join(&world.places.gateway, None).unwrap();
    let done = inside::register(&world.places.pin_dir, &path, netns.open().as_fd(), None);
    cgroup::join(&world.places.home, None).unwrap();
    (done.unwrap(), taken.join().unwrap())
}

#[test]
fn namespace_without_a_bridge_reaches_a_listener_inside() {
    let mut world = Bridged::new("inside", 0);
    let netns = Netns::new();
    // A way out of its own, which nothing takes.
    netns.sh("ip link add out0 type veth peer name out1\nip addr add 203.0.113.1/24 dev out0
              ip link set out0 up\nip link set out1 up");
    let (cookie, order) = register(&world, &netns);
    assert_eq!((order.cookie, order.listeners.len()), (cookie, 2));
    let port = order.listeners[0].local_addr().unwrap().port();
    let all = netns::list(&world.places.pin_dir).unwrap();
    let found = all.iter().find(|one| one.cookie == cookie).unwrap();
    assert_eq!((found.way, found.is_own), (Way::Loopback(port), false));
    world.listeners = order.listeners;
    for to in ["203.0.113.10:443", "[2001:db8:f::10]:443", "198.51.100.7:80"] {
        let mut client = world.client(&netns, &["connect", to]);
        let record = world.accept().1.unwrap();
        assert_eq!(record.orig_dst.0, to.parse().unwrap());
        assert_eq!(record.process.key.tgid, client.pid());
        assert_eq!(record.process.netns_cookie, cookie);
        assert_eq!(client.say()["peer"], to);
        client.finish();
    }
    let errno = |world: &Bridged, to: &str| {
        let mut client = world.client(&netns, &["connect", to]);
        let errno = client.errno();
        client.finish();
        errno
    };
    let mut udp = world.client(&netns, &["udp-send", "203.0.113.10:9999"]);
    assert_eq!(udp.errno(), EPERM);
    udp.finish();
    // Somebody who connects to the listener directly has no record.
    let direct = world.client(&netns, &["connect", &format!("127.0.0.1:{port}")]);
    assert!(matches!(world.accept().1, Err(CaptureError::NoRecord)));
    direct.finish();
    // A gateway that ended: refused, and so it is after the next one has forgotten it.
    world.listeners.clear();
    assert_eq!(errno(&world, "203.0.113.10:443"), ECONNREFUSED);
    netns::forget_listening(&world.places.pin_dir).unwrap();
    assert_eq!(errno(&world, "203.0.113.10:443"), EPERM);
    assert_eq!(netns::list(&world.places.pin_dir).unwrap().len(), 1, "the gateway's own");
}

#[test]
fn nothing_is_registered_without_a_gateway() {
    let world = Bridged::new("insidenone", 0);
    let netns = Netns::new();
    let path = world.places.top.join("netns.sock");
    let error = inside::register(&world.places.pin_dir, &path, netns.open().as_fd(), None);
    assert!(matches!(error, Err(CaptureError::Io { .. })), "{error:?}");
    let mut client = world.client(&netns, &["connect", "203.0.113.10:443"]);
    assert_eq!(client.errno(), EPERM);
    client.finish();
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let error = inside::register(&world.places.pin_dir, &path, own.as_fd(), None).unwrap_err();
    assert!(matches!(error, CaptureError::Unsupported(_)), "{error}");
}
