//! What happens to an attached capture afterwards, and that `repair` finds it and puts it right.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use weir_gateway::capture::loader::{self, AttachSpec, LayerState};
use weir_gateway::capture::repair::{self, Finding, Report, journal};
use weir_gateway::capture::{cgroup, layers};

use crate::layers::state;
use crate::net::sh;
use crate::world::{Outcome, World};

const EPERM: i64 = libc::EPERM as i64;

/// What is found, all of it put right.
fn repaired(spec: &AttachSpec) -> Vec<Finding> {
    let done = repair::repair(spec, None).unwrap();
    for one in &done {
        assert_eq!(one.result, Ok(()), "{one:?}");
    }
    assert_eq!(repair::check(spec).unwrap(), [], "after {done:?}");
    done.into_iter().map(|one| one.finding).collect()
}

fn details(world: &World) -> Vec<String> {
    journal::read(&world.pin_dir).into_iter().map(|entry| entry.detail).collect()
}

#[test]
fn nothing_is_found_after_an_attach_and_an_upgrade() {
    let world = World::new("rp-none");
    let mut spec = world.spec();
    spec.nftables = true;
    spec.devices = vec!["*".into()];
    world.attach(&spec);
    assert_eq!(repair::check(&spec).unwrap(), []);
    spec.upgrade = true;
    loader::attach(&spec).unwrap();
    assert_eq!(repaired(&spec), []);
    assert_eq!(details(&world), Vec::<String>::new());
}

#[test]
fn a_flushed_or_changed_table_is_loaded_again() {
    let world = World::new("rp-nft");
    let mut spec = world.spec();
    spec.nftables = true;
    world.attach(&spec);
    sh("nft flush ruleset");
    assert!(matches!(repaired(&spec)[..], [Finding::Table(_)]));
    assert_eq!(state(&world, "nftables"), LayerState::Active);
    // The rule is still there, and of no use.
    sh("nft -a list ruleset | sed -n 's/^table inet \\(weir_[0-9a-f]*\\).*/\\1/p' | \
        xargs -I{} nft insert rule inet {} captured accept");
    let found = repair::check(&spec).unwrap();
    assert_eq!(found, [Finding::Table("somebody changed the table".into())]);
    assert_eq!(repaired(&spec), found);
    assert_eq!(details(&world).len(), 2);
    // Counters are no change.
    assert_eq!(world.judge(world.start("udp-sendto-5000"), false), Outcome::Refused(EPERM));
    assert_eq!(repair::check(&spec).unwrap(), []);
}

#[test]
fn a_cgroup_that_was_made_again_is_captured_again() {
    let world = World::new("rp-cgroup");
    let mut spec = world.spec();
    spec.nftables = true;
    spec.devices = vec!["*".into()];
    world.attach(&spec);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
    assert!(cgroup::remove(&world.captured).unwrap());
    cgroup::create(&world.captured).unwrap();
    // Judged by what the far end saw when the marker came, which may have overtaken it.
    let leaks = || world.judge(world.start("udp-sendto-5000"), false) == Outcome::Leaked;
    assert!((0..3).any(|_| leaks()), "the new cgroup is not captured yet");
    let found = repaired(&spec);
    assert_eq!(found[0], Finding::Cgroup("captured"), "{found:?}");
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
    assert_eq!(world.judge(world.start("udp-sendto-5000"), false), Outcome::Refused(EPERM));
    if state(&world, "devices") == LayerState::Active {
        assert!(matches!(world.judge(world.start("packet"), false), Outcome::Refused(_)));
    }
    assert_eq!(state(&world, "nftables"), LayerState::Active);
    let told = journal::read(&world.pin_dir);
    assert!(told.iter().all(|entry| entry.repaired && entry.opened), "{told:?}");
    assert!(told[0].detail.contains("the captured cgroup was removed"), "{told:?}");
}

