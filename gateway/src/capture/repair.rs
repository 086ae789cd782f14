//! Finds what became of an attached capture since it was attached, and puts it right.
//!
//! - input: the [`AttachSpec`] that it was attached with; pins, cgroups, devices, the nft table
//! - output: [`Finding`]s; [`Repaired`], and an entry of the [`journal`] for each
//! - bound: the programs' links, 128 devices, one run of nft for each look
//! - on failure: [`CaptureError`] when it cannot be looked at; a finding that could not be put
//!   right carries the reason and is found again
//!
//! Needs what `attach` needs. Maps stay in place, so that a running gateway goes on with them.

use std::fmt;
use std::os::fd::AsFd as _;
use std::path::Path;

use weir_ebpf_common::ABI_VERSION;

use super::loader::{self, AttachSpec, MAPS};
use super::programs::NoFilter;
use super::syscall::LinkInfo;
use super::{CaptureError, cgroup, layers, maps, nft, pins, programs, settings, sockets, syscall};
use crate::clock::{Clock as _, SystemClock, WallUs};

pub mod journal;
pub mod look;
mod watch;

pub use watch::{Report, watch};

const PROGRAMS: &str = "programs";
/// The note of why the kernel takes no packet filters.
const NO_FILTERS: &str = "no-filters";

