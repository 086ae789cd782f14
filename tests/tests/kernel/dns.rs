//! Port 53 of any server is the resolver's, and clients do not notice.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};

use crate::world::{PATIENCE, World, listen};

const ANSWER: [u8; 4] = [203, 0, 113, 53];

/// Joins the captured cgroup, asks in every way, and prints who answered.
const CLIENT: &str = r#"
import json, os, socket, struct, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
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

fn ask(world: &World) -> (Option<Value>, String) {
    let done = Command::new("python3")
        .args(["-c", CLIENT, world.places.captured.to_str().unwrap()])
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
    let (out, said) = ask(&world);
    assert!(out.is_none() && (said.contains("refused") || said.contains("timed out")), "{said}");
    for on in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let on = SocketAddr::new(on, port);
        serve_udp(on);
        serve_tcp(listen(on));
    }
    let (out, said) = ask(&world);
    let out = out.unwrap_or_else(|| panic!("{said}"));
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
    assert_eq!(world.counter("connect_redirected"), 0, "dns is no flow");
}
