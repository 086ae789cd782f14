//! Where captured connections go, and what the gateway learns about them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use weir_gateway::capture::{Capture as _, CaptureError, cgroup};

use crate::world::{Client, World, listen, start_ticks, ticks};

const LOOPBACK: &[&str] = &["127.0.0.0/8"];
const EPERM: i64 = 1;
const ECONNREFUSED: i64 = 111;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn v4_connect_arrives_with_destination_and_process() {
    let world = World::new("v4", LOOPBACK);
    let mut client = world.client(&["connect", "198.51.100.7:4433"]);
    let (_stream, record) = world.accept_v4();
    let record = record.unwrap();
    let said = client.say();
    assert_eq!(said["errno"], 0);
    assert_eq!(said["peer"], "198.51.100.7:4433", "getpeername shows the real peer");
    assert_eq!(record.orig_dst.0, addr("198.51.100.7:4433"));
    assert_eq!(said["cookie"], record.socket_cookie.0);

    let process = &record.process;
    assert_eq!(process.key.tgid, client.pid());
    assert_eq!(ticks(process.key.start_time_ns), start_ticks(client.pid()));
    assert_eq!((process.uid, process.gid), (0, 0));
    assert_eq!(process.cgroup_id, cgroup::id(&world.places.captured).unwrap());
    assert_eq!(
        cgroup::name_of(&world.places.top, process.cgroup_id),
        Some(world.places.captured.clone())
    );
    let exe = std::fs::metadata(format!("/proc/{}/exe", client.pid())).unwrap();
    assert_eq!(process.exe.ino, exe.ino());
    let (major, minor) = (process.exe.dev >> 20, process.exe.dev & 0xf_ffff);
    assert_eq!(libc::makedev(major, minor), exe.dev());
    assert_eq!(process.comm, "weir-test-clien");
    let mut whole = client.args.join("\0");
    whole.push('\0');
    whole.truncate(weir_ebpf_common::MAX_ARGV_BYTES);
    let whole = whole.strip_suffix('\0').unwrap_or(&whole).to_owned();
    assert_eq!(process.argv.join("\0"), whole);

    let mut pid = std::process::id();
    for ancestor in &process.ancestors {
        assert_eq!(ancestor.tgid, pid);
        assert_eq!(ticks(ancestor.start_time_ns), start_ticks(pid));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        pid = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
            .unwrap();
    }
    assert!(process.ancestors.len() >= 2, "{:?}", process.ancestors);
    assert_eq!(world.counter("connect_redirected"), 1);
    assert_eq!(world.counter("joined"), 1);
    client.finish();
}

#[test]
fn v6_connect_arrives_with_its_destination() {
    let world = World::new("v6", LOOPBACK);
    let mut client = world.client(&["connect", "[2001:db8::77]:443"]);
    let (_stream, record) = world.accept_v6();
    let record = record.unwrap();
    assert_eq!(record.orig_dst.0, addr("[2001:db8::77]:443"));
    assert_eq!(record.process.key.tgid, client.pid());
    assert_eq!(client.say()["peer"], "[2001:db8::77]:443");
    client.finish();
}

#[test]
fn v4_mapped_connect_arrives_as_v4() {
    let world = World::new("mapped", LOOPBACK);
    let mut client = world.client(&["connect", "[::ffff:198.51.100.8]:80"]);
    let (_stream, record) = world.accept_v4();
    let record = record.unwrap();
    assert_eq!(record.orig_dst.0, addr("198.51.100.8:80"));
    assert_eq!(record.process.key.tgid, client.pid());
    assert_eq!(client.say()["peer"], "[::ffff:198.51.100.8]:80");
    client.finish();
}

#[test]
fn unprivileged_process_is_recorded_with_its_ids() {
    let world = World::new("uid", LOOPBACK);
    let client = world.client(&["--uid", "65534", "connect", "198.51.100.7:443"]);
    let process = world.accept_v4().1.unwrap().process;
    assert_eq!((process.uid, process.gid), (65534, 65534));
    assert_eq!(process.key.tgid, client.pid());
    client.finish();
}

