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
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap};
use aya::{Ebpf, EbpfLoader, Pod};
use weir_ebpf_common::{ABI_VERSION, Config, FLAG_ALLOW_DNS, FLAG_REFUSE_QUIC, Listener};

use super::maps::{bpf, netns_cookie};
use super::{CaptureError, CgroupId, btf, cgroup, layers, nft, pins, programs, sockets};
use crate::config::Net;

pub use super::layers::{Layer, LayerState, layers};
pub use super::pins::{Attachment, Detached, Status};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ebpf/prebuilt/weir.bpf.o"
));

/// Every map of the object, pinned under its own name.
const MAPS: [&str; 8] =
    ["CONFIG", "NETNS", "EXCLUDE_V4", "EXCLUDE_V6", "TUPLES", "COUNTERS", "CLIENT", "SERVER"];

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
    /// Whether UDP to port 53 may leave.
    pub allow_dns: bool,
    /// Devices of this network namespace that get a packet filter; `*` is all but loopback.
    pub devices: Vec<String>,
    /// Whether nftables guards this network namespace, too.
    pub nftables: bool,
    /// Whether security hooks are used where the kernel has them.
    pub lsm: bool,
    /// Whether an attached capture of the same cgroups and port is replaced in place.
    pub upgrade: bool,
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
    let mut object = load(Some(&spec.pin_dir))?;
    let captured = cgroup::id(&spec.captured)?;
    let gateway = cgroup::id(&spec.gateway)?;
    write_maps(&mut object, spec, captured)?;
    attach_programs(&mut object, spec)?;
    Ok(Attached {
        captured,
        gateway,
        bpffs_mounted: None,
        replaced_stale: false,
        upgraded: true,
        aborted: Ok(0),
    })
}

/// With `pinned`, over the maps in that directory.
fn load(pinned: Option<&Path>) -> Result<Ebpf, CaptureError> {
    let (offsets, lsm) = btf::running_kernel()?;
    let lsm = lsm.unwrap_or_default();
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        if let Some(pin_dir) = pinned {
            loader.map_pin_path(name, pin_dir.join(name));
        }
    }
    let mut object = loader
        .override_global("OFFSETS", &offsets, true)
        .override_global("LSM_OFFSETS", &lsm, true)
        .load(OBJECT)
        .map_err(|error| bpf("loading the BPF object".into(), &error))?;
    programs::load(&mut object)?;
    Ok(object)
}

