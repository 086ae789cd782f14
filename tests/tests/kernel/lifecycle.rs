//! Attaching, detaching, and what is left of either.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;

use aya::maps::{Array, Map, MapData};
use weir_ebpf_common::{ABI_VERSION, Config};
use weir_gateway::capture::loader::{self, Status};
use weir_gateway::capture::maps::PinnedCapture;
use weir_gateway::capture::{CaptureError, cgroup};

use crate::world::{Client, Places, World, exists, wait_until};

const PORT: u16 = 15_443;
const EPERM: i64 = 1;

fn programs() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|info| info.name().starts_with(b"weir_"))
        .map(|info| info.id())
        .collect()
}

#[test]
fn detach_leaves_nothing() {
    let places = Places::new("detach");
    let before = programs();
    let attached = loader::attach(&places.spec(PORT, &[])).unwrap();
    assert_eq!(attached.bpffs_mounted.as_deref(), places.pin_dir.parent());
    assert_eq!(attached.captured, cgroup::id(&places.captured).unwrap());
    let Status::Attached(attachment) = loader::status(&places.pin_dir).unwrap() else {
        panic!("not attached");
    };
    assert_eq!(attachment.captured, places.captured);
    assert_eq!(attachment.gateway, places.gateway);
    assert_eq!(attachment.gateway_port, PORT);
    let ours: BTreeSet<u32> = programs().difference(&before).copied().collect();
    let layers = loader::layers(&places.pin_dir).unwrap();
    let extra = |name, programs| {
        let active = layers.iter().any(|layer| layer.name == name && layer.is_active());
        if active { programs } else { 0 }
    };
    let optional = extra("lsm", 3) + extra("watch", 3) + extra("anchors", 2);
    assert_eq!(ours.len(), 21 + optional, "{layers:?}");

    let detached = loader::detach(&places.pin_dir).unwrap();
    assert_eq!(detached.cgroups_removed.len(), 3);
    assert!(detached.cgroups_left.is_empty());
    assert!(detached.pins >= 24, "{detached:?}");
    assert!(!exists(&places.pin_dir) && !exists(&places.top));
    wait_until("the programs are unloaded", || programs().is_disjoint(&ours));
    assert_eq!(loader::status(&places.pin_dir).unwrap(), Status::Detached);
    assert_eq!(loader::detach(&places.pin_dir).unwrap(), loader::Detached::default());
}

#[test]
fn detached_processes_connect_directly_and_keep_their_cgroup() {
    let world = World::new("after", &[]);
    let plain = crate::world::listen("127.0.0.1:0".parse().unwrap());
    let to = plain.local_addr().unwrap().to_string();
    let client = world.client(&["connect", &to]);
    assert!(world.accept_v4().1.is_ok());
    let detached = loader::detach(&world.places.pin_dir).unwrap();
    assert_eq!(detached.cgroups_left, std::slice::from_ref(&world.places.captured), "in use");
    let after = world.client(&["connect", &to]);
    plain.accept().expect("a direct connection");
    after.finish();
    client.finish();
}

#[test]
fn second_attach_is_refused_and_harms_nothing() {
    let world = World::new("twice", &["127.0.0.0/8"]);
    let again = loader::attach(&world.places.spec(1, &[])).unwrap_err();
    assert!(matches!(again, CaptureError::AlreadyAttached(_)), "{again}");
    let client = world.client(&["connect", "198.51.100.7:443"]);
    assert!(world.accept_v4().1.is_ok());
    client.finish();
}

#[test]
fn gateway_without_capabilities_reads_records() {
    let world = World::new("unprivileged", &["127.0.0.0/8"]);
    let pins = &world.places.pin_dir;
    // What an installation does for the gateway's user: let it pass, and own what it reads.
    for dir in pins.ancestors().take(3) {
        std::fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    }
    for name in ["CONFIG", "SERVER", "COUNTERS", "ALIVE", "EVENTS"] {
        std::os::unix::fs::chown(pins.join(name), Some(65_534), None).unwrap();
    }
    let client = world.client(&["connect", "198.51.100.7:443"]);
    let (stream, _record) = world.accept_v4();
    let args = ["--uid", "65534", "read-record", pins.to_str().unwrap()];
    let mut reader = Client::start_with(&args, OwnedFd::from(stream).into());
    let said = reader.say();
    assert_eq!(said["capabilities"], "0000000000000000");
    assert_eq!(said["orig_dst"], "198.51.100.7:443");
    assert_eq!(said["tgid"], client.pid());
    assert_eq!(said["redirected"], 1);
    reader.finish();
    client.finish();
}