#[test]
fn child_cgroups_are_captured_too() {
    let world = World::new("child", LOOPBACK);
    let job = world.places.captured.join("job");
    cgroup::create(&job).unwrap();
    let client = Client::start(&["--cgroup", job.to_str().unwrap(), "connect", "198.51.100.7:443"]);
    let process = world.accept_v4().1.unwrap().process;
    assert_eq!(process.cgroup_id, cgroup::id(&job).unwrap());
    client.finish();
    crate::world::wait_until("the job's cgroup is gone", || cgroup::remove(&job).unwrap());
}

#[test]
fn socket_bound_to_a_device_is_captured() {
    let world = World::new("device", LOOPBACK);
    let device = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name != "lo" && std::path::Path::new("/sys/class/net").join(name).is_dir())
        .expect("this test needs a network device beside lo");
    let mut client = world.client(&["connect-from-device", &device, "198.51.100.7:443"]);
    assert_eq!(client.errno(), 0);
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr("198.51.100.7:443"));
    assert_eq!(world.counter("bound_device_cleared"), 1);
    client.finish();
}

#[test]
fn socket_that_connects_again_does_not_keep_its_old_record() {
    let world = World::new("again", LOOPBACK);
    let direct = format!("127.0.0.1:{}", world.port);
    let mut client = world.client(&["reconnect", "198.51.100.7:443", &direct]);
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr("198.51.100.7:443"));
    assert!(matches!(world.accept_v4().1, Err(CaptureError::NoRecord)));
    assert_eq!(client.say()["peer"], "198.51.100.7:443");
    assert_eq!(client.say()["peer"], direct, "getpeername forgets it too");
    client.finish();

    let mut client = world.client(&["reconnect", "198.51.100.7:443", "198.51.100.9:80"]);
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr("198.51.100.7:443"));
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr("198.51.100.9:80"));
    assert_eq!(client.say()["peer"], "198.51.100.7:443");
    assert_eq!(client.say()["peer"], "198.51.100.9:80");
    client.finish();
}

#[test]
fn direct_connection_to_the_gateway_has_no_record() {
    let world = World::new("direct", LOOPBACK);
    let _outside = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap();
    assert!(matches!(world.accept_v4().1, Err(CaptureError::NoRecord)));
    let to = format!("[::1]:{}", world.port);
    let client = world.client(&["connect", &to]);
    assert!(matches!(world.accept_v6().1, Err(CaptureError::NoRecord)));
    assert_eq!(world.counter("join_no_tuple"), 2);
    client.finish();
}

/// A connect that is given up while the gateway's queue is full has announced a record that nobody
/// collected. Whoever uses the source port next must not get it.
#[test]
fn abandoned_connect_leaves_no_record_for_the_next_user_of_its_port() {
    let world = World::new("abandon", LOOPBACK);
    socket2::SockRef::from(&world.v4).listen(0).unwrap();
    let filler = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap();
    let from = listen(addr("127.0.0.1:0")).local_addr().unwrap();
    let mut client = world.client(&["abandon", &from.to_string(), "198.51.100.7:443"]);
    assert_eq!(client.errno(), i64::from(libc::EINPROGRESS));
    client.finish();
    assert_eq!(world.counter("tuple_stored"), 1);
    assert_eq!(world.counter("tuple_withdrawn"), 1);
    assert!(matches!(world.accept_v4().1, Err(CaptureError::NoRecord)), "the filler");
    drop(filler);

    let outside = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    outside.set_reuse_address(true).unwrap();
    outside.bind(&from.into()).unwrap();
    outside.connect(&world.v4.local_addr().unwrap().into()).unwrap();
    let (stream, record) = world.accept_v4();
    assert_eq!(stream.peer_addr().unwrap(), from);
    assert!(matches!(record, Err(CaptureError::NoRecord)), "{record:?}");
}