/// Removes the hooks, the pins and the cgroups made for them. Does nothing if nothing is attached.
///
/// # Errors
/// See [`pins::remove`].
pub fn detach(pin_dir: &Path) -> Result<Detached, CaptureError> {
    // While its note is there. The hooks go in any case: they are what hurts when left behind.
    let table = nft::remove(pin_dir);
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

fn write_maps(
    object: &mut Ebpf,
    spec: &AttachSpec,
    captured: CgroupId,
) -> Result<(), CaptureError> {
    let config = Config {
        abi_version: ABI_VERSION,
        flags: FLAG_REFUSE_QUIC | if spec.allow_dns { FLAG_ALLOW_DNS } else { 0 },
        captured_id: captured.0,
        captured_level: level(&spec.captured)?,
        gateway_port: spec.gateway_port,
        addresses: spec.addresses,
    };
    let failed = |name: &str, error: &dyn std::error::Error| bpf(format!("writing {name}"), error);
    Array::<_, Config>::try_from(map(object, "CONFIG")?)
        .and_then(|mut map| map.set(0, config, 0))
        .map_err(|error| failed("CONFIG", &error))?;
    let listener = Listener { port: spec.gateway_port, addresses: spec.addresses, pad: [0; 4] };
    let cookie = netns_cookie()?;
    HashMap::<_, u64, Listener>::try_from(map(object, "NETNS")?)
        .and_then(|mut map| map.insert(cookie, listener, 0))
        .map_err(|error| failed("NETNS", &error))?;
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in &spec.exclude {
        let len = u32::from(net.prefix_len);
        match net.addr {
            IpAddr::V4(addr) => v4.push((len, u32::from_ne_bytes(addr.octets()))),
            IpAddr::V6(addr) => v6.push((len, words(addr.octets()))),
        }
    }
    exclude(object, "EXCLUDE_V4", &v4)?;
    exclude(object, "EXCLUDE_V6", &v6)
}

/// Puts in what is missing before it takes out what an earlier attach left.
fn exclude<K: Pod + PartialEq>(
    object: &mut Ebpf,
    name: &str,
    wanted: &[(u32, K)],
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("writing {name}"), error);
    let mut map = LpmTrie::<_, K, u32>::try_from(map(object, name)?).map_err(|e| failed(&e))?;
    for (len, data) in wanted {
        map.insert(&Key::new(*len, *data), 1, 0).map_err(|e| failed(&e))?;
    }
    let found: Vec<Key<K>> = map.keys().filter_map(Result::ok).collect();
    for key in found {
        let data = key.data();
        if !wanted.iter().any(|(len, addr)| *len == key.prefix_len() && *addr == data) {
            map.remove(&key).map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

/// The bytes of an address, in words that keep their order in memory.
fn words(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

/// Everything from here on leaves something behind, which `pins::remove` finds and removes.
fn attach_and_pin(
    object: &mut Ebpf,
    spec: &AttachSpec,
) -> Result<(CgroupId, CgroupId), CaptureError> {
    let pin_dir = &spec.pin_dir;
    let mut made = cgroup::create(&spec.captured)?;
    note_made(pin_dir, 0, &made)?;
    let more = cgroup::create(&spec.gateway)?;
    note_made(pin_dir, made.len(), &more)?;
    made.extend(more);
    let captured = cgroup::id(&spec.captured)?;
    let gateway = cgroup::id(&spec.gateway)?;
    pins::note(pin_dir, "captured", &spec.captured)?;
    pins::note(pin_dir, "captured-id", captured.0.to_string())?;
    pins::note(pin_dir, "gateway", &spec.gateway)?;
    write_maps(object, spec, captured)?;
    for name in MAPS {
        let map = object.map(name).ok_or_else(|| programs::absent(name))?;
        map.pin(pin_dir.join(name)).map_err(|error| bpf(format!("pinning {name}"), &error))?;
    }
    attach_programs(object, spec)?;
    pins::note(pin_dir, "complete", ABI_VERSION.to_string())?;
    Ok((captured, gateway))
}

fn note_made(pin_dir: &Path, first: usize, made: &[PathBuf]) -> Result<(), CaptureError> {
    for (number, dir) in (first..).zip(made) {
        if let Err(error) = pins::note(pin_dir, &format!("made-{number}"), dir) {
            // Nobody would find these again.
            for dir in made.iter().rev() {
                drop(cgroup::remove(dir));
            }
            return Err(error);
        }
    }
    Ok(())
}

fn attach_programs(object: &mut Ebpf, spec: &AttachSpec) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    // Those that other layers lean on come after them.
    programs::attach(object, &open(&spec.captured)?, &open(&spec.gateway)?, pin_dir)?;
    let whole = whole_hierarchy()?;
    let lsm = whole.clone().and_then(|()| match btf::running_kernel() {
        _ if !spec.lsm => Err("not asked for".into()),
        Ok((_, Some(_))) => programs::attach_lsm(object, pin_dir),
        _ => Err("the kernel lacks cgroup.ancestors".into()),
    });
    if !spec.lsm {
        programs::remove_lsm(pin_dir);
    }
    layers::note(pin_dir, layers::LSM, lsm)?;
    let devices =
        whole.clone().and_then(|()| programs::attach_devices(object, &spec.devices, pin_dir));
    if spec.devices.is_empty() {
        programs::remove_devices(pin_dir);
    }
    layers::note(pin_dir, layers::DEVICES, devices)?;
    let guard = nft::Guard {
        pin_dir,
        captured: &spec.captured,
        level: level(&spec.captured)?,
        exclude: &spec.exclude,
        allow_dns: spec.allow_dns,
    };
    let table = whole.and_then(|()| match spec.nftables {
        true => nft::apply(&guard),
        false => nft::remove(pin_dir).and(Err("capture.nftables is false".into())),
    });
    layers::note(pin_dir, layers::NFTABLES, table)
}

/// Depth of a cgroup: 1 is a child of the root.
fn level(dir: &Path) -> Result<u32, CaptureError> {
    let mount = cgroup::mount()?;
    let below = dir.strip_prefix(&mount).unwrap_or(dir).components();
    Ok(u32::try_from(below.filter(|part| matches!(part, Component::Normal(_))).count())
        .unwrap_or(u32::MAX))
}

/// Depths count from the root of the hierarchy, which is not what a container sees as root.
fn whole_hierarchy() -> Result<Result<(), String>, CaptureError> {
    let root = cgroup::id(&cgroup::mount()?)?;
    Ok(if root.0 == 1 {
        Ok(())
    } else {
        Err("only a part of the cgroup hierarchy is mounted".into())
    })
}

fn map<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map, CaptureError> {
    object.map_mut(name).ok_or_else(|| programs::absent(name))
}

fn open(dir: &Path) -> Result<File, CaptureError> {
    File::open(dir)
        .map_err(|source| CaptureError::Io { action: format!("opening {}", dir.display()), source })
}
