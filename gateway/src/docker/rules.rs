//! The tables: what a captured job may ask of a container, member by member.
//!
//! - input: JSON values
//! - output: nothing, or the reason of a refusal; the containers that are referred to
//! - bound: one pass over the value
//! - on failure: the reason, for a person
//!
//! A member that a table does not have must be empty (`create`).

use serde_json::Value;

use super::create::members;
use super::{Site, binds};

/// What a member may hold.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Anything: it does not lead out of the capture.
    Any,
    /// Nothing: null, false, 0, or an empty text, list or object.
    Empty(&'static str),
    /// Null or absent. An empty list would lift a restriction.
    Null(&'static str),
    /// One of these texts, or empty.
    OneOf(&'static [&'static str], &'static str),
    /// An object, or a list of objects, with these members.
    Members(Table),
    /// Something else.
    With(fn(&mut Value, &mut Check<'_>) -> Result<(), String>),
}

pub(super) type Table = &'static [(&'static str, Rule)];

/// What the checks need, and what they find.
pub(super) struct Check<'a> {
    pub(super) site: &'a Site,
    /// Containers that are referred to; the caller must own them.
    pub(super) containers: Vec<String>,
}

use Rule::{Any, Empty, Members, Null, OneOf, With};

/// The body of `containers/create`.
pub(super) const CREATE: Table = &[
    ("ArgsEscaped", Any),
    ("AttachStderr", Any),
    ("AttachStdin", Any),
    ("AttachStdout", Any),
    ("Cmd", Any),
    ("Domainname", Any),
    ("Entrypoint", Any),
    ("Env", Any),
    ("ExposedPorts", Any),
    ("Healthcheck", Any),
    ("HostConfig", Members(HOST)),
    ("Hostname", Any),
    ("Image", Any),
    ("Labels", Any),
    ("MacAddress", Any),
    ("NetworkDisabled", Any),
    ("NetworkingConfig", Any),
    ("OnBuild", Any),
    ("OpenStdin", Any),
    ("Shell", Any),
    ("StdinOnce", Any),
    ("StopSignal", Any),
    ("StopTimeout", Any),
    ("Tty", Any),
    ("User", Any),
    ("Volumes", Any),
    ("WorkingDir", Any),
];

/// `HostConfig`. Members that are not here, and those in another letter case, must be empty.
pub(super) const HOST: Table = &[
    ("Annotations", Empty("runtimes take commands from annotations")),
    ("AutoRemove", Any),
    ("Binds", With(check_binds)),
    ("BlkioDeviceReadBps", Any),
    ("BlkioDeviceReadIOps", Any),
    ("BlkioDeviceWriteBps", Any),
    ("BlkioDeviceWriteIOps", Any),
    ("BlkioWeight", Any),
    ("BlkioWeightDevice", Any),
    ("CapAdd", With(check_capabilities)),
    ("CapDrop", Any),
    ("Cgroup", Empty("the cgroup is the job's")),
    // Replaced.
    ("CgroupParent", Any),
    ("CgroupnsMode", OneOf(&["private"], "the host's cgroups would be visible")),
    ("ConsoleSize", Any),
    ("CpuCount", Any),
    ("CpuPercent", Any),
    ("CpuPeriod", Any),
    ("CpuQuota", Any),
    ("CpuRealtimePeriod", Any),
    ("CpuRealtimeRuntime", Any),
    ("CpuShares", Any),
    ("CpusetCpus", Any),
    ("CpusetMems", Any),
    ("DeviceCgroupRules", Empty("devices of the host")),
    ("DeviceRequests", Empty("devices of the host")),
    ("Devices", Empty("devices of the host")),
    ("Dns", Any),
    ("DnsOptions", Any),
    ("DnsSearch", Any),
    ("ExtraHosts", Any),
    ("GroupAdd", Any),
    ("Init", Any),
    ("IpcMode", With(check_ipc)),
    ("Isolation", Any),
    ("KernelMemory", Any),
    ("KernelMemoryTCP", Any),
    ("Links", Any),
    ("LogConfig", Members(LOG)),
    ("MaskedPaths", Null("the host's /proc and /sys would be open")),
    ("Memory", Any),
    ("MemoryReservation", Any),
    ("MemorySwap", Any),
    ("MemorySwappiness", Any),
    ("Mounts", With(check_mounts)),
    ("NanoCpus", Any),
    ("NetworkMode", With(check_network)),
    ("OomKillDisable", Any),
    ("OomScoreAdj", Any),
    ("PidMode", With(check_pid)),
    ("PidsLimit", Any),
    ("PortBindings", Any),
    ("Privileged", Empty("a privileged container can leave the capture")),
    ("PublishAllPorts", Any),
    ("ReadonlyPaths", Null("the host's /proc and /sys would be writable")),
    ("ReadonlyRootfs", Any),
    ("RestartPolicy", Any),
    ("Runtime", Empty("another runtime would not capture")),
    ("SecurityOpt", With(check_security)),
    ("ShmSize", Any),
    ("StorageOpt", Any),
    ("Sysctls", Any),
    ("Tmpfs", Any),
    ("UTSMode", Empty("the host's name")),
    ("Ulimits", Any),
    ("UsernsMode", Empty("the users of the host")),
    ("VolumeDriver", OneOf(&["local"], "another driver may mount anything")),
    ("VolumesFrom", With(check_volumes_from)),
];

