//! `weir run -- CMD`: one command under capture.
//!
//! - input: a command line
//! - output: the command's own; its exit code becomes weir's
//! - bound: one cgroup per run, removed at the end
//! - on failure: the command is not started

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Context, trust};
use crate::capture::cgroup;
use crate::capture::loader;
use crate::capture::pins::Status;

/// Arguments of `weir run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the job in the record. Default: `run-` and a random id.
    #[arg(long)]
    pub job: Option<String>,
    /// User to run the command as. Default: who called weir.
    #[arg(long)]
    pub user: Option<String>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Refuses sockets that this process inherited beyond standard input, output and error: made
/// outside of the captured cgroup, they would carry the command's traffic past the hooks.
///
/// Call it before anything opens descriptors of its own.
///
/// # Errors
/// Names the descriptors.
pub fn refuse_inherited_sockets() -> Result<(), CliError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap_or_default();
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if number > 2 && target.to_string_lossy().starts_with("socket:") {
            found.push(number.to_string());
        }
    }
    found.sort();
    if found.is_empty() {
        return Ok(());
    }
    let which = found.join(", ");
    let text = format!("inherited sockets would bypass capture: close descriptors {which} first");
    Err(CliError::Failed(text))
}

/// Runs the command and answers its exit code (128 + N after signal N).
///
/// # Errors
/// When nothing is attached, or the command cannot be started.
pub async fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<u8, CliError> {
    let config = context.config()?;
    let Status::Attached(attachment) = loader::status(&config.capture.pin_dir)? else {
        return Err(CliError::Failed("weir is not attached: start it with `weir up`".into()));
    };
    let ca_dir = &config.tls.ca_dir;
    if !trust::bundle_path(ca_dir).exists() {
        let text = format!("no CA in {}: start the gateway first (`weir up`)", ca_dir.display());
        return Err(CliError::Failed(text));
    }
    let dir = attachment.captured.join(job_name(args.job.as_deref())?);
    let job = Job::create(dir)?;
    let status = spawn_and_wait(args, ca_dir, &job.dir).await;
    job.end(out)?;
    let status = status?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Arguments of `weir enter`, which becomes the command.
#[derive(Debug, clap::Args)]
pub struct EnterArgs {
    /// The job's cgroup.
    #[arg(long)]
    dir: PathBuf,
    /// User to run the command as.
    #[arg(long)]
    user: Option<String>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Joins the job's cgroup and becomes the command: not one instruction of it runs outside, and nobody
/// who is inside ever has to leave, which would be an alarm.
///
/// # Errors
/// When the cgroup cannot be joined or the command not be started.
pub fn enter(args: &EnterArgs) -> Result<Infallible, CliError> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(CliError::Failed("no command".into()));
    };
    let mut command = std::process::Command::new(program);
    command.args(rest);
    if let Some(name) = &args.user {
        let user = nix::unistd::User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| CliError::Failed(format!("no user {name:?}")))?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    cgroup::join(&args.dir, None)?;
    let error = command.exec();
    Err(CliError::Failed(format!("starting {}: {error}", program.to_string_lossy())))
}

async fn spawn_and_wait(
    args: &Args,
    ca_dir: &Path,
    dir: &Path,
) -> Result<std::process::ExitStatus, CliError> {
    // This program again, in a process that has nothing to come back to.
    let mut command = Command::new("/proc/self/exe");
    command.arg("enter").arg("--dir").arg(dir);
    if let Some(user) = &args.user {
        command.arg("--user").arg(user);
    }
    command.arg("--").args(&args.command).envs(trust::variables(ca_dir));
    // A terminal sends SIGINT to the whole group: the command decides what it means.
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let failed = |error| CliError::Failed(format!("starting a process: {error}"));
    let mut child = command.spawn().map_err(failed)?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = int.recv() => {}
            _ = term.recv() => {
                if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    // It may have ended by itself just now.
                    let term = nix::sys::signal::Signal::SIGTERM;
                    nix::sys::signal::kill(pid, term).unwrap_or_default();
                }
            }
        }
    }
}

/// A job's name is one path component.
fn job_name(given: Option<&str>) -> Result<String, CliError> {
    let Some(name) = given else {
        let id = uuid::Uuid::new_v4().simple().to_string();
        return Ok(format!("run-{}", id.get(..8).unwrap_or(&id)));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let text = format!("job name {name:?} is not 1 to 100 letters, digits, '-', '_' or '.'");
        return Err(CliError::Failed(text));
    }
    Ok(name.to_owned())
}

/// A job's cgroup, for the time of one run.
struct Job {
    dir: PathBuf,
}

impl Job {
    fn create(dir: PathBuf) -> Result<Self, CliError> {
        cgroup::create(&dir)?;
        Ok(Self { dir })
    }

    fn end(self, out: &mut dyn Write) -> Result<(), CliError> {
        if !cgroup::remove(&self.dir)? {
            writeln!(out, "weir: processes of this job still run in {}", self.dir.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_beyond_standard_error_is_refused_by_its_number() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket).to_string();
        let error = refuse_inherited_sockets().expect_err("refused").to_string();
        assert!(error.contains(&number), "{error}");
    }

    #[test]
    fn job_names_are_one_path_component() {
        assert!(job_name(None).is_ok_and(|name| name.starts_with("run-") && name.len() == 12));
        assert_eq!(job_name(Some("build-7.x")).ok().as_deref(), Some("build-7.x"));
        for bad in ["", "a/b", "..", ".hidden", "a b", "\u{e4}"] {
            assert!(job_name(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
