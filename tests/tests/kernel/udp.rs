//! QUIC is refused in the way that makes clients fall back to TCP; other UDP passes.

use std::net::UdpSocket;

use crate::world::{Client, PATIENCE, World};

const ECONNREFUSED: i64 = 111;

#[test]
fn udp_443_is_refused_as_if_nobody_listened() {
    let world = World::new("quic", &["127.0.0.0/8"]);
    let addresses = ["198.51.100.7:443", "[2001:db8::7]:443", "[::ffff:198.51.100.7]:443"];
    for to in addresses {
        for command in ["udp-connect", "udp-send"] {
            let mut client = world.client(&[command, to]);
            assert_eq!(client.errno(), ECONNREFUSED, "{command} {to}");
            client.finish();
        }
    }
    assert_eq!(world.counter("udp_connect_refused"), 3);
    assert_eq!(world.counter("udp_send_refused"), 3);
    let mut outside = Client::start(&["udp-connect", "127.0.0.1:443"]);
    assert_eq!(outside.errno(), 0, "outside the cgroup");
    outside.finish();
    assert_eq!(world.counter("udp_connect_refused"), 3);
}

#[test]
fn other_udp_passes() {
    let world = World::new("udp", &["127.0.0.0/8"]);
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = receiver.local_addr().unwrap().to_string();
    let mut client = world.client(&["udp-send", &to]);
    assert_eq!(client.errno(), 0);
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 1);
    client.finish();
    let mut client = world.client(&["udp-connect", &to]);
    assert_eq!(client.errno(), 0);
    client.finish();
    assert_eq!(world.counter("udp_passed"), 2);
}
