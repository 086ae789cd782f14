//! Which program goes where: loads, attaches, pins, and replaces programs in place.
//!
//! - input: the loaded object, two cgroups, network devices
//! - output: pinned links, each under its program's name
//! - bound: [`MAX_DEVICES`] devices
//! - on failure: [`CaptureError`] for what capture needs; a reason for what is optional

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::programs::Program;
use aya::{Btf, Ebpf};

use super::maps::bpf;
use super::syscall::{self, Target};
use super::{CaptureError, layers};

/// Devices that get a packet filter.
const MAX_DEVICES: usize = 128;

/// A cgroup of [`Hook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Captured,
    Gateway,
}

/// A program that capture needs.
struct Hook {
    name: &'static str,
    side: Side,
    /// `enum bpf_attach_type`.
    attach_type: u32,
}

const fn hook(name: &'static str, side: Side, attach_type: u32) -> Hook {
    Hook { name, side, attach_type }
}

/// In the order of attachment. `connect` comes last: until then nothing is redirected.
const HOOKS: [Hook; 13] = [
    hook("weir_server", Side::Gateway, 3),
    hook("weir_client", Side::Captured, 3),
    hook("weir_create", Side::Captured, 2),
    hook("weir_bind4", Side::Captured, 8),
    hook("weir_bind6", Side::Captured, 9),
    hook("weir_setsockopt", Side::Captured, 22),
    hook("weir_peername4", Side::Captured, 29),
    hook("weir_peername6", Side::Captured, 30),
    hook("weir_sendmsg4", Side::Captured, 14),
    hook("weir_sendmsg6", Side::Captured, 15),
    hook("weir_egress", Side::Captured, 1),
    hook("weir_connect4", Side::Captured, 10),
    hook("weir_connect6", Side::Captured, 11),
];
/// Security hooks: program and kernel function.
const LSM: [(&str, &str); 3] = [
    ("weir_lsm_create", "socket_create"),
    ("weir_lsm_connect", "socket_connect"),
    ("weir_lsm_sendmsg", "socket_sendmsg"),
];
const LSM_MAC: u32 = 27;
const TCX: &str = "weir_tcx";
const TCX_EGRESS: u32 = 47;
const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// Pins of a layer's links.
pub(super) fn pins_of(layer: &str) -> Vec<&'static str> {
    let named = |prefixes: &'static [&'static str]| {
        let wanted = move |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        HOOKS.iter().map(|hook| hook.name).filter(wanted).collect()
    };
    match layer {
        layers::REDIRECT => {
            named(&["weir_server", "weir_client", "weir_peername", "weir_sendmsg", "weir_connect"])
        }
        layers::EGRESS => named(&["weir_egress"]),
        layers::SOCKET => named(&["weir_create", "weir_bind", "weir_setsockopt"]),
        layers::LSM => LSM.iter().map(|(program, _)| *program).collect(),
        _ => Vec::new(),
    }
}