/// One thing that is not as it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There are no pins.
    Detached,
    /// An attach did not come to its end.
    Incomplete,
    /// A cgroup was removed and perhaps made again: nothing is attached to the new one.
    Cgroup(&'static str),
    /// A pinned link or map is gone.
    PinGone(&'static str),
    /// A link hangs on nothing any more.
    LinkDetached(&'static str),
    /// A link runs a program that was not attached by us.
    ProgramReplaced(&'static str),
    /// A map does not say what it was told.
    MapChanged(&'static str),
    /// A device without a packet filter.
    Device(String),
    /// A device that is gone left its pin.
    DeviceGone(u32),
    /// The nft table, and what is wrong with it.
    Table(String),
}

impl Finding {
    /// The layer that does not work, one of [`layers::NAMES`].
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Detached | Self::Incomplete | Self::Cgroup(_) => layers::REDIRECT,
            Self::PinGone(name) | Self::LinkDetached(name) | Self::ProgramReplaced(name) => {
                let of = |layer: &&&str| programs::pins_of(layer).contains(name);
                layers::NAMES.iter().find(of).copied().unwrap_or(layers::REDIRECT)
            }
            Self::MapChanged(_) => layers::EGRESS,
            Self::Device(_) | Self::DeviceGone(_) => layers::DEVICES,
            Self::Table(_) => layers::NFTABLES,
        }
    }

    /// Whether something could leave because of it, and not only stay behind.
    pub fn opens(&self) -> bool {
        !matches!(self, Self::DeviceGone(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detached => write!(f, "nothing was attached"),
            Self::Incomplete => write!(f, "an attach did not finish"),
            Self::Cgroup(side) => write!(f, "the {side} cgroup was removed or made again"),
            Self::PinGone(name) => write!(f, "the pin {name} was gone"),
            Self::LinkDetached(name) => write!(f, "the link {name} was detached"),
            Self::ProgramReplaced(name) => write!(f, "the link {name} ran another program"),
            Self::MapChanged(name) => write!(f, "the map {name} was changed"),
            Self::Device(name) => write!(f, "device {name} had no filter"),
            Self::DeviceGone(index) => write!(f, "device {index} is gone"),
            Self::Table(reason) => write!(f, "{reason}"),
        }
    }
}

/// What was done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was found.
    pub finding: Finding,
    /// Whether it is right now, or why not.
    pub result: Result<(), String>,
}

/// Looks; changes nothing.
///
/// # Errors
/// [`CaptureError::AlreadyAttached`] when another capture has these pins,
/// [`CaptureError::AbiVersion`] when another version of weir made them, others when something
/// cannot be read.
pub fn check(spec: &AttachSpec) -> Result<Vec<Finding>, CaptureError> {
    let pin_dir = &spec.pin_dir;
    if std::fs::read_dir(pin_dir).map_or(true, |mut listed| listed.next().is_none()) {
        return Ok(vec![Finding::Detached]);
    }
    let Some(version) = pins::noted(pin_dir, "complete") else {
        return Ok(vec![Finding::Incomplete]);
    };
    if version != ABI_VERSION.to_string() {
        let found = version.parse().unwrap_or(0);
        return Err(CaptureError::AbiVersion { found, wanted: ABI_VERSION });
    }
    let is = |name: &str, wanted: &str| pins::noted(pin_dir, name).as_deref() == Some(wanted);
    if !is("captured", &spec.captured.to_string_lossy())
        || !is("gateway", &spec.gateway.to_string_lossy())
        || !is("gateway-port", &spec.gateway_port.to_string())
    {
        return Err(CaptureError::AlreadyAttached(pin_dir.clone()));
    }
    let mut found = Vec::new();
    for (side, dir, id) in
        [("captured", &spec.captured, "captured-id"), ("gateway", &spec.gateway, "gateway-id")]
    {
        if !cgroup::id(dir).is_ok_and(|now| is(id, &now.0.to_string())) {
            found.push(Finding::Cgroup(side));
        }
    }
    links(spec, &mut found)?;
    changed_maps(spec, &mut found)?;
    devices(spec, &mut found)?;
    if spec.without_nftables().is_none() && nft::was_loaded(pin_dir) {
        found.extend(nft::health(pin_dir).err().map(Finding::Table));
    }
    Ok(found)
}

/// Looks, puts right what it can, and notes it. `last_ok` is when everything was last seen right.
///
/// # Errors
/// See [`check`]; and [`CaptureError::Io`] when it cannot be noted.
pub fn repair(spec: &AttachSpec, last_ok: Option<WallUs>) -> Result<Vec<Repaired>, CaptureError> {
    let _turn = pins::own_turn(&spec.pin_dir)?;
    let done = mend(spec, check(spec)?, last_ok, &[])?;
    note_checked(spec)?;
    Ok(done)
}

/// Puts findings right. Those in `told` are not noted once more if that fails.
fn mend(
    spec: &AttachSpec,
    findings: Vec<Finding>,
    last_ok: Option<WallUs>,
    told: &[Finding],
) -> Result<Vec<Repaired>, CaptureError> {
    if findings.is_empty() {
        return Ok(Vec::new());
    }
    let pin_dir = &spec.pin_dir;
    let found_at = SystemClock.wall();
    // A whole attach removes what is in the directory.
    let before = journal::read(pin_dir);
    let failed = act(spec, &findings).err();
    let still = check(spec).unwrap_or_else(|_unreadable| findings.clone());
    let done: Vec<Repaired> = findings
        .into_iter()
        .map(|finding| {
            let result = match (&failed, still.contains(&finding)) {
                // It is not looked for any more, which is no repair.
                (_, false) if matches!(finding, Finding::Device(_)) => {
                    pins::noted(pin_dir, NO_FILTERS).map_or(Ok(()), Err)
                }
                (_, false) => Ok(()),
                (Some(reason), true) => Err(reason.clone()),
                (None, true) => Err("it is as it was".into()),
            };
            Repaired { finding, result }
        })
        .collect();
    let entries = done
        .iter()
        .filter(|one| one.result.is_ok() || !told.contains(&one.finding))
        .map(|one| journal::Entry {
            count: 0,
            last_ok,
            found: found_at,
            done: SystemClock.wall(),
            layer: one.finding.layer().into(),
            repaired: one.result.is_ok(),
            opened: one.finding.opens(),
            detail: match &one.result {
                Ok(()) => one.finding.to_string(),
                Err(reason) => format!("{}; not repaired: {reason}", one.finding),
            },
        })
        .collect();
    journal::append(pin_dir, before, entries)?;
    Ok(done)
}

fn act(spec: &AttachSpec, findings: &[Finding]) -> Result<(), String> {
    let text = |error: CaptureError| error.to_string();
    let any = |wanted: fn(&Finding) -> bool| findings.iter().any(wanted);
    if any(|one| matches!(one, Finding::Detached | Finding::Incomplete)) {
        return loader::attach(spec).map(drop).map_err(text);
    }
    let alone = |one: &Finding| {
        matches!(one, Finding::Device(_) | Finding::DeviceGone(_) | Finding::Table(_))
    };
    remove_dead_devices(&spec.pin_dir, findings);
    if !findings.iter().all(alone) {
        loader::in_place(spec).map_err(text)?;
        if any(|one| matches!(one, Finding::Cgroup("captured") | Finding::LinkDetached(_))) {
            // What they opened meanwhile goes around the gateway. A failure leaves it mute.
            let aborted = sockets::abort(&cgroup::ids_below(&spec.captured));
            tracing::info!(?aborted, "ended connections from before the repair");
        }
        return Ok(());
    }
    let mut result = Ok(());
    if any(|one| matches!(one, Finding::Device(_) | Finding::DeviceGone(_))) {
        result = loader::devices_in_place(spec).map_err(text)?;
    }
    if any(|one| matches!(one, Finding::Table(_))) {
        loader::table_in_place(spec).map_err(text)??;
    }
    result
}

fn remove_dead_devices(pin_dir: &Path, findings: &[Finding]) {
    for finding in findings {
        if let Finding::DeviceGone(index) = finding {
            // What cannot be removed is found again.
            drop(std::fs::remove_file(pin_dir.join(programs::device_pin(*index))));
        }
    }
}

fn info(pin: &Path) -> std::io::Result<LinkInfo> {
    syscall::link_info(syscall::open(pin)?.as_fd())
}

fn links(spec: &AttachSpec, found: &mut Vec<Finding>) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    let noted = pins::noted(pin_dir, PROGRAMS).unwrap_or_default();
    let program = |name: &str| noted_program(&noted, name);
    for (name, is_captured) in programs::hook_pins() {
        let pin = pin_dir.join(name);
        if pin.symlink_metadata().is_err() {
            found.push(Finding::PinGone(name));
            continue;
        }
        let info = info(&pin).map_err(|source| io(&pin, source))?;
        let side = if is_captured { "captured" } else { "gateway" };
        let id = pins::noted(pin_dir, &format!("{side}-id"));
        if found.contains(&Finding::Cgroup(side)) {
            // All of them hang on the one that is gone.
        } else if id != Some(info.target.to_string()) {
            found.push(Finding::LinkDetached(name));
        } else if program(name) != Some(info.program_id) {
            found.push(Finding::ProgramReplaced(name));
        }
    }
    if spec.lsm && layers::missing_reason(pin_dir, layers::LSM).is_none() {
        for name in programs::pins_of(layers::LSM) {
            match info(&pin_dir.join(name)) {
                Err(_gone) => found.push(Finding::PinGone(name)),
                Ok(info) if program(name) != Some(info.program_id) => {
                    found.push(Finding::ProgramReplaced(name));
                }
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

fn changed_maps(spec: &AttachSpec, found: &mut Vec<Finding>) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    let gone = MAPS.into_iter().filter(|name| pin_dir.join(name).symlink_metadata().is_err());
    let gone: Vec<Finding> = gone.map(Finding::PinGone).collect();
    if !gone.is_empty() {
        found.extend(gone);
        return Ok(());
    }
    // With another cgroup it is written again in any case.
    if !found.contains(&Finding::Cgroup("captured")) {
        let captured = cgroup::id(&spec.captured)?;
        if maps::config(pin_dir).ok() != Some(settings::config(spec, captured)?) {
            found.push(Finding::MapChanged("CONFIG"));
        }
    }
    for name in settings::changed_exclusions(spec)? {
        found.push(Finding::MapChanged(name));
    }
    Ok(())
}

/// Devices that came and went since the filters were attached. Where the kernel has no such filters
/// nothing is found: that was told when it was tried.
fn devices(spec: &AttachSpec, found: &mut Vec<Finding>) -> Result<(), CaptureError> {
    let pin_dir = &spec.pin_dir;
    if pins::noted(pin_dir, NO_FILTERS).is_some() {
        return Ok(());
    }
    let present = programs::present_devices(&spec.devices)
        .map_err(|detail| CaptureError::Bpf { action: "looking at devices".into(), detail })?;
    for (name, index) in &present {
        let pin = pin_dir.join(programs::device_pin(*index));
        if !info(&pin).is_ok_and(|info| info.target == u64::from(*index)) {
            found.push(Finding::Device(name.clone()));
        }
    }
    let gone = programs::filtered_devices(pin_dir).into_iter();
    let gone = gone.filter(|index| !present.iter().any(|(_, now)| now == index));
    found.extend(gone.map(Finding::DeviceGone));
    Ok(())
}

/// Notes whether filters can be attached at all, after it was tried.
pub(super) fn note_devices(
    pin_dir: &Path,
    tried: &Result<(), NoFilter>,
) -> Result<(), CaptureError> {
    match tried {
        Err(NoFilter::Refused(reason)) if programs::filtered_devices(pin_dir).is_empty() => {
            let line = reason.lines().find(|line| !line.trim().is_empty());
            let short: String = line.unwrap_or("unknown").chars().take(500).collect();
            pins::renote(pin_dir, NO_FILTERS, short)
        }
        _ => {
            // Missing is what was wanted.
            drop(std::fs::remove_file(pin_dir.join(NO_FILTERS)));
            Ok(())
        }
    }
}

/// Notes which programs the links run.
pub(super) fn note_programs(pin_dir: &Path) -> Result<(), CaptureError> {
    let all = programs::hook_pins().map(|(name, _)| name).chain(programs::pins_of(layers::LSM));
    let text: Vec<String> = all
        .filter_map(|name| Some(format!("{name}={}", info(&pin_dir.join(name)).ok()?.program_id)))
        .collect();
    pins::renote(pin_dir, PROGRAMS, text.join(","))
}

fn noted_program(noted: &str, name: &str) -> Option<u32> {
    let of = |one: &str| one.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    noted.split(',').find_map(of)
}

/// Leaves a verdict for those who may not ask nft themselves.
fn note_checked(spec: &AttachSpec) -> Result<(), CaptureError> {
    let table = if spec.without_nftables().is_none() && nft::was_loaded(&spec.pin_dir) {
        nft::health(&spec.pin_dir)
    } else {
        Err("no rule was loaded".into())
    };
    layers::note_checked(&spec.pin_dir, SystemClock.wall(), &table)
}

fn io(path: &Path, source: std::io::Error) -> CaptureError {
    CaptureError::Io { action: format!("looking at {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_their_whole_name() {
        let noted = "weir_connect4=7,weir_connect6=8,weir_dns_connect4=9";
        assert_eq!(noted_program(noted, "weir_connect4"), Some(7));
        assert_eq!(noted_program(noted, "weir_dns_connect4"), Some(9));
        assert_eq!(noted_program(noted, "weir_connect"), None);
        assert_eq!(noted_program("", "weir_connect4"), None);
    }

    #[test]
    fn findings_name_their_layer() {
        for (finding, layer) in [
            (Finding::Cgroup("captured"), layers::REDIRECT),
            (Finding::PinGone("weir_egress"), layers::EGRESS),
            (Finding::LinkDetached("weir_bind4"), layers::SOCKET),
            (Finding::PinGone("weir_lsm_create"), layers::LSM),
            (Finding::PinGone("COUNTERS"), layers::REDIRECT),
            (Finding::Device("eth0".into()), layers::DEVICES),
            (Finding::Table("gone".into()), layers::NFTABLES),
        ] {
            assert_eq!(finding.layer(), layer, "{finding}");
        }
    }
}