#[test]
fn stale_pins_are_replaced() {
    let places = Places::new("stale");
    loader::attach(&places.spec(PORT, &[])).unwrap();
    // Somebody removes the cgroup and makes it again: the hooks are gone with the first.
    assert!(cgroup::remove(&places.captured).unwrap());
    assert_eq!(loader::status(&places.pin_dir).unwrap(), Status::Stale);
    cgroup::create(&places.captured).unwrap();
    assert_eq!(loader::status(&places.pin_dir).unwrap(), Status::Stale);
    let attached = loader::attach(&places.spec(PORT, &[])).unwrap();
    assert!(attached.replaced_stale);
    assert_eq!(attached.bpffs_mounted, None);
    // An attach that was interrupted.
    std::fs::remove_file(places.pin_dir.join("complete")).unwrap();
    assert_eq!(loader::status(&places.pin_dir).unwrap(), Status::Stale);
    assert!(loader::attach(&places.spec(PORT, &[])).unwrap().replaced_stale);
    assert!(matches!(loader::status(&places.pin_dir).unwrap(), Status::Attached(_)));
}

#[test]
fn failed_attach_removes_what_it_made() {
    let places = Places::new("partial");
    let mut spec = places.spec(PORT, &[]);
    // cgroupfs refuses line breaks: fails after the captured cgroup was made.
    spec.gateway = places.top.join("gate\nway");
    let before = programs();
    let error = loader::attach(&spec).unwrap_err();
    assert!(matches!(error, CaptureError::Io { .. }), "{error}");
    assert!(!exists(&places.pin_dir) && !exists(&places.top));
    wait_until("the programs are unloaded", || programs().is_subset(&before));
}

#[test]
fn dangerous_places_are_refused() {
    let places = Places::new("places");
    let mount = cgroup::mount().unwrap();
    let good = places.spec(PORT, &[]);
    let with = |change: &dyn Fn(&mut loader::AttachSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        let error = loader::attach(&spec).unwrap_err();
        assert!(matches!(error, CaptureError::Unsupported(_)), "{error}");
    };
    with(&|spec| spec.captured.clone_from(&mount));
    with(&|spec| spec.captured = mount.join("."));
    with(&|spec| spec.captured = "/tmp/captured".into());
    with(&|spec| spec.captured = mount.join("a/../.."));
    with(&|spec| spec.gateway = spec.captured.join("gateway"));
    with(&|spec| spec.gateway.clone_from(&spec.captured));
    with(&|spec| spec.pin_dir = "relative/weir".into());
    with(&|spec| spec.pin_dir = "/weir".into());
    // A directory with files in it is not a place to mount bpffs on.
    let busy = tempfile::tempdir().unwrap();
    std::fs::write(busy.path().join("file"), "").unwrap();
    with(&|spec| spec.pin_dir = busy.path().join("weir"));
    assert!(!exists(&places.top), "nothing was made");
    // Deleting pins is for bpffs only.
    assert!(loader::detach(busy.path()).is_err());
    assert!(exists(&busy.path().join("file")));
}

#[test]
fn pins_of_another_version_are_refused() {
    let world = World::new("version", &["127.0.0.0/8"]);
    let pin = world.places.pin_dir.join("CONFIG");
    let map = Map::from_map_data(MapData::from_pin(&pin).unwrap()).unwrap();
    let mut map = Array::<_, Config>::try_from(map).unwrap();
    let mut config = map.get(&0, 0).unwrap();
    config.abi_version += 1;
    map.set(0, config, 0).unwrap();
    let refused = |error: CaptureError| match error {
        CaptureError::AbiVersion { found, wanted } => {
            (found, wanted) == (ABI_VERSION + 1, ABI_VERSION)
        }
        _ => false,
    };
    assert!(refused(PinnedCapture::open(&world.places.pin_dir).unwrap_err()));
    assert!(refused(loader::status(&world.places.pin_dir).unwrap_err()));
    assert!(refused(loader::attach(&world.places.spec(PORT, &[])).unwrap_err()));
    for (args, what) in
        [(["connect", "198.51.100.7:443"], "tcp"), (["udp-send", "198.51.100.7:53"], "udp")]
    {
        let mut client = world.client(&args);
        assert_eq!(client.errno(), EPERM, "{what}");
        client.finish();
    }
    loader::detach(&world.places.pin_dir).unwrap();
    assert_eq!(loader::status(&world.places.pin_dir).unwrap(), Status::Detached);
}
