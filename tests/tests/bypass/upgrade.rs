//! Programs replaced under load, and more connections than one address has ports.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weir_gateway::capture::loader;
use weir_gateway::capture::maps::PinnedCapture;
use weir_gateway::capture::{Capture as _, CaptureError};

use crate::net::sh;
use crate::world::World;

const PROCESSES: usize = 4;
const UPGRADES: usize = 20;
/// An emulated processor verifies programs for seconds.
const EMULATED_UPGRADES: usize = 5;
const PORTS: u64 = 64;

/// Ends what waits for it also when the test fails: a scope joins its threads first.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn upgrades() -> usize {
    // What the machines of `xtask test vm` are told, because they are slow.
    match std::env::var_os("WEIR_TEST_CONNECTIONS") {
        Some(_) => EMULATED_UPGRADES,
        None => UPGRADES,
    }
}

/// Accepts and closes, until told to stop.
fn serve(world: &World, stop: &AtomicBool, seen: &AtomicU64, unknown: &AtomicU64) {
    let capture = PinnedCapture::open(&world.pin_dir).unwrap();
    while !stop.load(Ordering::SeqCst) {
        let mut idle = true;
        for listener in &world.listeners {
            while let Ok((stream, _)) = listener.accept() {
                idle = false;
                seen.fetch_add(1, Ordering::SeqCst);
                match capture.record(stream.as_fd()) {
                    Ok(_) => {}
                    Err(CaptureError::NoRecord) => {
                        unknown.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
fn upgrades_in_place_fail_no_connection() {
    let world = World::new("upgrade");
    let mut spec = world.spec();
    spec.devices = vec!["*".into()];
    spec.nftables = true;
    world.attach(&spec);
    spec.upgrade = true;
    let before = world.net.seen();
    let (stop, seen, unknown) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let (mut connected, mut failed) = (0, 0);
    let upgrades = upgrades();
    std::thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        scope.spawn(|| serve(&world, &stop, &seen, &unknown));
        let mut clients: Vec<_> = (0..PROCESSES).map(|_| world.spawn("churn")).collect();
        clients.iter_mut().for_each(|client| client.ready().unwrap());
        for _ in 0..upgrades {
            let so_far = seen.load(Ordering::SeqCst);
            assert!(loader::attach(&spec).unwrap().upgraded);
            // Each generation of programs gets to see some.
            let deadline = Instant::now() + Duration::from_secs(60);
            while seen.load(Ordering::SeqCst) < so_far + 50 {
                assert!(Instant::now() < deadline, "connections stopped");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for mut client in clients {
            client.go();
            let said = client.line();
            connected += said["connected"].as_u64().unwrap();
            failed += said["failed"].as_u64().unwrap();
        }
        drop(stopping);
    });
    println!(
        "{upgrades} upgrades under {connected} connects in {:?}: {failed} failed, {} without record",
        begun.elapsed(),
        unknown.load(Ordering::SeqCst)
    );
    assert_eq!((failed, unknown.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(seen.load(Ordering::SeqCst), connected, "all of them came to the gateway");
    assert_eq!(world.net.seen().0, before.0, "and none to the far end");
}

#[test]
fn addresses_multiply_the_ports_for_concurrent_connections() {
    for addresses in [1, 4] {
        let world = World::new("ports");
        let high = 40_000 + PORTS - 1;
        sh(&format!("sysctl -qw net.ipv4.ip_local_port_range='40000 {high}'"));
        let mut spec = world.spec();
        spec.addresses = addresses;
        world.attach(&spec);
        let mut client = world.start("hold");
        let held = client.line()["held"].as_u64().unwrap();
        println!("{held} held over {addresses} addresses with {PORTS} source ports");
        assert_eq!(held, PORTS * u64::from(addresses));
        client.go();
    }
}
