//! Containers on a bridge: captured with identity, or refused.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;

use weir_gateway::capture::netns::{self, Way};
use weir_gateway::capture::{CaptureError, cgroup, loader};

use crate::network::{Bridged, Netns, sh, tid};
use crate::world::{Client, start_ticks, ticks, wait_until};

const EPERM: i64 = 1;
const ECONNREFUSED: i64 = 111;
const EHOSTUNREACH: i64 = 113;

/// Docker's usual setting, which breaks other ways to hand over connections.
fn call_iptables(value: u8) {
    sh(&format!(
        "sysctl -qw net.bridge.bridge-nf-call-iptables={value}
         sysctl -qw net.bridge.bridge-nf-call-ip6tables={value}"
    ));
}

/// Connects from a container, and compares everything that the gateway learns.
fn check(world: &Bridged, inside: &Netns, to: &str, seen_as: &str) {
    let mut client = world.client(inside, &["connect", to]);
    let (stream, record) = world.accept();
    let record = record.unwrap();
    assert_eq!(record.orig_dst.0, seen_as.parse().unwrap());
    assert_eq!(record.process.key.tgid, client.pid());
    assert_eq!(ticks(record.process.key.start_time_ns), start_ticks(client.pid()));
    assert_eq!(record.process.cgroup_id, cgroup::id(&world.places.captured).unwrap());
    assert_eq!(record.process.netns_cookie, inside.cookie());
    let said = client.say();
    assert_eq!((&said["errno"], &said["peer"]), (&0.into(), &to.into()));
    assert_eq!(said["cookie"], record.socket_cookie.0);
    drop(stream);
    client.finish();
}