/// Loads what capture needs.
pub(super) fn load(object: &mut Ebpf) -> Result<(), CaptureError> {
    for Hook { name, .. } in &HOOKS {
        let failed = |error: &dyn std::error::Error| bpf(format!("loading {name}"), error);
        match program(object, name)? {
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return Err(absent(name)),
        }
        .map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Attaches what capture needs, or puts these programs into the links that are pinned already.
pub(super) fn attach(
    object: &mut Ebpf,
    captured: &File,
    gateway: &File,
    pin_dir: &Path,
) -> Result<(), CaptureError> {
    for Hook { name, side, attach_type } in &HOOKS {
        let target = Target::Cgroup(match side {
            Side::Captured => captured.as_fd(),
            Side::Gateway => gateway.as_fd(),
        });
        let program = program_fd(object, name)?;
        link(program, target, *attach_type, &pin_dir.join(name))
            .map_err(|error| bpf(format!("attaching {name}"), &error))?;
    }
    Ok(())
}

/// Attaches the security hooks, if the kernel has them.
pub(super) fn attach_lsm(object: &mut Ebpf, pin_dir: &Path) -> Result<(), String> {
    if !has_lsm()? {
        return Err("bpf is not among the active security modules".into());
    }
    let text = |error: &dyn std::error::Error| bpf(String::new(), error).detail();
    let btf = Btf::from_sys_fs().map_err(|error| text(&error))?;
    for (name, function) in LSM {
        match program(object, name).map_err(|error| error.to_string())? {
            Program::Lsm(program) => {
                program.load(function, &btf).map_err(|error| text(&error))?;
            }
            _ => return Err(absent(name).to_string()),
        }
    }
    for (name, _) in LSM {
        let program = program_fd(object, name).map_err(|error| error.to_string())?;
        if let Err(error) = link(program, Target::Whole, LSM_MAC, &pin_dir.join(name)) {
            // All of them or none: half a layer would be reported as a whole one.
            remove_lsm(pin_dir);
            return Err(format!("attaching {name}: {error}"));
        }
    }
    Ok(())
}

/// Removes the security hooks, if there are any.
pub(super) fn remove_lsm(pin_dir: &Path) {
    for (name, _) in LSM {
        // Missing is what was wanted.
        drop(std::fs::remove_file(pin_dir.join(name)));
    }
}

/// Removes the packet filters from all devices.
pub(super) fn remove_devices(pin_dir: &Path) {
    for entry in std::fs::read_dir(pin_dir).into_iter().flatten().flatten() {
        if is_device_pin(&entry.file_name().to_string_lossy()) {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

/// Asked for beforehand, because the attach itself would succeed: the hooks would never run.
fn has_lsm() -> Result<bool, String> {
    // securityfs is not mounted everywhere, the system call is not in every kernel.
    match std::fs::read_to_string(LSM_LIST) {
        Ok(list) => Ok(list.trim().split(',').any(|name| name == "bpf")),
        Err(error) => {
            syscall::has_bpf_lsm().map_err(|_also| format!("reading {LSM_LIST}: {error}"))
        }
    }
}

/// Attaches the packet filter to network devices of this namespace.
pub(super) fn attach_devices(
    object: &mut Ebpf,
    devices: &[String],
    pin_dir: &Path,
) -> Result<(), String> {
    let devices = found_devices(devices)?;
    match program(object, TCX).map_err(|error| error.to_string())? {
        Program::SchedClassifier(program) => {
            program.load().map_err(|error| bpf(String::new(), &error).detail())?;
        }
        _ => return Err(absent(TCX).to_string()),
    }
    for (name, index) in devices {
        let program = program_fd(object, TCX).map_err(|error| error.to_string())?;
        // The number, because bpffs takes no dots.
        link(program, Target::Device(index), TCX_EGRESS, &pin_dir.join(format!("{TCX}-{index}")))
            .map_err(|error| format!("attaching to {name}: {error}"))?;
    }
    Ok(())
}

/// Whether a pin belongs to a packet filter.
pub(super) fn is_device_pin(name: &str) -> bool {
    name.strip_prefix(TCX).is_some_and(|rest| rest.starts_with('-'))
}

/// Names and indexes; `*` stands for every device but loopback.
fn found_devices(wanted: &[String]) -> Result<Vec<(String, u32)>, String> {
    if wanted.is_empty() {
        return Err("no devices are configured".into());
    }
    let all = nix::net::if_::if_nameindex().map_err(|error| format!("listing devices: {error}"))?;
    let all: Vec<(String, u32)> = all
        .iter()
        .map(|device| (device.name().to_string_lossy().into_owned(), device.index()))
        .filter(|(_, index)| *index != 1)
        .take(MAX_DEVICES + 1)
        .collect();
    if all.len() > MAX_DEVICES {
        return Err(format!("more than {MAX_DEVICES} network devices"));
    }
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| wanted.iter().any(|one| one == "*" || one == name))
        .collect();
    let missing =
        wanted.iter().find(|one| *one != "*" && !chosen.iter().any(|(name, _)| name == *one));
    if let Some(name) = missing {
        return Err(format!("no network device {name}"));
    }
    if chosen.is_empty() {
        return Err("this namespace has no network device beside lo".into());
    }
    Ok(chosen)
}

fn link(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: u32,
    pin: &Path,
) -> std::io::Result<()> {
    if pin.symlink_metadata().is_ok() {
        return syscall::link_update(syscall::open(pin)?.as_fd(), program);
    }
    let link = syscall::link_create(program, target, attach_type)?;
    syscall::pin(link.as_fd(), pin)
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, CaptureError> {
    object.program_mut(name).ok_or_else(|| absent(name))
}

fn program_fd<'a>(object: &'a mut Ebpf, name: &str) -> Result<BorrowedFd<'a>, CaptureError> {
    let fd = program(object, name)?.fd();
    fd.map(|fd| fd.as_fd()).map_err(|error| bpf(format!("finding {name}"), &error))
}

pub(super) fn absent(name: &str) -> CaptureError {
    CaptureError::Bpf {
        action: format!("finding {name}"),
        detail: "the BPF object does not contain it".into(),
    }
}
