//! `weir oci-runtime ARGS…`: captures the containers that the real OCI runtime makes.
//!
//! - input: the command line of an OCI runtime
//! - output: the real runtime's own; this process becomes it
//! - bound: see `oci`
//! - on failure: `create` and `run` fail, with the reason in the runtime's log too; a container whose
//!   network could not be registered starts, and the kernel refuses its connections

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CliError, Context, trust};
use crate::capture::pins::Status;
use crate::capture::{loader, netns};
use crate::config::Config;
use crate::oci::args::{self, Call};
use crate::oci::spec::{Changes, ProcessChanges};
use crate::oci::{OciError, place, spec};

/// The name that a link to `weir` has where a container engine takes a path and no arguments.
pub const ALIAS: &str = "weir-runc";

/// Arguments of `weir oci-runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command line of runc or crun.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// Called by another name, `weir-runc ARGS…` is `weir oci-runtime ARGS…`.
pub fn with_alias(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let name = args.first().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == ALIAS) {
        args.insert(1, "oci-runtime".into());
    }
    args
}

/// Does weir's part, and becomes the real runtime.
///
/// # Errors
/// When the container must not be made as asked for, or the runtime cannot be started.
pub fn run(args: &Args, context: &Context) -> Result<Infallible, CliError> {
    let config = context.config()?;
    let call = args::parse(&args.args).map_err(failed)?;
    let runtime = real_runtime(&config)?;
    prepare(&call, &config, &runtime).inspect_err(|error| tell(&call, &error.to_string()))?;
    let error = Command::new(&runtime).args(&args.args).exec();
    Err(CliError::Failed(format!("starting {}: {error}", runtime.display())))
}

fn prepare(call: &Call, config: &Config, runtime: &Path) -> Result<(), CliError> {
    match call.command.as_deref() {
        Some("create" | "run") => create(call, config),
        Some("start") => {
            // It starts all the same: without a registration the kernel refuses its connections.
            if let Err(error) = register(call, config, runtime) {
                tell(call, &error.to_string());
                tracing::error!(%error, "connections of this container are refused");
            }
            Ok(())
        }
        Some("exec") => exec(call, config),
        Some("restore") => Err(failed(OciError::Uncaptured(
            "a container from a checkpoint has connections that were not captured: not supported"
                .into(),
        ))),
        _ => Ok(()),
    }
}

/// Edits the bundle's specification.
fn create(call: &Call, config: &Config) -> Result<(), CliError> {
    let id = call.id.as_deref().ok_or(OciError::NoContainer).map_err(failed)?;
    let Status::Attached(_) = loader::status(&config.capture.pin_dir)? else {
        return Err(CliError::Failed(
            "weir is not attached: containers are not made uncaptured".into(),
        ));
    };
    let dir = call.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let path = dir.join("config.json");
    let mut spec = spec::read(&path).map_err(failed)?;
    let given = spec.get("linux").and_then(|linux| linux.get("cgroupsPath"));
    let given = given.and_then(serde_json::Value::as_str);
    let cgroups_path =
        place::cgroups_path(&config.capture.cgroup, given, call.systemd, id).map_err(failed)?;
    let bundle = trust::bundle_path(&config.tls.ca_dir);
    if !bundle.is_file() {
        let text = format!("no CA at {}: start the gateway first", bundle.display());
        return Err(CliError::Failed(text));
    }
    let root = spec.get("root").and_then(|root| root.get("path"));
    let root = dir.join(root.and_then(serde_json::Value::as_str).unwrap_or("rootfs"));
    let ca = config.tls.ca_dir.join("ca.pem");
    let system = config.containers.system_bundle;
    let changes = Changes {
        cgroups_path,
        mounts: crate::oci::trust::mounts(&bundle, &ca, &root, system),
        process: process_changes(config),
    };
    let malformed = |what| failed(OciError::Malformed { path: path.clone(), what });
    spec::edit(&mut spec, &changes).map_err(malformed)?;
    spec::write(&path, &spec).map_err(failed)
}

