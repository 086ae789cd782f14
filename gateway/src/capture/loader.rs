//! Loads the BPF programs, attaches them to two cgroups and pins what must outlive this process.
//!
//! - input: [`AttachSpec`]; the BPF object that this binary carries
//! - output: a pin directory (`pins`) that keeps the hooks alive without any process
//! - bound: 256 excluded destinations per family
//! - on failure: [`CaptureError`]; what was made so far is removed again
//!
//! Needs root (`CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` to mount bpffs), and
//! runs in the network namespace that the gateway listens in. While the hooks are attached and no
//! gateway listens, captured connects are refused.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use aya::maps::HashMap;
use aya::{Ebpf, EbpfLoader};
use weir_ebpf_common::{ABI_VERSION, Listener};

use super::maps::bpf;
use super::settings::map;
use super::{
    CaptureError, CgroupId, bridge, btf, cgroup, layers, netns, nft, pins, programs, repair,
    settings, sockets, tracing, watch,
};
use crate::config::Net;

pub use super::layers::{Layer, LayerState, layers};
pub use super::pins::{Attachment, Detached, Status};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ebpf/prebuilt/weir.bpf.o"
));

/// Every map of the object, pinned under its own name.
pub(super) const MAPS: [&str; 24] = [
    "CONFIG",
    "NETNS",
    "EXCLUDE_V4",
    "EXCLUDE_V6",
    "TUPLES",
    "COUNTERS",
    "CLIENT",
    "SERVER",
    "DNS",
    "DNS_SERVER",
    "ALIVE",
    "OPENED",
    "LINKS",
    "NEIGHBOURS",
    "BRIDGES",
    "LISTENERS",
    "EVENTS",
    "EVENT_RATE",
    "CAPTURED",
    "DNS_ASKER",
    "DNS_ASKERS",
    "ANCHORS",
    "ANCHOR_ROOTS",
    "ANCHOR_OUTER",
];

/// What to attach, and where.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// Captured cgroup: an absolute directory below the cgroup2 mount, made if missing. The hooks
    /// hold for its children too.
    pub captured: PathBuf,
    /// The gateway's cgroup, made if missing, not above or below `captured`. The gateway must join
    /// it before it makes its listener.
    pub gateway: PathBuf,
    /// Port on 127.0.0.1 and ::1 that the gateway listens on.
    pub gateway_port: u16,
    /// Absolute bpffs directory, made here; its parent is mounted if need be.
    pub pin_dir: PathBuf,
    /// Destinations that are not redirected. `::1` is always one of them.
    pub exclude: Vec<Net>,
    /// How many addresses from 127.0.0.1 on the gateway listens on, 1 to
    /// [`weir_ebpf_common::MAX_ADDRESSES`].
    pub addresses: u16,
    /// Port of the gateway's resolver on 127.0.0.1 and ::1, which gets what is sent to port 53 of
    /// any server; 0 leaves DNS alone.
    pub dns_port: u16,
    /// Whether UDP to port 53 may leave.
    pub allow_dns: bool,
    /// Devices of this network namespace that get a packet filter; `*` is all but loopback.
    pub devices: Vec<String>,
    /// Whether nftables guards this network namespace, too.
    pub nftables: bool,
    /// Whether TCP and DNS pass unseen while no gateway is alive.
    pub danger_fail_open: bool,
    /// Bridges of this network namespace whose containers can be captured.
    pub bridges: Vec<String>,
    /// Whether security hooks are used where the kernel has them.
    pub lsm: bool,
    /// Whether an attached capture of the same cgroups and port is replaced in place.
    pub upgrade: bool,
}

impl AttachSpec {
    /// Why nftables is left out.
    pub(super) fn without_nftables(&self) -> Option<&'static str> {
        match self {
            Self { nftables: false, .. } => Some("capture.nftables is false"),
            // It cannot know whether a gateway is alive.
            Self { danger_fail_open: true, .. } => Some("capture.danger_fail_open is true"),
            _ => None,
        }
    }
}

/// What `attach` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Id of the captured cgroup.
    pub captured: CgroupId,
    /// Id of the gateway's cgroup.
    pub gateway: CgroupId,
    /// Where bpffs was mounted, if it was not mounted before.
    pub bpffs_mounted: Option<PathBuf>,
    /// Whether pins of an unfinished or orphaned attach were replaced.
    pub replaced_stale: bool,
    /// Whether an attached capture got these programs in place.
    pub upgraded: bool,
    /// Connections that captured processes had before, in this network namespace, and that were
    /// aborted; or why that was not possible. Their packets are dropped in any case.
    pub aborted: Result<usize, String>,
}

