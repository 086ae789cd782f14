//! Port 53 of any server is the resolver's, and clients do not notice.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use weir_gateway::capture::maps::PinnedCapture;
use weir_gateway::capture::{Capture as _, CaptureError, Captured, Question, cgroup, netns};

use crate::network::Bridged;
use crate::world::{PATIENCE, World, listen, start_ticks, ticks};

const ANSWER: [u8; 4] = [203, 0, 113, 53];

/// Joins the captured cgroup, asks in every way, and prints who answered.
const CLIENT: &str = r#"
import json, os, socket, struct, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
if len(sys.argv) > 2:
    import ctypes
    assert ctypes.CDLL(None).setns(os.open(sys.argv[2], os.O_RDONLY), 0x40000000) == 0
question = bytes.fromhex("1234 0100 0001 0000 0000 0000 0161 07 6578616d706c65 00 0001 0001")
V4, V6, MAPPED = "198.51.100.53", "2001:db8::53", "::ffff:198.51.100.54"
out = {}
def plain(address): return [address[0], address[1]]
def udp(family):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    return s
for name, family, to in [("v4", socket.AF_INET, V4), ("v6", socket.AF_INET6, V6), ("mapped", socket.AF_INET6, MAPPED)]:
    s = udp(family)
    s.sendto(question, (to, 53))
    data, source = s.recvfrom(512)
    out["send " + name] = plain(source) + [data[-4:].hex()]
    s = udp(family)
    s.connect((to, 53))
    peer = s.getpeername()
    s.send(question)
    data, source = s.recvfrom(512)
    out["connect " + name] = plain(peer) + plain(source) + [data[-4:].hex()]
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(10)
    s.connect((to, 53))
    peer = s.getpeername()
    s.sendall(struct.pack("!H", len(question)) + question)
    out["tcp " + name] = plain(peer) + [s.recv(512)[-4:].hex()]
s = udp(socket.AF_INET)
for to in ("198.51.100.1", "198.51.100.2"):
    s.sendto(question, (to, 53))
    out["again " + to] = plain(s.recvfrom(512)[1])
other = udp(socket.AF_INET)
other.bind(("127.0.0.1", 0))
s.sendto(b"x", other.getsockname())
out["other port"] = other.recvfrom(8)[0].decode()
s.connect(other.getsockname())
out["other peer"] = s.getpeername() == other.getsockname()
out["libc"] = sorted(a[4][0] for a in socket.getaddrinfo("weir-kernel-test.example", 443, socket.AF_INET, socket.SOCK_STREAM))
print(json.dumps(out))
"#;

/// Answers every question for an address.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += usize::from(question[end]) + 1;
    }
    let is_a = question[end + 1..end + 3] == [0, 1];
    let mut out = question[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend(&question[12..end + 5]);
    if is_a {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(ANSWER);
    }
    out
}

fn serve_udp(on: SocketAddr) {
    let socket = UdpSocket::bind(on).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&answer(&buffer[..length]), from).unwrap();
        }
    });
}

fn serve_tcp(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let reply = answer(&question);
            let mut framed = u16::try_from(reply.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(reply);
            stream.write_all(&framed).unwrap();
        }
    });
}

fn ask(captured: &Path, inside: Option<&Path>) -> (Option<Value>, String) {
    let done = Command::new("python3")
        .args(["-c", CLIENT, captured.to_str().unwrap()])
        .args(inside)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (serde_json::from_slice(&done.stdout).ok(), said)
}

#[test]
fn every_name_server_is_the_resolver() {
    // Free, and told to the capture before the resolver listens.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::with("dns", &["127.0.0.0/8"], |spec| spec.dns_port = port);
    // Nothing leaves while no resolver listens.
    let (out, said) = ask(&world.places.captured, None);
    assert!(out.is_none() && (said.contains("refused") || said.contains("timed out")), "{said}");
    for on in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let on = SocketAddr::new(on, port);
        serve_udp(on);
        serve_tcp(listen(on));
    }
    let (out, said) = ask(&world.places.captured, None);
    check(&out.unwrap_or_else(|| panic!("{said}")));
    assert_eq!(world.counter("connect_redirected"), 0, "dns is no flow");
}

