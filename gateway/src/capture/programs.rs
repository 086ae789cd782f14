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
use super::syscall::{self, LinkInfo, Target};
use super::{CaptureError, layers, tracing};

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
const HOOKS: [Hook; 21] = [
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
    // Before `connect` and after it in the way back: they take port 53 away from it.
    hook("weir_dns_peer4", Side::Captured, 29),
    hook("weir_dns_peer6", Side::Captured, 30),
    hook("weir_dns_recvmsg4", Side::Captured, 19),
    hook("weir_dns_recvmsg6", Side::Captured, 20),
    hook("weir_dns_sendmsg4", Side::Captured, 14),
    hook("weir_dns_sendmsg6", Side::Captured, 15),
    hook("weir_dns_connect4", Side::Captured, 10),
    hook("weir_dns_connect6", Side::Captured, 11),
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
const TRACE_RAW_TP: u32 = 23;
const TCX: &str = "weir_tcx";
const TCX_EGRESS: u32 = 47;
const LOOKUP: &str = "weir_lookup";
const SK_LOOKUP: u32 = 36;
const OWN_NETNS: &str = "/proc/thread-self/ns/net";
const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// Pins of a layer's links.
pub(super) fn pins_of(layer: &str) -> Vec<&'static str> {
    let named = |prefixes: &'static [&'static str]| {
        let wanted = move |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        HOOKS.iter().map(|hook| hook.name).filter(wanted).collect()
    };
    match layer {
        layers::REDIRECT => named(&[
            "weir_server",
            "weir_client",
            "weir_peername",
            "weir_sendmsg",
            "weir_connect",
            "weir_dns",
        ]),
        layers::EGRESS => named(&["weir_egress"]),
        layers::SOCKET => named(&["weir_create", "weir_bind", "weir_setsockopt"]),
        layers::LSM => LSM.iter().map(|(program, _)| *program).collect(),
        layers::ANCHORS => tracing::pins().collect(),
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
    // Programs of one cgroup run in the order in which they were attached. So what comes after a
    // link that had to be made anew is made anew, too.
    let (mut captured_anew, mut gateway_anew) = (false, false);
    for Hook { name, side, attach_type } in &HOOKS {
        let target = Target::Cgroup(match side {
            Side::Captured => captured.as_fd(),
            Side::Gateway => gateway.as_fd(),
        });
        let anew = match side {
            Side::Captured => &mut captured_anew,
            Side::Gateway => &mut gateway_anew,
        };
        let program = program_fd(object, name)?;
        *anew = link(program, target, *attach_type, &pin_dir.join(name), *anew)
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
        if let Err(error) = link(program, Target::Whole, LSM_MAC, &pin_dir.join(name), false) {
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

/// Attaches the look-up of what arrives by bridges to the calling thread's network namespace.
pub(super) fn attach_lookup(object: &mut Ebpf, pin_dir: &Path) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("attaching {LOOKUP}"), error);
    match program(object, LOOKUP)? {
        Program::SkLookup(program) => program.load().map_err(|error| failed(&error))?,
        _ => return Err(absent(LOOKUP)),
    }
    let netns = File::open(OWN_NETNS).map_err(|error| failed(&error))?;
    let program = program_fd(object, LOOKUP)?;
    link(program, Target::Netns(netns.as_fd()), SK_LOOKUP, &pin_dir.join(LOOKUP), false)
        .map(drop)
        .map_err(|error| failed(&error))
}

/// Removes that look-up, if there is one.
pub(super) fn remove_lookup(pin_dir: &Path) {
    // Missing is what was wanted.
    drop(std::fs::remove_file(pin_dir.join(LOOKUP)));
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

/// Attaches a tracepoint's program. Links of tracepoints cannot be updated: over an earlier one, both
/// run for a moment.
pub(super) fn attach_tracepoint(
    object: &mut Ebpf,
    (name, tracepoint): (&str, &str),
    btf: &Btf,
    pin_dir: &Path,
) -> Result<(), String> {
    match program(object, name).map_err(|error| error.to_string())? {
        Program::BtfTracePoint(program) => {
            program.load(tracepoint, btf).map_err(|error| bpf(String::new(), &error).detail())?;
        }
        _ => return Err(absent(name).to_string()),
    }
    let program = program_fd(object, name).map_err(|error| error.to_string())?;
    let pin = pin_dir.join(name);
    let attached = syscall::link_create(program, Target::Whole, TRACE_RAW_TP).and_then(|link| {
        // Missing is what is wanted.
        drop(std::fs::remove_file(&pin));
        syscall::pin(link.as_fd(), &pin)
    });
    attached.map_err(|error| format!("attaching {name}: {error}"))
}

/// Why the packet filters are not all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoFilter {
    /// Devices are missing, or too many: that may change.
    Devices(String),
    /// The kernel takes none.
    Refused(String),
}

impl NoFilter {
    /// In words.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Devices(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// Attaches the packet filter to those of the wanted devices that there are in this namespace.
pub(super) fn attach_devices(
    object: &mut Ebpf,
    wanted: &[String],
    pin_dir: &Path,
) -> Result<(), NoFilter> {
    let refused = |error: CaptureError| NoFilter::Refused(error.detail());
    if wanted.is_empty() {
        return Err(NoFilter::Devices("no devices are configured".into()));
    }
    let devices = present_devices(wanted).map_err(NoFilter::Devices)?;
    if devices.is_empty() {
        let reason = "this namespace has none of the devices, beside lo";
        return Err(NoFilter::Devices(reason.into()));
    }
    if devices.len() > MAX_DEVICES {
        return Err(NoFilter::Devices(format!("more than {MAX_DEVICES} network devices")));
    }
    match program(object, TCX).map_err(refused)? {
        Program::SchedClassifier(program) => {
            program.load().map_err(|error| refused(bpf(String::new(), &error)))?;
        }
        _ => return Err(refused(absent(TCX))),
    }
    for (name, index) in &devices {
        let program = program_fd(object, TCX).map_err(refused)?;
        // The number, because bpffs takes no dots.
        let pin = pin_dir.join(device_pin(*index));
        match link(program, Target::Device(*index), TCX_EGRESS, &pin, false) {
            Ok(_) => {}
            // It went since it was listed.
            Err(_) if nix::net::if_::if_nametoindex(name.as_str()) != Ok(*index) => {}
            Err(error) => return Err(NoFilter::Refused(format!("attaching to {name}: {error}"))),
        }
    }
    let missing =
        wanted.iter().find(|one| *one != "*" && !devices.iter().any(|(name, _)| name == *one));
    missing.map_or(Ok(()), |name| Err(NoFilter::Devices(format!("no network device {name}"))))
}

/// Devices that have a pinned filter.
pub(super) fn filtered_devices(pin_dir: &Path) -> Vec<u32> {
    let listed = std::fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let index = |name: &str| name.strip_prefix(TCX)?.strip_prefix('-')?.parse().ok();
    listed.filter_map(|entry| index(&entry.file_name().to_string_lossy())).collect()
}

/// The pin of a device's packet filter.
pub(super) fn device_pin(index: u32) -> String {
    format!("{TCX}-{index}")
}

/// Whether a pin belongs to a packet filter.
pub(super) fn is_device_pin(name: &str) -> bool {
    name.strip_prefix(TCX).is_some_and(|rest| rest.starts_with('-'))
}

/// Names and indexes of those of the wanted devices that there are now; one more than there may be at
/// most. `*` stands for every device but loopback.
pub(super) fn present_devices(wanted: &[String]) -> Result<Vec<(String, u32)>, String> {
    let all = nix::net::if_::if_nameindex().map_err(|error| format!("listing devices: {error}"))?;
    let mut chosen: Vec<(String, u32)> = all
        .iter()
        .map(|device| (device.name().to_string_lossy().into_owned(), device.index()))
        .filter(|(_, index)| *index != 1)
        .filter(|(name, _)| wanted.iter().any(|one| one == "*" || one == name))
        .take(MAX_DEVICES + 1)
        .collect();
    chosen.sort_by_key(|(_, index)| *index);
    Ok(chosen)
}

/// Puts a program into the link of a pin, or makes the link: where there is none, where it hangs on
/// something that is gone, and with `anew`. Answers whether it was made.
fn link(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: u32,
    pin: &Path,
    anew: bool,
) -> std::io::Result<bool> {
    if pin.symlink_metadata().is_err() {
        let link = syscall::link_create(program, target, attach_type)?;
        return syscall::pin(link.as_fd(), pin).map(|()| true);
    }
    let old = syscall::open(pin)?;
    if !anew && is_at(syscall::link_info(old.as_fd())?, target)? {
        return syscall::link_update(old.as_fd(), program).map(|()| false);
    }
    let fresh = pin.with_file_name("fresh-link");
    // Left by whoever ended between two steps.
    drop(std::fs::remove_file(&fresh));
    let link = syscall::link_create(program, target, attach_type)?;
    syscall::pin(link.as_fd(), &fresh)?;
    std::fs::rename(&fresh, pin)?;
    // Its last reference: from here on only the new one runs.
    drop(old);
    Ok(true)
}

fn is_at(info: LinkInfo, target: Target<'_>) -> std::io::Result<bool> {
    Ok(match target {
        Target::Cgroup(dir) | Target::Netns(dir) => {
            info.target == nix::sys::stat::fstat(dir)?.st_ino
        }
        Target::Device(index) => info.target == u64::from(index),
        Target::Whole => true,
    })
}

/// Pins of the links that capture needs, and whether they belong to the captured cgroup.
pub(super) fn hook_pins() -> impl Iterator<Item = (&'static str, bool)> {
    HOOKS.iter().map(|hook| (hook.name, hook.side == Side::Captured))
}

pub(super) fn program<'a>(
    object: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut Program, CaptureError> {
    object.program_mut(name).ok_or_else(|| absent(name))
}

pub(super) fn program_fd<'a>(
    object: &'a mut Ebpf,
    name: &str,
) -> Result<BorrowedFd<'a>, CaptureError> {
    let fd = program(object, name)?.fd();
    fd.map(|fd| fd.as_fd()).map_err(|error| bpf(format!("finding {name}"), &error))
}

pub(super) fn absent(name: &str) -> CaptureError {
    CaptureError::Bpf {
        action: format!("finding {name}"),
        detail: "the BPF object does not contain it".into(),
    }
}
