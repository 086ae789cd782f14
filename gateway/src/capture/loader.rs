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
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SockOps};
use aya::{Ebpf, EbpfLoader, Pod};
use weir_ebpf_common::{ABI_VERSION, Config, FLAG_REFUSE_QUIC, Listener};

use super::maps::{bpf, netns_cookie};
use super::{CaptureError, CgroupId, btf, cgroup, pins};
use crate::config::Net;

pub use super::pins::{Attachment, Detached, Status};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ebpf/prebuilt/weir.bpf.o"
));

/// Address programs of the captured cgroup. `connect` comes last: until then nothing is redirected.
const ADDRESS_PROGRAMS: [&str; 6] = [
    "weir_peername4",
    "weir_peername6",
    "weir_sendmsg4",
    "weir_sendmsg6",
    "weir_connect4",
    "weir_connect6",
];
const CLIENT_PROGRAM: &str = "weir_client";
const SERVER_PROGRAM: &str = "weir_server";
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
}

/// Attaches the programs.
///
/// # Errors
/// [`CaptureError::AlreadyAttached`] when the pins are in use, [`CaptureError::Unsupported`] when
/// the kernel or the host lacks something, and others when a step fails.
pub fn attach(spec: &AttachSpec) -> Result<Attached, CaptureError> {
    check_places(spec)?;
    let offsets = btf::running_kernel()?;
    let replaced_stale = match pins::status(&spec.pin_dir) {
        Ok(Status::Detached) => spec.pin_dir.exists(),
        Ok(Status::Stale) => true,
        Ok(Status::Attached(_)) => {
            return Err(CaptureError::AlreadyAttached(spec.pin_dir.clone()));
        }
        Err(error) => return Err(error),
    };
    if replaced_stale {
        pins::remove(&spec.pin_dir)?;
    }
    let mut object = EbpfLoader::new()
        .override_global("OFFSETS", &offsets, true)
        .load(OBJECT)
        .map_err(|error| bpf("loading the BPF object".into(), &error))?;
    load_programs(&mut object)?;
    write_maps(&mut object, spec)?;
    let bpffs_mounted = pins::create(&spec.pin_dir)?;
    match attach_and_pin(&mut object, spec) {
        Ok((captured, gateway)) => {
            Ok(Attached { captured, gateway, bpffs_mounted, replaced_stale })
        }
        Err(error) => {
            // The first failure is the one to report; what cannot be removed is stale for the next.
            drop(pins::remove(&spec.pin_dir));
            Err(error)
        }
    }
}

/// Removes the hooks, the pins and the cgroups made for them. Does nothing if nothing is attached.
///
/// # Errors
/// See [`pins::remove`].
pub fn detach(pin_dir: &Path) -> Result<Detached, CaptureError> {
    pins::remove(pin_dir)
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

fn load_programs(object: &mut Ebpf) -> Result<(), CaptureError> {
    for name in ADDRESS_PROGRAMS {
        let program: &mut CgroupSockAddr = program(object, name)?;
        program.load().map_err(|error| bpf(format!("loading {name}"), &error))?;
    }
    for name in [CLIENT_PROGRAM, SERVER_PROGRAM] {
        let program: &mut SockOps = program(object, name)?;
        program.load().map_err(|error| bpf(format!("loading {name}"), &error))?;
    }
    Ok(())
}

fn write_maps(object: &mut Ebpf, spec: &AttachSpec) -> Result<(), CaptureError> {
    let config = Config {
        abi_version: ABI_VERSION,
        flags: FLAG_REFUSE_QUIC,
        gateway_port: spec.gateway_port,
        pad: [0; 2],
    };
    let failed = |name: &str, error: &dyn std::error::Error| bpf(format!("writing {name}"), error);
    Array::<_, Config>::try_from(map(object, "CONFIG")?)
        .and_then(|mut map| map.set(0, config, 0))
        .map_err(|error| failed("CONFIG", &error))?;
    let listener = Listener { port: spec.gateway_port, pad: [0; 6] };
    let cookie = netns_cookie()?;
    HashMap::<_, u64, Listener>::try_from(map(object, "NETNS")?)
        .and_then(|mut map| map.insert(cookie, listener, 0))
        .map_err(|error| failed("NETNS", &error))?;
    for net in &spec.exclude {
        let len = u32::from(net.prefix_len);
        match net.addr {
            IpAddr::V4(addr) => {
                let key = Key::new(len, u32::from_ne_bytes(addr.octets()));
                exclude(object, "EXCLUDE_V4", &key)?;
            }
            IpAddr::V6(addr) => {
                let key = Key::new(len, words(addr.octets()));
                exclude(object, "EXCLUDE_V6", &key)?;
            }
        }
    }
    Ok(())
}

fn exclude<K: Pod>(object: &mut Ebpf, name: &str, key: &Key<K>) -> Result<(), CaptureError> {
    LpmTrie::<_, K, u32>::try_from(map(object, name)?)
        .and_then(|mut map| map.insert(key, 1, 0))
        .map_err(|error| bpf(format!("writing {name}"), &error))
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
    for name in MAPS {
        let map = object.map(name).ok_or_else(|| absent(name))?;
        map.pin(pin_dir.join(name)).map_err(|error| bpf(format!("pinning {name}"), &error))?;
    }
    let captured_dir = open(&spec.captured)?;
    attach_sock_ops(object, SERVER_PROGRAM, &open(&spec.gateway)?, pin_dir)?;
    attach_sock_ops(object, CLIENT_PROGRAM, &captured_dir, pin_dir)?;
    for name in ADDRESS_PROGRAMS {
        attach_address(object, name, &captured_dir, pin_dir)?;
    }
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

// `Single` is flags 0: cgroup links are always several, and `AllowMultiple` answers EINVAL.
fn attach_address(
    object: &mut Ebpf,
    name: &str,
    cgroup: &File,
    pin_dir: &Path,
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("attaching {name}"), error);
    let program: &mut CgroupSockAddr = program(object, name)?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| failed(&error))?;
    let link = program.take_link(id).map_err(|error| failed(&error))?;
    pin_link(FdLink::try_from(link).map_err(|error| failed(&error))?, name, pin_dir)
}

fn attach_sock_ops(
    object: &mut Ebpf,
    name: &str,
    cgroup: &File,
    pin_dir: &Path,
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("attaching {name}"), error);
    let program: &mut SockOps = program(object, name)?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| failed(&error))?;
    let link = program.take_link(id).map_err(|error| failed(&error))?;
    pin_link(FdLink::try_from(link).map_err(|error| failed(&error))?, name, pin_dir)
}

fn pin_link(link: FdLink, name: &str, pin_dir: &Path) -> Result<(), CaptureError> {
    link.pin(pin_dir.join(name))
        .map(drop)
        .map_err(|error| bpf(format!("pinning the link of {name}"), &error))
}

fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P, CaptureError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error: std::error::Error>,
{
    let program = object.program_mut(name).ok_or_else(|| absent(name))?;
    program.try_into().map_err(|error| bpf(format!("finding {name}"), &error))
}

fn map<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map, CaptureError> {
    object.map_mut(name).ok_or_else(|| absent(name))
}

fn open(dir: &Path) -> Result<File, CaptureError> {
    File::open(dir)
        .map_err(|source| CaptureError::Io { action: format!("opening {}", dir.display()), source })
}

fn absent(name: &str) -> CaptureError {
    CaptureError::Bpf {
        action: format!("finding {name}"),
        detail: "the BPF object does not contain it".into(),
    }
}