fn check(out: &Value) {
    let ip = hex::encode(ANSWER);
    for (name, server) in
        [("v4", "198.51.100.53"), ("v6", "2001:db8::53"), ("mapped", "::ffff:198.51.100.54")]
    {
        assert_eq!(out[format!("send {name}")], json!([server, 53, ip]), "{name}");
        assert_eq!(out[format!("connect {name}")], json!([server, 53, server, 53, ip]), "{name}");
        assert_eq!(out[format!("tcp {name}")], json!([server, 53, ip]), "{name}");
    }
    assert_eq!(out["again 198.51.100.1"], json!(["198.51.100.1", 53]));
    assert_eq!(out["again 198.51.100.2"], json!(["198.51.100.2", 53]));
    assert_eq!((&out["other port"], &out["other peer"]), (&json!("x"), &json!(true)));
    // A real client: libc checks that the answer comes from the server it asked.
    assert_eq!(out["libc"], json!(["203.0.113.53"]));
}

/// The resolver of a container behind a bridge listens on the bridge.
#[test]
fn every_name_server_of_a_container_is_the_resolver() {
    let world = Bridged::with("brdns", 1, |spec| {
        (spec.dns_port, spec.allow_dns) = (15_353, false);
    });
    let inside = world.host.container(0, 2);
    world.register(&inside).unwrap();
    let addresses = netns::resolver_addresses(&world.places.pin_dir).unwrap();
    assert_eq!(
        addresses,
        ["10.77.0.1", "2001:db8:77::1"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    for on in addresses {
        let on = SocketAddr::new(on, 15_353);
        serve_udp(on);
        serve_tcp(listen(on));
    }
    let (out, said) = ask(&world.places.captured, Some(&inside.path));
    check(&out.unwrap_or_else(|| panic!("{said}")));
    assert_eq!(world.counter("connect_bridged"), 0, "dns is no flow");
    assert!(world.counter("egress_bridged_dns") > 0 && world.counter("lookup_resolver") > 0);
    // A process that is not captured is answered by it, too: it has no other server.
    let said = inside.sh(
        "python3 - <<X\nimport socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.settimeout(5)\ns.connect(('198.51.100.53', 53))\n\
         s.send(bytes.fromhex('1234010000010000000000000161076578616d706c650000010001'))\n\
         print(s.recv(512)[-4:].hex())\nX",
    );
    assert_eq!(said.trim(), hex::encode(ANSWER));
    // The resolver's port is for those who were sent there.
    let mut client = world.client(&inside, &["udp-send", "10.77.0.1:15353"]);
    assert_eq!(client.errno(), 1);
    client.finish();
    assert_eq!(world.host.left(), 0);
}

/// Asks in every way, each time with another id, and waits for the end of its input.
const ASKER: &str = r#"
import json, os, socket, struct, sys
if sys.argv[2] == "inside":
    open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
port = int(sys.argv[3])
def question(id): return struct.pack("!H", id) + bytes.fromhex("0100 0001 0000 0000 0000 0161 00 0001 0001")
def udp(family): return socket.socket(family, socket.SOCK_DGRAM)
if sys.argv[2] == "inside":
    V4, V6, MAPPED = ("198.51.100.53", 53), ("2001:db8::53", 53), ("::ffff:198.51.100.54", 53)
    udp(socket.AF_INET).sendto(question(1), V4)
    udp(socket.AF_INET6).sendto(question(2), V6)
    udp(socket.AF_INET6).sendto(question(3), MAPPED)
    s = udp(socket.AF_INET)
    s.connect(V4)
    s.send(question(4))
    shared = udp(socket.AF_INET)
    shared.sendto(question(5), V4)
    child = os.fork()
    if child == 0:
        shared.sendto(question(6), V4)
        sys.stdin.read()
        os._exit(0)
    t = socket.create_connection(V4, 10)
else:
    child = 0
udp(socket.AF_INET).sendto(question(7), ("127.0.0.1", port))
print(json.dumps({"child": child}), flush=True)
sys.stdin.read()
"#;

/// A port that is free for datagrams and connections, on both loopback addresses.
fn resolver() -> (u16, [UdpSocket; 2], TcpListener) {
    for _ in 0..64 {
        let tcp = listen((Ipv4Addr::LOCALHOST, 0).into());
        let port = tcp.local_addr().unwrap().port();
        let on = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let udp = on.map(|on| UdpSocket::bind(SocketAddr::new(on, port)));
        if let [Ok(v4), Ok(v6)] = udp {
            return (port, [v4, v6], tcp);
        }
    }
    panic!("no port is free for all");
}

/// The next datagram: its id, and who sent it.
fn next(capture: &PinnedCapture, socket: &UdpSocket) -> (u16, Result<Captured, CaptureError>) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    let (_, client) = socket.recv_from(&mut buffer).unwrap();
    let id = u16::from_be_bytes([buffer[0], buffer[1]]);
    (id, capture.asker(Question { client, id: Some(id) }))
}

fn asker(world: &World, side: &str, port: u16) -> (Child, Value) {
    let mut child = Command::new("python3")
        .args(["-c", ASKER, world.places.captured.to_str().unwrap(), side, &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

#[test]
fn the_resolver_is_told_who_asks() {
    let (port, [v4, v6], tcp) = resolver();
    let world = World::with("dnswho", &["127.0.0.0/8"], |spec| spec.dns_port = port);
    let capture = PinnedCapture::open(&world.places.pin_dir).unwrap();
    let (mut inside, said) = asker(&world, "inside", port);
    let (pid, child) = (inside.id(), u32::try_from(said["child"].as_u64().unwrap()).unwrap());
    let captured = cgroup::id(&world.places.captured).unwrap();
    let mut seen: Vec<(u16, Captured)> = [&v4, &v4, &v4, &v4, &v4, &v4, &v6]
        .into_iter()
        .map(|socket| next(&capture, socket))
        .map(|(id, who)| (id, who.unwrap_or_else(|error| panic!("{id}: {error}"))))
        .collect();
    seen.sort_by_key(|(id, _)| *id);
    let ids: Vec<u16> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
    for (id, who) in &seen {
        let wanted = if *id == 6 { child } else { pid };
        assert_eq!(who.process.key.tgid, wanted, "{id}");
        assert_eq!(ticks(who.process.key.start_time_ns), start_ticks(wanted), "{id}");
        assert_eq!(who.process.cgroup_id, captured, "{id}");
        assert!(who.process.argv[0].ends_with("python3"), "{id}: {who:?}");
    }
    assert_eq!(seen[0].1.orig_dst.0, "198.51.100.53:53".parse().unwrap());
    assert_eq!(seen[1].1.orig_dst.0, "[2001:db8::53]:53".parse().unwrap());
    assert_eq!(seen[6].1.orig_dst.0, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    let (_stream, client) = tcp.accept().unwrap();
    let who = capture.asker(Question { client, id: None }).unwrap();
    assert_eq!(who.process.key.tgid, pid);
    assert_eq!((world.counter("dns_datagram"), world.counter("dns_connection")), (7, 1));
    assert_eq!((world.counter("dns_no_asker"), world.counter("dns_asker_lost")), (0, 0));

    let (mut outside, _) = asker(&world, "outside", port);
    let (id, who) = next(&capture, &v4);
    assert!(id == 7 && matches!(who, Err(CaptureError::NoRecord)), "{who:?}");
    assert_eq!(world.counter("dns_datagram"), 7, "not captured");
    drop((inside.stdin.take(), outside.stdin.take()));
    assert!(inside.wait().unwrap().success() && outside.wait().unwrap().success());
}