#[test]
fn a_cgroup_that_is_gone_is_made_again() {
    let world = World::new("rp-gone");
    let spec = world.spec();
    world.attach(&spec);
    assert!(cgroup::remove(&world.captured).unwrap());
    assert_eq!(repaired(&spec), [Finding::Cgroup("captured")]);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

#[test]
fn links_programs_and_maps_are_put_back() {
    let world = World::new("rp-links");
    let mut spec = world.spec();
    world.attach(&spec);
    // An early one: those that run after it must still run after it.
    std::fs::remove_file(world.pin_dir.join("weir_dns_connect4")).unwrap();
    assert_eq!(repaired(&spec), [Finding::PinGone("weir_dns_connect4")]);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
    // The pin of another program, which is what remains of a swap.
    let pin = |name: &str| world.pin_dir.join(name);
    std::fs::rename(pin("weir_bind4"), pin("weir_egress")).unwrap();
    let found = repaired(&spec);
    assert!(found.contains(&Finding::PinGone("weir_bind4")), "{found:?}");
    assert!(found.contains(&Finding::ProgramReplaced("weir_egress")), "{found:?}");
    assert_eq!(world.judge(world.start("udp-sendto-5000"), false), Outcome::Refused(EPERM));
    std::fs::remove_file(pin("COUNTERS")).unwrap();
    assert_eq!(repaired(&spec), [Finding::PinGone("COUNTERS")]);
    // Somebody adds an exclusion behind our back: by an attach with it, seen by one without.
    let without = spec.clone();
    spec.exclude.push(weir_gateway::config::Net { addr: [203, 0, 113, 0].into(), prefix_len: 24 });
    spec.upgrade = true;
    loader::attach(&spec).unwrap();
    assert_eq!(repaired(&without), [Finding::MapChanged("EXCLUDE_V4")]);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
    // All of it.
    for entry in std::fs::read_dir(&world.pin_dir).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(repaired(&without), [Finding::Detached]);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

#[test]
fn another_capture_is_left_alone() {
    let world = World::new("rp-other");
    let mut spec = world.spec();
    world.attach(&spec);
    spec.gateway_port += 1;
    assert!(repair::repair(&spec, None).is_err());
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

/// A repair loads programs, which takes an emulated machine more than ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs [`repair::watch`] in this thread's namespace and waits until it told about `wanted`.
fn watched(spec: &AttachSpec, happen: impl FnOnce(), wanted: &[fn(&Finding) -> bool]) {
    let stop = CancellationToken::new();
    let (sender, told) = std::sync::mpsc::sync_channel(64);
    // A thread is in the namespace of the one that started it.
    let watcher = {
        let (spec, stop) = (spec.clone(), stop.clone());
        std::thread::spawn(move || {
            repair::watch(&spec, &stop, &mut |report| match report {
                Report::Done(done) => {
                    for one in done {
                        assert_eq!(one.result, Ok(()), "{one:?}");
                        sender.send(one.finding.clone()).unwrap();
                    }
                }
                Report::Failed(error) => panic!("{error}"),
            });
        })
    };
    // It has looked once and found nothing.
    let looked = || layers::checked_at(&spec.pin_dir).is_some();
    let deadline = Instant::now() + PATIENCE;
    while !looked() {
        assert!(Instant::now() < deadline, "it does not look");
        std::thread::yield_now();
    }
    happen();
    let mut all = Vec::new();
    while !wanted.iter().all(|wanted| all.iter().any(wanted)) {
        all.push(told.recv_timeout(PATIENCE).expect("a repair"));
    }
    stop.cancel();
    watcher.join().unwrap();
}

#[test]
fn devices_that_come_get_the_filter_and_those_that_go_are_forgotten() {
    let world = World::new("rp-dev");
    let mut spec = world.spec();
    spec.devices = vec!["*".into()];
    world.attach(&spec);
    // tcx is younger than what the others need.
    if state(&world, "devices") != LayerState::Active {
        return;
    }
    let pins = || {
        let all = std::fs::read_dir(&world.pin_dir).unwrap();
        all.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("weir_tcx-")
        })
        .count()
    };
    let before = pins();
    watched(
        &spec,
        || sh("ip link add wn0 type veth peer name wn1"),
        &[
            |one| matches!(one, Finding::Device(name) if name == "wn0"),
            |one| matches!(one, Finding::Device(name) if name == "wn1"),
        ],
    );
    assert_eq!(pins(), before + 2);
    let entry = journal::read(&world.pin_dir).pop().unwrap();
    assert!(entry.last_ok.is_some_and(|at| at <= entry.found && entry.found <= entry.done));
    assert!(
        entry.done.0 - entry.last_ok.unwrap().0 < PATIENCE.as_micros().try_into().unwrap(),
        "{entry:?}"
    );
    watched(&spec, || sh("ip link del wn0"), &[|one| matches!(one, Finding::DeviceGone(_))]);
    assert_eq!(repaired(&spec).len(), 0);
    assert_eq!(pins(), before);
}

#[test]
fn the_watch_repairs_tables_and_cgroups() {
    let world = World::new("rp-watch");
    let mut spec = world.spec();
    spec.nftables = true;
    world.attach(&spec);
    watched(&spec, || sh("nft flush ruleset"), &[|one| matches!(one, Finding::Table(_))]);
    assert_eq!(state(&world, "nftables"), LayerState::Active);
    let remake = || {
        assert!(cgroup::remove(&world.captured).unwrap());
        cgroup::create(&world.captured).unwrap();
    };
    watched(&spec, remake, &[|one| matches!(one, Finding::Cgroup("captured"))]);
    assert_eq!(world.judge(world.start("tcp4"), false), Outcome::Captured);
}

#[test]
fn a_named_device_is_waited_for() {
    let world = World::new("rp-named");
    let mut spec = world.spec();
    spec.devices = vec!["wn7".into()];
    world.attach(&spec);
    assert_eq!(repair::check(&spec).unwrap(), [], "it is not there, which `layers` says");
    assert!(matches!(state(&world, "devices"), LayerState::Unavailable(_)));
    sh("ip link add wn7 type veth peer name wn8");
    assert_eq!(repair::check(&spec).unwrap(), [Finding::Device("wn7".into())]);
    // tcx is younger than what the others need.
    let done = repair::repair(&spec, None).unwrap();
    if done[0].result.is_ok() {
        assert_eq!(state(&world, "devices"), LayerState::Active);
    }
    assert_eq!(repair::check(&spec).unwrap(), [], "or it was told, once");
}

#[test]
fn the_gateways_cgroup_is_attached_to_again() {
    let world = World::new("rp-gateway");
    let spec = world.spec();
    world.attach(&spec);
    assert!(cgroup::remove(&spec.gateway).unwrap());
    assert_eq!(repaired(&spec), [Finding::Cgroup("gateway")]);
    assert!(cgroup::id(&spec.gateway).is_ok(), "made again, for a gateway to join");
}