#[test]
fn something_that_is_no_tcp_socket_is_an_error_and_no_record() {
    let world = World::new("notsock", LOOPBACK);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(world.capture.record(file.as_fd()), Err(CaptureError::Bpf { .. })));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(matches!(world.capture.record(udp.as_fd()), Err(CaptureError::NoRecord)));
}

/// Without any exclusion even loopback is redirected, which shows who is captured and who is not.
#[test]
fn processes_outside_the_cgroup_are_untouched() {
    let world = World::new("outside", &[]);
    let plain = listen(addr("127.0.0.1:0"));
    let to = plain.local_addr().unwrap().to_string();
    let mut outside = Client::start(&["connect", &to]);
    assert_eq!(outside.say()["peer"], to.as_str());
    let (_stream, _peer) = plain.accept().expect("the plain listener");
    assert_eq!(world.counter("connect_redirected"), 0);
    outside.finish();

    let captured = world.client(&["connect", &to]);
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr(&to));
    captured.finish();
    let captured = world.client(&["connect", "0.0.0.0:80"]);
    assert_eq!(world.accept_v4().1.unwrap().orig_dst.0, addr("127.0.0.1:80"));
    captured.finish();
}

#[test]
fn excluded_destinations_are_untouched() {
    let world = World::new("exclude", &["127.0.0.0/8", "2001:db8:1::/48", "198.51.100.0/25"]);
    let plain = listen(addr("127.0.0.1:0"));
    let port = plain.local_addr().unwrap().port();
    for host in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"] {
        let mut client = world.client(&["connect", &format!("{host}:{port}")]);
        assert_eq!(client.errno(), 0, "{host}");
        plain.accept().unwrap_or_else(|error| panic!("{host}: {error}"));
        client.finish();
    }
    let plain6 = listen(addr("[::1]:0"));
    let port = plain6.local_addr().unwrap().port();
    for host in ["[::1]", "[::]"] {
        let client = world.client(&["connect", &format!("{host}:{port}")]);
        plain6.accept().unwrap_or_else(|error| panic!("{host}: {error}"));
        client.finish();
    }
    assert_eq!(world.counter("connect_redirected"), 0);
    assert_eq!(world.counter("connect_excluded"), 6);
    // The edge of a range: its neighbours are captured.
    for (host, port) in [("[2001:db8:2::1]", 443), ("198.51.100.128", 443)] {
        let to = format!("{host}:{port}");
        let client = world.client(&["connect", &to]);
        let listener = if host.starts_with('[') { world.accept_v6() } else { world.accept_v4() };
        assert_eq!(listener.1.unwrap().orig_dst.0, addr(&to));
        client.finish();
    }
    let mut client = world.client(&["connect", "[2001:db8:1:ffff::1]:443"]);
    client.say();
    assert_eq!(world.counter("connect_excluded"), 7);
    client.finish();
}

#[test]
fn foreign_network_namespace_is_refused() {
    let world = World::new("netns", LOOPBACK);
    for to in ["198.51.100.7:443", "[2001:db8::7]:443"] {
        let mut client = world.client(&["--netns", "connect", to]);
        assert_eq!(client.errno(), EPERM, "{to}");
        client.finish();
    }
    assert_eq!(world.counter("refused_netns"), 2);
    assert_eq!(world.counter("connect_redirected"), 0);
}

#[test]
fn connects_are_refused_while_no_gateway_listens() {
    let world = World::new("closed", LOOPBACK);
    let World { v4, v6, port: _, capture, places } = world;
    drop((v4, v6, capture));
    let captured = places.captured.to_str().unwrap();
    for to in ["198.51.100.7:443", "[2001:db8::7]:443"] {
        let mut client = Client::start(&["--cgroup", captured, "connect", to]);
        assert_eq!(client.errno(), ECONNREFUSED, "{to}");
        client.finish();
    }
}