/// Attaches the programs, or replaces those of an attached capture from one call to the next.
///
/// # Errors
/// [`CaptureError::AlreadyAttached`] when the pins are in use, [`CaptureError::Unsupported`] when
/// the kernel or the host lacks something, and others when a step fails.
pub fn attach(spec: &AttachSpec) -> Result<Attached, CaptureError> {
    check_places(spec)?;
    let replaced_stale = match pins::status(&spec.pin_dir)? {
        Status::Detached => spec.pin_dir.exists(),
        Status::Stale => true,
        Status::Attached(to) if spec.upgrade && is_same(&to, spec) => return upgrade(spec),
        Status::Attached(_) => return Err(CaptureError::AlreadyAttached(spec.pin_dir.clone())),
    };
    if replaced_stale {
        detach(&spec.pin_dir)?;
    }
    let mut object = load(None)?;
    let bpffs_mounted = pins::create(&spec.pin_dir)?;
    match attach_and_pin(&mut object, spec) {
        Ok((captured, gateway)) => {
            // With the hooks in place nothing comes after these.
            let aborted = sockets::abort(&cgroup::ids_below(&spec.captured));
            Ok(Attached {
                captured,
                gateway,
                bpffs_mounted,
                replaced_stale,
                upgraded: false,
                aborted: aborted.map_err(|error| error.to_string()),
            })
        }
        Err(error) => {
            // The first failure is the one to report; what cannot be removed is stale for the next.
            drop(detach(&spec.pin_dir));
            Err(error)
        }
    }
}

/// Whether an upgrade leaves every connection where it is.
fn is_same(to: &Attachment, spec: &AttachSpec) -> bool {
    to.captured == spec.captured
        && to.gateway == spec.gateway
        && to.gateway_port == spec.gateway_port
}

/// Maps and links stay; only programs change. A failure leaves the old programs in the links that
/// were not reached yet: both enforce the same ABI.
fn upgrade(spec: &AttachSpec) -> Result<Attached, CaptureError> {
    let _turn = pins::own_turn(&spec.pin_dir)?;
    let (captured, gateway) = in_place(spec)?;
    netns::remove_stale(&spec.pin_dir)?;
    Ok(Attached {
        captured,
        gateway,
        bpffs_mounted: None,
        replaced_stale: false,
        upgraded: true,
        aborted: Ok(0),
    })
}

/// Over the pins that are there. Maps stay, so that a running gateway keeps its records; links stay
/// where they hang on what they should, and are made anew where not.
pub(super) fn in_place(spec: &AttachSpec) -> Result<(CgroupId, CgroupId), CaptureError> {
    check_places(spec)?;
    for dir in [&spec.captured, &spec.gateway] {
        note_made(&spec.pin_dir, &cgroup::create(dir)?)?;
    }
    let mut object = load(Some(&spec.pin_dir))?;
    let captured = cgroup::id(&spec.captured)?;
    let gateway = cgroup::id(&spec.gateway)?;
    settings::write_maps(&mut object, spec, captured)?;
    attach_programs(&mut object, spec)?;
    repair::note_programs(&spec.pin_dir)?;
    note_ids(spec, captured, gateway)?;
    Ok((captured, gateway))
}

/// Only the packet filters, on the devices that there are now.
pub(super) fn devices_in_place(spec: &AttachSpec) -> Result<Result<(), String>, CaptureError> {
    let mut object = read(Some(&spec.pin_dir))?;
    attach_devices(&mut object, spec, whole_hierarchy()?)?;
    repair::note_programs(&spec.pin_dir)?;
    Ok(pins::noted(&spec.pin_dir, "no-devices").map_or(Ok(()), Err))
}

/// Only the table.
pub(super) fn table_in_place(spec: &AttachSpec) -> Result<Result<(), String>, CaptureError> {
    let table = nft::apply(&guard(spec)?);
    layers::note(&spec.pin_dir, layers::NFTABLES, table.clone())?;
    Ok(table)
}

/// With `pinned`, over the maps in that directory.
fn load(pinned: Option<&Path>) -> Result<Ebpf, CaptureError> {
    let mut object = read(pinned)?;
    programs::load(&mut object)?;
    Ok(object)
}

/// The object and its maps, without any program in the kernel yet.
fn read(pinned: Option<&Path>) -> Result<Ebpf, CaptureError> {
    let (offsets, lsm) = btf::running_kernel()?;
    let lsm = lsm.unwrap_or_default();
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        if let Some(pin_dir) = pinned {
            loader.map_pin_path(name, pin_dir.join(name));
        }
    }
    loader
        .override_global("OFFSETS", &offsets, true)
        .override_global("LSM_OFFSETS", &lsm, true)
        .load(OBJECT)
        .map_err(|error| bpf("loading the BPF object".into(), &error))
}