#[test]
fn v4_connection_from_a_container_arrives_with_identity() {
    let world = Bridged::new("brv4", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    for value in [1, 0] {
        call_iptables(value);
        for to in ["203.0.113.10:443", "203.0.113.11:80", "203.0.113.12:5432", "203.0.113.13:22"] {
            check(&world, &inside, to, to);
        }
    }
    check(&world, &inside, "[::ffff:203.0.113.10]:443", "203.0.113.10:443");
    assert_eq!(world.counter("connect_bridged"), 9);
    assert_eq!(world.counter("lookup_assigned"), 9);
    assert_eq!(world.counter("joined"), 9);
    assert_eq!(world.host.left(), 0);
}

#[test]
fn v6_connection_from_a_container_arrives_with_identity() {
    let world = Bridged::new("brv6", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    for value in [1, 0] {
        call_iptables(value);
        for to in ["[2001:db8:f::10]:443", "[2001:db8:f::11]:8080"] {
            check(&world, &inside, to, to);
        }
    }
    assert_eq!(world.host.left(), 0);
}

#[test]
fn two_bridges_and_a_container_on_both() {
    let world = Bridged::new("brtwo", 2);
    let (first, second) = (world.host.container(0, 2), world.host.container(1, 2));
    let both = world.host.container(0, 3);
    world.host.plug(&both, 1, 3, "eth1");
    for inside in [&first, &second, &both] {
        world.register(inside).unwrap();
        check(&world, inside, "203.0.113.10:443", "203.0.113.10:443");
    }
    both.sh("ip route add 203.0.113.64/26 via 10.77.1.1");
    check(&world, &both, "203.0.113.70:443", "203.0.113.70:443");
    let all = netns::list(&world.places.pin_dir).unwrap();
    let found = all.iter().find(|one| one.cookie == both.cookie()).unwrap();
    assert_eq!((found.way, found.links.len()), (Way::Bridge, 2));
    assert_eq!(world.host.left(), 0);
}

/// Another container is reached without the host: its connection takes the way by the gateway.
#[test]
fn containers_of_one_bridge_meet_at_the_gateway() {
    let world = Bridged::new("brnext", 1);
    let (inside, other) = (world.host.container(0, 2), world.host.container(0, 3));
    world.register(&inside).unwrap();
    check(&world, &inside, "10.77.0.3:5432", "10.77.0.3:5432");
    check(&world, &inside, "[2001:db8:77::3]:5432", "[2001:db8:77::3]:5432");
    check(&world, &inside, "[::ffff:10.77.0.3]:5432", "10.77.0.3:5432");
    // The host itself, by the bridge's address and by another.
    check(&world, &inside, "10.77.0.1:80", "10.77.0.1:80");
    check(&world, &inside, "198.51.100.1:80", "198.51.100.1:80");
    assert_eq!(world.counter("connect_neighbour"), 3);
    drop(other);
}

#[test]
fn process_outside_the_captured_cgroup_has_no_record() {
    let world = Bridged::new("brout", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    let path = inside.path.to_str().unwrap();
    let mut client = Client::start(&["--enter", path, "connect", "203.0.113.10:443"]);
    let (stream, record) = world.accept();
    assert!(matches!(record, Err(CaptureError::NoRecord)), "{record:?}");
    assert_eq!(stream.local_addr().unwrap(), "203.0.113.10:443".parse().unwrap());
    assert_eq!(client.errno(), 0);
    assert_eq!(world.counter("join_no_tuple"), 1);
    // Its UDP is refused by the host.
    assert_eq!(send_udp(&inside, "203.0.113.10:9999"), EHOSTUNREACH);
    assert_eq!(world.host.left(), 0);
    client.finish();
}

/// Sends from a process that is not captured, and says what the answer was.
fn send_udp(inside: &Netns, to: &str) -> i64 {
    let mut client = Client::start(&["--enter", inside.path.to_str().unwrap(), "udp-ask", to]);
    let errno = client.errno();
    client.finish();
    errno
}

#[test]
fn udp_of_a_captured_container_is_refused() {
    let world = Bridged::with("brudp", 1, |spec| spec.allow_dns = false);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    for to in ["203.0.113.10:9999", "[2001:db8:f::10]:9999", "10.77.0.1:9999", "10.77.0.3:53"] {
        let mut client = world.client(&inside, &["udp-send", to]);
        assert_eq!(client.errno(), EPERM, "{to}");
        client.finish();
    }
    assert_eq!(world.counter("egress_refused_udp"), 4);
    assert_eq!(world.host.left(), 0);
    // The control: what the host itself sends is seen at the far end.
    std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "203.0.113.10:9999").unwrap();
    wait_until("the far end sees it", || world.host.left() == 1);
}

#[test]
fn unregistered_namespaces_are_refused() {
    let world = Bridged::new("brunreg", 1);
    let inside = world.host.container(0, 2);
    let refused = |before: u64| {
        for to in ["203.0.113.10:443", "[2001:db8:f::10]:443"] {
            let mut client = world.client(&inside, &["connect", to]);
            assert_eq!(client.errno(), EPERM, "{to}");
            client.finish();
        }
        assert_eq!(world.counter("refused_netns"), before + 2);
    };
    refused(0);
    let cookie = world.register(&inside).unwrap();
    check(&world, &inside, "203.0.113.10:443", "203.0.113.10:443");
    assert!(netns::unregister(&world.places.pin_dir, cookie).unwrap());
    assert!(!netns::unregister(&world.places.pin_dir, cookie).unwrap());
    refused(2);
    assert_eq!(world.host.left(), 0);
}

#[test]
fn namespaces_with_another_way_out_are_not_registered() {
    let world = Bridged::new("brstrict", 1);
    let unknown = |inside: &Netns, what: &str| {
        let error = world.register(inside).unwrap_err();
        assert!(matches!(error, CaptureError::UnknownNetns(_)), "{what}: {error}");
    };
    unknown(&Netns::new(), "no device");
    let inside = world.host.container(0, 2);
    let number = tid(&inside.path);
    sh(&format!("ip link add link up0 name mac0 type macvlan\nip link set mac0 netns {number}"));
    unknown(&inside, "macvlan on the uplink");
    inside.sh("ip link del mac0");
    sh(&format!("ip link add wx0 type veth peer name eth1 netns {number}"));
    unknown(&inside, "a pair that is no port of a bridge");
    sh("ip link add other type bridge\nip link set wx0 master other");
    unknown(&inside, "a bridge that is not configured");
    sh("ip link del wx0");
    inside.sh("ip link add here0 type veth peer name here1");
    unknown(&inside, "a pair within the namespace");
    inside.sh("ip link del here0\nip link add other0 type bridge");
    unknown(&inside, "a bridge of its own");
    inside.sh("ip link del other0");
    let elsewhere = Netns::new();
    inside
        .sh(&format!("ip link add gone0 type veth peer name gone1 netns {}", tid(&elsewhere.path)));
    unknown(&inside, "a pair into a third namespace");
    inside.sh("ip link del gone0");
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let error = netns::register_bridged(&world.places.pin_dir, own.as_fd()).unwrap_err();
    assert!(matches!(error, CaptureError::UnknownNetns(_)), "its own: {error}");
    world.register(&inside).unwrap();
    check(&world, &inside, "203.0.113.10:443", "203.0.113.10:443");
    assert_eq!(world.host.left(), 0);
}

/// A device that a namespace gets after it was registered is no way out.
#[test]
fn later_devices_lead_nowhere() {
    let world = Bridged::new("brlater", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    sh(&format!(
        "ip link add wx0 type veth peer name eth1 netns {}
         ip addr add 192.0.2.1/24 dev wx0\nip link set wx0 up
         nft add table ip nat
         nft 'add chain ip nat post {{ type nat hook postrouting priority 100; }}'
         nft add rule ip nat post oifname up0 masquerade",
        tid(&inside.path)
    ));
    inside.sh("ip addr add 192.0.2.2/24 dev eth1\nip link set eth1 up
               ip route replace default via 192.0.2.1");
    let seen = world.host.left();
    let mut client = world.client(&inside, &["connect-briefly", "203.0.113.10:443"]);
    assert_ne!(client.errno(), 0);
    client.finish();
    assert!(world.counter("egress_refused_tcp") >= 1);
    assert_eq!(world.host.left(), seen);
    // The control: a process that is not captured gets out this way.
    assert_eq!(send_udp(&inside, "203.0.113.10:9999"), ECONNREFUSED);
    assert_eq!(world.host.left(), seen + 1);
}

#[test]
fn connections_fail_and_nothing_leaves_without_a_gateway() {
    let mut world = Bridged::new("brdead", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    world.listeners.clear();
    // A listener of the host on all addresses must not get what was meant for the internet.
    let host = std::net::TcpListener::bind("[::]:8443").unwrap();
    host.set_nonblocking(true).unwrap();
    for to in ["203.0.113.10:8443", "[2001:db8:f::10]:8443"] {
        let mut client = world.client(&inside, &["connect-briefly", to]);
        let errno = client.errno();
        assert!(errno != 0, "{to}: {errno}");
        client.finish();
    }
    assert!(world.counter("lookup_no_listener") >= 2);
    assert_eq!(host.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(world.host.left(), 0);
    world.listen();
    check(&world, &inside, "203.0.113.10:8443", "203.0.113.10:8443");
}

#[test]
fn detach_removes_rules_routes_and_table() {
    let world = Bridged::new("brdetach", 2);
    let made = || {
        let mut all = sh("nft list tables\nip rule\nip -6 rule\nip route show table all\n\
                          ip -6 route show table all");
        all.retain(|c| c != ' ');
        all
    };
    let with = made();
    for part in ["weirbr_", "iifwbr0ipprototcplookup", "iifwbr1ipprototcplookup", "localdefault"] {
        assert!(with.contains(part), "{part}: {with}");
    }
    let layers = loader::layers(&world.places.pin_dir).unwrap();
    assert!(layers.iter().any(|one| one.name == "bridges" && one.is_active()), "{layers:?}");
    // Repaired by another attach, with one bridge less.
    sh("ip rule del pref 7 iif wbr0 ipproto tcp");
    let layers = loader::layers(&world.places.pin_dir).unwrap();
    assert!(layers.iter().any(|one| one.name == "bridges" && !one.is_active()), "{layers:?}");
    let mut spec = world.spec.clone();
    (spec.upgrade, spec.bridges) = (true, vec!["wbr0".into()]);
    assert!(loader::attach(&spec).unwrap().upgraded);
    let with = made();
    assert!(with.contains("iifwbr0ipproto") && !with.contains("iifwbr1ipproto"), "{with}");
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    check(&world, &inside, "203.0.113.10:443", "203.0.113.10:443");

    loader::detach(&world.places.pin_dir).unwrap();
    let without = made();
    for part in ["weirbr_", "iifwbr", "localdefault"] {
        assert!(!without.contains(part), "{part}: {without}");
    }
}

#[test]
fn namespaces_that_are_gone_are_forgotten() {
    let world = Bridged::new("brgone", 1);
    let (first, second) = (world.host.container(0, 2), world.host.container(0, 3));
    let cookie = world.register(&first).unwrap();
    sh("ip link del wv0x2");
    drop(first);
    let known =
        |cookie| netns::list(&world.places.pin_dir).unwrap().iter().any(|one| one.cookie == cookie);
    assert!(known(cookie));
    let other = world.register(&second).unwrap();
    assert!(known(other) && !known(cookie));
}

/// A bridge that was removed and made again has another index.
#[test]
fn bridge_that_was_made_again_is_refused_until_it_is_attached_again() {
    let world = Bridged::new("bragain", 1);
    sh("ip link del wbr0");
    world.host.bridge(0);
    let inside = world.host.container(0, 2);
    assert!(world.register(&inside).is_err());
    let host = std::net::TcpListener::bind("0.0.0.0:8443").unwrap();
    host.set_nonblocking(true).unwrap();
    let path = inside.path.to_str().unwrap();
    let mut client = Client::start(&["--enter", path, "connect-briefly", "203.0.113.10:8443"]);
    assert_ne!(client.errno(), 0);
    client.finish();
    assert_eq!(host.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(world.host.left(), 0);
    let mut spec = world.spec.clone();
    spec.upgrade = true;
    loader::attach(&spec).unwrap();
    world.register(&inside).unwrap();
    check(&world, &inside, "203.0.113.10:443", "203.0.113.10:443");
}

/// Writes UDP and ICMP packets for the internet onto its device, and says how many it could.
const FRAMES: &str = r#"
import ctypes, os, socket, struct, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
assert ctypes.CDLL(None).setns(os.open(sys.argv[2], os.O_RDONLY), 0x40000000) == 0
to = bytes.fromhex(sys.argv[3].replace(":", ""))
def total(data):
    all = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while all >> 16: all = (all & 0xffff) + (all >> 16)
    return ~all & 0xffff
def packet(protocol, body):
    def head(check): return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, check,
        socket.inet_aton("10.77.0.2"), socket.inet_aton("203.0.113.10"))
    return head(total(head(0))) + body
udp = packet(17, struct.pack("!HHHH", 4000, 9999, 8, 0))
echo = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
icmp = packet(1, struct.pack("!BBHHH", 8, 0, total(echo), 1, 1))
sent = 0
try:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    for one in (udp, icmp):
        sent += s.sendto(one, ("eth0", 0x0800, 0, 0, to)) > 0
except PermissionError:
    pass
print(sent)
"#;

#[test]
fn frames_written_by_hand_do_not_leave_the_host() {
    let world = Bridged::new("brframes", 1);
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    let bridge = sh("ip link show dev wbr0");
    let bridge = bridge.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let captured = world.places.captured.to_str().unwrap();
    let send = || {
        let done = std::process::Command::new("python3")
            .args(["-c", FRAMES, captured, inside.path.to_str().unwrap(), bridge])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    let sent = send();
    // Security hooks refuse the socket where the kernel has them.
    let layers = loader::layers(&world.places.pin_dir).unwrap();
    let lsm = layers.iter().any(|layer| layer.name == "lsm" && layer.is_active());
    assert_eq!(sent, if lsm { 0 } else { 2 });
    let rejected = || {
        let table = sh("nft list tables");
        let table = table.lines().find_map(|line| line.strip_prefix("table inet weirbr_")).unwrap();
        let shown = sh(&format!("nft list chain inet weirbr_{table} refuse"));
        let counts = shown.split("counter packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    wait_until("the host rejects them", || rejected() == sent);
    assert_eq!(world.host.left(), 0);
}
