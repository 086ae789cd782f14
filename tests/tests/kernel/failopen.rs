//! Without a live gateway connects are refused, unless somebody asked for the opposite.

use std::net::TcpListener;

use weir_gateway::capture::Capture as _;
use weir_gateway::capture::loader;
use weir_tests::beat;

use crate::world::{Client, World, listen};

const ECONNREFUSED: i64 = 111;

fn far() -> (TcpListener, String) {
    let far = listen("127.0.0.1:0".parse().unwrap());
    let to = far.local_addr().unwrap().to_string();
    (far, to)
}

/// One connect from inside; answers its errno.
fn connect(world: &World, to: &str) -> i64 {
    let mut client = world.client(&["connect", to]);
    let errno = client.errno();
    client.finish();
    errno
}

#[test]
fn a_stale_beat_opens_and_a_fresh_one_closes() {
    let world = World::with("failopen", &[], |spec| spec.danger_fail_open = true);
    let pins = &world.places.pin_dir;
    let (far, to) = far();
    // Never started counts as dead, too. A client that passes does not notice.
    let mut client = world.client(&["connect", &to]);
    let said = client.say();
    assert_eq!((&said["errno"], &said["peer"]), (&0.into(), &to.as_str().into()));
    far.accept().expect("a direct connection");
    client.finish();
    assert_eq!(world.counter("connect_failed_open"), 1);

    world.capture.beat().unwrap();
    let client = world.client(&["connect", &to]);
    assert!(world.accept_v4().1.is_ok(), "redirected again");
    client.finish();
    beat::backdate(pins, beat::LIVE);
    let client = world.client(&["connect", &to]);
    assert!(world.accept_v4().1.is_ok(), "late, but alive");
    client.finish();

    beat::backdate(pins, beat::DEAD);
    assert_eq!(connect(&world, &to), 0);
    far.accept().expect("a direct connection");
    assert_eq!(world.counter("connect_failed_open"), 2);
    assert_eq!(world.counter("connect_redirected"), 2);
    // Others are neither redirected nor counted, in any state.
    let mut outside = Client::start(&["connect", &to]);
    assert_eq!(outside.errno(), 0);
    far.accept().expect("a direct connection");
    outside.finish();
    assert_eq!(world.counter("connect_failed_open"), 2);
}

#[test]
fn without_the_option_a_dead_gateway_refuses() {
    let world = World::new("failclosed", &[]);
    let (_far, to) = far();
    let World { v4, v6, port, places, .. } = world;
    drop((v4, v6));
    let client = |what: &str| {
        let inside = places.captured.to_str().unwrap();
        let mut client = Client::start(&["--cgroup", inside, "connect", &to]);
        assert_eq!(client.errno(), ECONNREFUSED, "{what}");
        client.finish();
    };
    client("never started");
    beat::backdate(&places.pin_dir, beat::DEAD);
    client("stale");
    // The option does nothing for an outage that is shorter than what counts as dead.
    let mut spec = places.spec(port, &[]);
    (spec.danger_fail_open, spec.upgrade) = (true, true);
    assert!(loader::attach(&spec).unwrap().upgraded);
    beat::backdate(&places.pin_dir, beat::LIVE);
    client("short");
}

#[test]
fn a_socket_that_passed_is_redirected_when_it_connects_again() {
    let world = World::with("failopen2", &[], |spec| spec.danger_fail_open = true);
    let (far, to) = far();
    // Its second connect waits for the gateway, which is back by then.
    let mut client = world.client(&["connect-twice", &to, &to]);
    assert_eq!(client.errno(), 0);
    far.accept().expect("a direct connection");
    world.capture.beat().unwrap();
    client.go_on();
    let (_stream, record) = world.accept_v4();
    assert_eq!(record.unwrap().orig_dst.0.to_string(), to);
    assert_eq!(client.errno(), 0);
    client.finish();
}