/// Removes the hooks, the pins and the cgroups made for them. Does nothing if nothing is attached.
///
/// # Errors
/// See [`pins::remove`].
pub fn detach(pin_dir: &Path) -> Result<Detached, CaptureError> {
    // While its note is there. The hooks go in any case: they are what hurts when left behind.
    let table = bridge::remove(pin_dir).and(nft::remove(pin_dir));
    let done = pins::remove(pin_dir)?;
    table
        .map_err(|detail| CaptureError::Bpf { action: "removing the nft table".into(), detail })?;
    Ok(done)
}

/// Whether the programs are attached.
///
/// # Errors
/// See [`pins::status`].
pub fn status(pin_dir: &Path) -> Result<Status, CaptureError> {
    pins::status(pin_dir)
}

/// The cgroups lie below the mount, apart from each other, and are not its root.
fn check_places(spec: &AttachSpec) -> Result<(), CaptureError> {
    let mount = cgroup::mount()?;
    let plain = |path: &Path| {
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
    };
    for dir in [&spec.captured, &spec.gateway] {
        if !plain(dir) || !dir.starts_with(&mount) || *dir == mount {
            return Err(CaptureError::Unsupported(format!(
                "{} is not a cgroup below {}",
                dir.display(),
                mount.display()
            )));
        }
    }
    if spec.captured.starts_with(&spec.gateway) || spec.gateway.starts_with(&spec.captured) {
        return Err(CaptureError::Unsupported(format!(
            "{} and {} contain each other: the gateway would capture itself",
            spec.captured.display(),
            spec.gateway.display()
        )));
    }
    if !plain(&spec.pin_dir) || spec.pin_dir.parent().is_none_or(|parent| parent.parent().is_none())
    {
        return Err(CaptureError::Unsupported(format!(
            "{} cannot be a pin directory: it needs a parent that can be a bpffs mount",
            spec.pin_dir.display()
        )));
    }
    Ok(())
}

/// Everything from here on leaves something behind, which `pins::remove` finds and removes.
fn attach_and_pin(
    object: &mut Ebpf,
    spec: &AttachSpec,
) -> Result<(CgroupId, CgroupId), CaptureError> {
    let pin_dir = &spec.pin_dir;
    for dir in [&spec.captured, &spec.gateway] {
        note_made(pin_dir, &cgroup::create(dir)?)?;
    }
    let captured = cgroup::id(&spec.captured)?;
    let gateway = cgroup::id(&spec.gateway)?;
    pins::note(pin_dir, "captured", &spec.captured)?;
    pins::note(pin_dir, "gateway", &spec.gateway)?;
    note_ids(spec, captured, gateway)?;
    settings::write_maps(object, spec, captured)?;
    settings::write_attached(object)?;
    for name in MAPS {
        let map = object.map(name).ok_or_else(|| programs::absent(name))?;
        map.pin(pin_dir.join(name)).map_err(|error| bpf(format!("pinning {name}"), &error))?;
    }
    attach_programs(object, spec)?;
    repair::note_programs(pin_dir)?;
    pins::note(pin_dir, "complete", ABI_VERSION.to_string())?;
    Ok((captured, gateway))
}

fn note_ids(spec: &AttachSpec, captured: CgroupId, gateway: CgroupId) -> Result<(), CaptureError> {
    pins::renote(&spec.pin_dir, "captured-id", captured.0.to_string())?;
    pins::renote(&spec.pin_dir, "gateway-id", gateway.0.to_string())?;
    pins::renote(&spec.pin_dir, "gateway-port", spec.gateway_port.to_string())
}

/// A directory that was made twice keeps its first note.
fn note_made(pin_dir: &Path, made: &[PathBuf]) -> Result<(), CaptureError> {
    let mut noted = Vec::new();
    while let Some(dir) = pins::noted(pin_dir, &format!("made-{}", noted.len())) {
        noted.push(PathBuf::from(dir));
    }
    for dir in made {
        if noted.contains(dir) {
            continue;
        }
        if let Err(error) = pins::note(pin_dir, &format!("made-{}", noted.len()), dir) {
            // Nobody would find these again.
            for dir in made.iter().rev() {
                drop(cgroup::remove(dir));
            }
            return Err(error);
        }
        noted.push(dir.clone());
    }
    Ok(())
}