const LOG: Table = &[
    ("Config", Any),
    (
        "Type",
        OneOf(
            &["json-file", "local", "none", "journald"],
            "dockerd would send the container's output over the network, uncaptured",
        ),
    ),
];

const MOUNT: Table = &[
    ("BindOptions", Any),
    ("Consistency", Any),
    ("ReadOnly", Any),
    ("Source", Any),
    ("Target", Any),
    ("TmpfsOptions", Any),
    ("Type", OneOf(&["bind", "volume", "tmpfs", "image"], "a mount of another kind")),
    ("VolumeOptions", Members(VOLUME_OPTIONS)),
];

const VOLUME_OPTIONS: Table =
    &[("DriverConfig", Members(DRIVER)), ("Labels", Any), ("NoCopy", Any), ("Subpath", Any)];

const DRIVER: Table = &[
    ("Name", OneOf(&["local"], "another driver may mount anything")),
    ("Options", Empty("they can mount anything of the host")),
];

/// The body of `containers/ID/exec`.
pub(super) const EXEC: Table = &[
    ("AttachStderr", Any),
    ("AttachStdin", Any),
    ("AttachStdout", Any),
    ("Cmd", Any),
    ("ConsoleSize", Any),
    ("Container", Any),
    ("Detach", Any),
    ("DetachKeys", Any),
    ("Env", Any),
    ("Privileged", Empty("a privileged process can leave the capture")),
    ("Tty", Any),
    ("User", Any),
    ("WorkingDir", Any),
];

/// The body of `volumes/create`.
pub(super) const VOLUME: Table = &[
    ("Driver", OneOf(&["local"], "another driver may mount anything")),
    ("DriverOpts", Empty("they can mount anything of the host")),
    ("Labels", Any),
    ("Name", Any),
];

/// The body of `networks/create`.
pub(super) const NETWORK: Table = &[
    ("Attachable", Any),
    ("CheckDuplicate", Any),
    ("Driver", OneOf(&["bridge"], "only bridges are captured")),
    ("EnableIPv4", Any),
    ("EnableIPv6", Any),
    ("IPAM", Any),
    ("Internal", Any),
    ("Labels", Any),
    ("Name", Any),
    ("Options", Empty("they can name a bridge of the host")),
    ("Scope", OneOf(&["local"], "only local networks are captured")),
];

/// Capabilities that a captured container may be given: those that docker gives by default, without
/// `NET_RAW`, and some that reach nothing outside of it.
pub(super) const CAPABILITIES: [&str; 16] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "LEASE",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_NICE",
];

fn texts(value: &Value) -> Result<Vec<&str>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => {
            let all: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            all.ok_or_else(|| "not a list of texts".into())
        }
        _ => Err("not a list of texts".into()),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    if value.is_null() { Ok("") } else { value.as_str().ok_or_else(|| "not a text".into()) }
}

/// `source:target[:options]`; a source without a slash is a volume.
fn check_binds(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    for bind in texts(value)? {
        let Some((source, _)) = bind.split_once(':') else { continue };
        check_source(source, check.site)?;
    }
    Ok(())
}

fn check_source(source: &str, site: &Site) -> Result<(), String> {
    let volume = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if source.chars().all(volume) && !source.starts_with('.') {
        return Ok(());
    }
    binds::check(source, site).map_err(|error| error.to_string())
}

fn check_mounts(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    members(value, MOUNT, check)?;
    for mount in value.as_array().into_iter().flatten() {
        let field = |name| mount.get(name).and_then(Value::as_str).unwrap_or_default();
        // A volume's source is a name, and so is an image's.
        let exempt = matches!(field("Type"), "tmpfs" | "image");
        if !exempt {
            check_source(field("Source"), check.site)?;
        }
    }
    Ok(())
}

fn check_capabilities(value: &mut Value, _: &mut Check<'_>) -> Result<(), String> {
    for name in texts(value)? {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if !CAPABILITIES.contains(&bare) {
            return Err(format!("{name} refused: with it a container may leave the capture"));
        }
    }
    Ok(())
}

fn check_security(value: &mut Value, _: &mut Check<'_>) -> Result<(), String> {
    let harmless = ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"];
    match texts(value)?.into_iter().find(|option| !harmless.contains(option)) {
        None => Ok(()),
        Some(option) => Err(format!("{option} refused: it may lift a restriction")),
    }
}

/// A mode that is one of these, or shares with a container of the job.
fn mode(value: &Value, own: &[&str], check: &mut Check<'_>) -> Result<(), String> {
    let mode = text(value)?;
    if let Some(container) = mode.strip_prefix("container:") {
        check.containers.push(container.to_owned());
        return Ok(());
    }
    if mode.is_empty() || own.contains(&mode) {
        return Ok(());
    }
    Err(format!("{mode} refused: it shares with the host"))
}

fn check_pid(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    mode(value, &["private"], check)
}

fn check_ipc(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    mode(value, &["none", "private", "shareable"], check)
}

/// The host's network is captured as that of the job's other processes; a network whose bridge is not
/// configured is refused by the kernel, connection by connection.
fn check_network(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    if let Some(container) = text(value)?.strip_prefix("container:") {
        check.containers.push(container.to_owned());
    }
    Ok(())
}

fn check_volumes_from(value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    for from in texts(value)? {
        let name = from.split(':').next().unwrap_or_default();
        check.containers.push(name.to_owned());
    }
    Ok(())
}