/// Registers the network namespace of a container that was made and not started: its devices are
/// there now, and no process of the user's yet. It is not removed when the container is deleted,
/// because others may share it; the next registration removes those that are gone.
fn register(call: &Call, config: &Config, runtime: &Path) -> Result<(), CliError> {
    let id = call.id.as_deref().ok_or(OciError::NoContainer).map_err(failed)?;
    let pid = pid_of(call, runtime, id)?;
    let path = format!("/proc/{pid}/ns/net");
    let netns = std::fs::File::open(&path)
        .map_err(|error| CliError::Failed(format!("opening {path}: {error}")))?;
    let own = std::fs::metadata("/proc/self/ns/net")?;
    let there = netns.metadata()?;
    if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
        // The host's: captured as its cgroup is.
        return Ok(());
    }
    netns::register_bridged(&config.capture.pin_dir, netns.as_fd())
        .map(drop)
        .map_err(|error| CliError::Failed(format!("registering the network of {id}: {error}")))
}

/// The first process of a container, from the runtime's `state` (OCI runtime specification).
fn pid_of(call: &Call, runtime: &Path, id: &str) -> Result<u32, CliError> {
    let output = Command::new(runtime).args(&call.global).args(["state", id]).output()?;
    let state: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let pid = state.as_ref().and_then(|state| state.get("pid")?.as_u64());
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    pid.ok_or_else(|| CliError::Failed(format!("the runtime names no process of {id}: {said}")))
}

/// Edits the process that `exec` starts: its environment is not that of the container's first one.
fn exec(call: &Call, config: &Config) -> Result<(), CliError> {
    let Some(path) = &call.process else {
        // Given on the command line, by somebody at a terminal of this host.
        return Ok(());
    };
    let mut process = spec::read(path).map_err(failed)?;
    let malformed = |what| failed(OciError::Malformed { path: path.clone(), what });
    spec::edit_process(&mut process, &process_changes(config)).map_err(malformed)?;
    spec::write(path, &process).map_err(failed)
}

fn process_changes(config: &Config) -> ProcessChanges {
    let dir = Path::new(crate::oci::trust::DIR);
    let variables = trust::variables_of(&dir.join("bundle.pem"), &dir.join("ca.pem"));
    ProcessChanges {
        variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        without_net_raw: !config.containers.net_raw,
    }
}

/// The configured runtime, or the first `runc` where runtimes are.
fn real_runtime(config: &Config) -> Result<PathBuf, CliError> {
    if let Some(path) = &config.containers.runtime {
        return Ok(path.clone());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    let mut found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join("runc"));
    let text = "no runc in PATH: set containers.runtime";
    found.find(|path| path.is_file()).ok_or_else(|| CliError::Failed(text.into()))
}

/// Appends to the runtime's log as runc would: containerd shows its last error to the user.
fn tell(call: &Call, what: &str) {
    let Some(path) = &call.log else { return };
    let line = serde_json::json!({ "level": "error", "msg": format!("weir: {what}") });
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let written = file
        .and_then(|mut file| std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "writing the runtime's log");
    }
}

fn failed(error: OciError) -> CliError {
    CliError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_is_the_command() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let aliased = with_alias(words("/usr/bin/weir-runc --root /r create x").into_iter());
        assert_eq!(aliased, words("/usr/bin/weir-runc oci-runtime --root /r create x"));
        let plain = words("weir up");
        assert_eq!(with_alias(plain.clone().into_iter()), plain);
    }

    #[test]
    fn the_runtimes_own_options_are_not_weirs() {
        use clap::Parser as _;
        for line in ["--root /r --version", "--version", "--help", "--debug create --bundle b x"] {
            let words = format!("weir oci-runtime {line}");
            let cli = super::super::Cli::try_parse_from(words.split(' ')).expect(line);
            let super::super::Command::OciRuntime(args) = cli.command else { panic!("{line}") };
            let expected: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(args.args, expected);
        }
    }
}