fn attach_programs(object: &mut Ebpf, spec: &AttachSpec) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    // Those that other layers lean on come after them.
    programs::attach(object, &open(&spec.captured)?, &open(&spec.gateway)?, pin_dir)?;
    attach_bridges(object, spec)?;
    let whole = whole_hierarchy()?;
    let comparable = whole.clone().and_then(|()| match btf::running_kernel() {
        Ok((_, Some(_))) => Ok(()),
        _ => Err("the kernel lacks cgroup.ancestors".to_owned()),
    });
    let lsm = comparable.clone().and_then(|()| match spec.lsm {
        true => programs::attach_lsm(object, pin_dir),
        false => Err("not asked for".into()),
    });
    if !spec.lsm {
        programs::remove_lsm(pin_dir);
    }
    layers::note(pin_dir, layers::LSM, lsm)?;
    let watch = comparable
        .and_then(|()| watch::attach(object, pin_dir))
        .and_then(|()| watch::note_members(object, &spec.captured));
    layers::note(pin_dir, layers::WATCH, watch)?;
    attach_devices(object, spec, whole.clone())?;
    let guard = guard(spec)?;
    let table = whole.and_then(|()| match spec.without_nftables() {
        None => nft::apply(&guard),
        Some(why) => nft::remove(pin_dir).and(Err(why.into())),
    });
    layers::note(pin_dir, layers::NFTABLES, table)?;
    layers::note(pin_dir, layers::ANCHORS, tracing::attach(object, pin_dir))
}

fn attach_devices(
    object: &mut Ebpf,
    spec: &AttachSpec,
    whole: Result<(), String>,
) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    let devices = whole
        .map_err(programs::NoFilter::Refused)
        .and_then(|()| programs::attach_devices(object, &spec.devices, pin_dir));
    if spec.devices.is_empty() {
        programs::remove_devices(pin_dir);
    }
    repair::note_devices(pin_dir, &devices)?;
    layers::note(pin_dir, layers::DEVICES, devices.map_err(programs::NoFilter::reason))
}

fn guard(spec: &AttachSpec) -> Result<nft::Guard<'_>, CaptureError> {
    Ok(nft::Guard {
        pin_dir: &spec.pin_dir,
        captured: &spec.captured,
        level: level(&spec.captured)?,
        exclude: &spec.exclude,
        allow_dns: spec.allow_dns,
    })
}

/// Not optional: containers of a configured bridge would be neither captured nor refused.
fn attach_bridges(object: &mut Ebpf, spec: &AttachSpec) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    let failed = |error: &dyn std::error::Error| bpf("writing BRIDGES".into(), error);
    let bridges = bridge::named(&spec.bridges)?;
    let mut map = HashMap::<_, u32, Listener>::try_from(map(object, "BRIDGES")?)
        .map_err(|error| failed(&error))?;
    for one in &bridges {
        map.insert(one.index, one.listener(), 0).map_err(|error| failed(&error))?;
    }
    let gone: Vec<u32> = map
        .keys()
        .filter_map(Result::ok)
        .filter(|index| !bridges.iter().any(|one| one.index == *index))
        .collect();
    for index in gone {
        map.remove(&index).map_err(|error| failed(&error))?;
    }
    if bridges.is_empty() {
        programs::remove_lookup(pin_dir);
        return bridge::remove(pin_dir).map_err(|detail| CaptureError::Bpf {
            action: "removing what was made for bridges".into(),
            detail,
        });
    }
    programs::attach_lookup(object, pin_dir)?;
    bridge::apply(pin_dir, &bridges, spec.dns_port)
}

/// Depth of a cgroup: 1 is a child of the root.
pub(super) fn level(dir: &Path) -> Result<u32, CaptureError> {
    let mount = cgroup::mount()?;
    let below = dir.strip_prefix(&mount).unwrap_or(dir).components();
    Ok(u32::try_from(below.filter(|part| matches!(part, Component::Normal(_))).count())
        .unwrap_or(u32::MAX))
}

/// Depths count from the root of the hierarchy, which is not what a container sees as root.
pub(super) fn whole_hierarchy() -> Result<Result<(), String>, CaptureError> {
    let root = cgroup::id(&cgroup::mount()?)?;
    Ok(if root.0 == 1 {
        Ok(())
    } else {
        Err("only a part of the cgroup hierarchy is mounted".into())
    })
}

fn open(dir: &Path) -> Result<File, CaptureError> {
    File::open(dir)
        .map_err(|source| CaptureError::Io { action: format!("opening {}", dir.display()), source })
}
