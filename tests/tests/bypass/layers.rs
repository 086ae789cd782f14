//! Layers as such: what they report, and that they notice when they stop working.

use weir_gateway::capture::CaptureError;
use weir_gateway::capture::cgroup;
use weir_gateway::capture::loader::{self, AttachSpec, LayerState};
use weir_gateway::capture::maps;
use weir_gateway::config::Net;

use crate::world::{Outcome, World};

pub(crate) fn state(world: &World, name: &str) -> LayerState {
    let all = loader::layers(&world.pin_dir).unwrap();
    all.into_iter().find(|layer| layer.name == name).unwrap().state
}

fn counter(world: &World, name: &str) -> u64 {
    let all = maps::counters(&world.pin_dir).unwrap();
    all.into_iter().find_map(|(found, value)| (found == name).then_some(value)).unwrap()
}

#[test]
fn refusals_are_counted_by_cause() {
    let world = World::new("counts");
    let mut spec = world.spec();
    spec.devices = vec!["wv0".into()];
    world.attach(&spec);
    for (attempt, counted) in [
        ("udp-sendto-5000", "egress_refused_udp"),
        ("raw-tcp", "socket_refused_raw"),
        ("ping", "socket_refused_protocol"),
        ("bind-gateway-port", "bind_refused"),
        ("packet-qdisc-bypass", "option_refused"),
        ("packet", "device_refused"),
    ] {
        // tcx is younger than what the others need; the table shows what leaks then.
        if attempt == "packet" && state(&world, "devices") != LayerState::Active {
            continue;
        }
        assert_eq!(counter(&world, counted), 0, "{counted}");
        let outcome = world.judge(world.start(attempt), false);
        assert!(matches!(outcome, Outcome::Refused(_)), "{attempt}: {outcome:?}");
        assert_eq!(counter(&world, counted), 1, "{attempt}: {counted}");
    }
}

#[test]
fn dns_leaves_only_while_it_is_allowed() {
    let world = World::new("dns");
    let mut spec = world.spec();
    spec.allow_dns = true;
    spec.nftables = true;
    world.attach(&spec);
    for (attempt, expected) in [
        ("udp-sendto-53", Outcome::Leaked),
        ("udp-connect-53", Outcome::Leaked),
        ("udp-sendto-5000", Outcome::Refused(i64::from(libc::EPERM))),
    ] {
        assert_eq!(world.judge(world.start(attempt), false), expected, "{attempt}");
    }
    assert_eq!(counter(&world, "egress_dns"), 2);
    // The same capture, in place, without.
    spec.allow_dns = false;
    spec.upgrade = true;
    assert!(loader::attach(&spec).unwrap().upgraded);
    let outcome = world.judge(world.start("udp-sendto-53"), false);
    assert_eq!(outcome, Outcome::Refused(i64::from(libc::EPERM)));
}

#[test]
fn exclusions_follow_an_upgrade() {
    let world = World::new("exclude");
    let mut spec = world.spec();
    let loopback_only = spec.exclude.clone();
    spec.exclude.push(Net { addr: [203, 0, 113, 99].into(), prefix_len: 24 });
    spec.nftables = true;
    world.attach(&spec);
    spec.upgrade = true;
    for (attempt, counted) in [("udp-sendto-5000", "egress_excluded"), ("tcp4", "connect_excluded")]
    {
        assert_eq!(world.judge(world.start(attempt), false), Outcome::Leaked, "{attempt}");
        assert!(counter(&world, counted) > 0, "{counted}");
    }
    spec.exclude = loopback_only;
    assert!(loader::attach(&spec).unwrap().upgraded);
    let refused = Outcome::Refused(i64::from(libc::EPERM));
    assert_eq!(world.judge(world.start("udp-sendto-5000"), false), refused);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

/// Another port is another capture: upgrades are for what stays where it is.
#[test]
fn only_the_same_capture_is_upgraded() {
    let world = World::new("same");
    let mut spec = world.spec();
    world.attach(&spec);
    let refused =
        |spec: &AttachSpec| matches!(loader::attach(spec), Err(CaptureError::AlreadyAttached(_)));
    assert!(refused(&spec), "not asked for");
    spec.upgrade = true;
    spec.gateway_port += 1;
    assert!(refused(&spec), "another port");
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

#[test]
fn nftables_notices_a_cgroup_that_was_made_again() {
    let world = World::new("nft");
    let mut spec = world.spec();
    spec.nftables = true;
    world.attach(&spec);
    assert_eq!(state(&world, "nftables"), LayerState::Active);
    // Somebody else's rules go; only ours are looked at.
    crate::net::sh("nft add table inet other");
    crate::net::sh("nft flush ruleset");
    assert!(matches!(state(&world, "nftables"), LayerState::Unavailable(_)), "the table is gone");
    spec.upgrade = true;
    loader::attach(&spec).unwrap();
    assert_eq!(state(&world, "nftables"), LayerState::Active, "repaired");

    assert!(cgroup::remove(&world.captured).unwrap());
    cgroup::create(&world.captured).unwrap();
    assert!(matches!(state(&world, "nftables"), LayerState::Unavailable(_)), "another cgroup");
    assert!(loader::attach(&spec).unwrap().replaced_stale);
    assert_eq!(state(&world, "nftables"), LayerState::Active, "repaired");

    loader::detach(&world.pin_dir).unwrap();
    let left = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert!(left.status.success() && left.stdout.is_empty(), "{left:?}");
}

#[test]
fn a_link_that_is_gone_is_reported_and_put_back() {
    let world = World::new("link");
    let mut spec = world.spec();
    world.attach(&spec);
    assert_eq!(state(&world, "egress"), LayerState::Active);
    std::fs::remove_file(world.pin_dir.join("weir_egress")).unwrap();
    assert!(matches!(state(&world, "egress"), LayerState::Unavailable(_)));
    spec.upgrade = true;
    loader::attach(&spec).unwrap();
    assert_eq!(state(&world, "egress"), LayerState::Active);
    let outcome = world.judge(world.start("udp-sendto-5000"), false);
    assert_eq!(outcome, Outcome::Refused(i64::from(libc::EPERM)));
}

#[test]
fn connections_from_before_are_aborted() {
    let world = World::new("abort");
    let existing = ["tcp-existing", "udp-existing", "tcp-listening"].map(|attempt| {
        let mut attempt = world.start(attempt);
        attempt.ready().unwrap();
        attempt
    });
    let attached = loader::attach(&world.spec()).unwrap();
    assert_eq!(attached.aborted, Ok(2), "not the one that listens");
    let [tcp, udp, listening] = existing;
    assert_eq!(world.judge(tcp, true), Outcome::Refused(i64::from(libc::ECONNABORTED)));
    // It has no peer any more.
    assert_eq!(world.judge(udp, true), Outcome::Refused(i64::from(libc::EDESTADDRREQ)));
    drop(listening);
}
