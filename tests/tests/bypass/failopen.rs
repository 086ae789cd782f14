//! Fail open on the wire: what leaves while no gateway is alive, and what stays refused.

use weir_gateway::capture::Capture as _;
use weir_gateway::capture::loader::{self, LayerState};
use weir_gateway::capture::maps::{self, PinnedCapture};
use weir_tests::beat;

use crate::world::{Outcome, World};

const EPERM: Outcome = Outcome::Refused(libc::EPERM as i64);
const ECONNREFUSED: Outcome = Outcome::Refused(libc::ECONNREFUSED as i64);

fn counter(world: &World, name: &str) -> u64 {
    let all = maps::counters(&world.pin_dir).unwrap();
    all.into_iter().find_map(|(found, value)| (found == name).then_some(value)).unwrap()
}

fn judge(world: &World, attempt: &str) -> Outcome {
    world.judge(world.start(attempt), false)
}

#[test]
fn only_what_a_gateway_would_have_carried_passes() {
    let world = World::new("failopen");
    let mut spec = world.spec();
    spec.danger_fail_open = true;
    spec.nftables = true;
    spec.dns_port = 15_053;
    let layers = world.attach(&spec);
    let nft = layers.iter().find(|layer| layer.name == "nftables").unwrap();
    let why = LayerState::Unavailable("capture.danger_fail_open is true".into());
    assert_eq!(nft.state, why);
    for (attempt, expected) in [
        ("tcp4", Outcome::Leaked),
        ("tcp6", Outcome::Leaked),
        ("tcp-bound-device", Outcome::Leaked),
        ("udp-sendto-53", Outcome::Leaked),
        ("udp-connect-53", Outcome::Leaked),
        ("udp-sendto-5000", EPERM),
        ("udp-sendto-443", ECONNREFUSED),
        ("raw-tcp", EPERM),
        ("ping", EPERM),
        ("bind-gateway-port", EPERM),
        ("packet-qdisc-bypass", EPERM),
    ] {
        assert_eq!(judge(&world, attempt), expected, "{attempt}: {:?}", world.last_frames());
    }
    assert_eq!(counter(&world, "connect_failed_open"), 3);
    assert_eq!(counter(&world, "dns_failed_open"), 2);
    assert!(counter(&world, "egress_failed_open") >= 5);
    assert_eq!(counter(&world, "connect_redirected"), 0);
}

#[test]
fn what_began_in_between_goes_on_and_everything_else_is_captured_again() {
    let world = World::new("failopen-back");
    let mut spec = world.spec();
    spec.danger_fail_open = true;
    world.attach(&spec);
    let [mut one, mut other] = [(); 2].map(|()| world.start("tcp-existing"));
    one.ready().unwrap();
    other.ready().unwrap();
    PinnedCapture::open(&world.pin_dir).unwrap().beat().unwrap();
    assert_eq!(judge(&world, "tcp4"), Outcome::Captured);
    assert_eq!(world.judge(one, true), Outcome::Leaked, "it goes on");
    beat::backdate(&world.pin_dir, beat::DEAD);
    assert_eq!(judge(&world, "tcp4"), Outcome::Leaked);
    // Taking the option back closes the door behind those who passed, too.
    (spec.danger_fail_open, spec.upgrade) = (false, true);
    assert!(loader::attach(&spec).unwrap().upgraded);
    assert_ne!(world.judge(other, true), Outcome::Leaked, "{:?}", world.last_frames());
    assert_eq!(judge(&world, "tcp4"), Outcome::Captured);
    assert_eq!(counter(&world, "connect_failed_open"), 3);
}
