//! Names for a process, from procfs and the user database.
//!
//! - input: the kernel's identifiers of a process
//! - output: executable path, user name, boot id, secrets of the environment
//! - bound: a handful of small reads
//! - on failure: an error, or a name that says less; the caller keeps the identifiers

use std::fs::File;
use std::io::{ErrorKind, Read as _, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use uuid::Uuid;
use weir_inspect::environment;
use zeroize::Zeroizing;

use crate::capture::session::Login;
use crate::capture::{CgroupId, Process, ProcessKey, anchors, cgroup};
use crate::limits::MAX_ENVIRONMENT_BYTES;

/// Fits into an answer of the guard.
const MAX_SECRETS_BYTES: usize = 24 * 1024;

/// Path of the executable, only if procfs still shows the same device and inode that the hook
/// saw. A reused pid or an `execve` since then has another inode and answers `None`.
///
/// # Errors
/// `PermissionDenied` for a process of another user, without privilege; `NotFound` otherwise.
pub fn exe_path(process: &Process) -> Result<String> {
    let link = format!("/proc/{}/exe", process.key.tgid);
    let path = std::fs::read_link(&link)?;
    let meta = std::fs::metadata(&link)?;
    // The kernel's own dev_t has a 20-bit minor; stat(2) uses another layout.
    let dev = (libc::major(meta.dev()) << 20) | libc::minor(meta.dev());
    let same = dev == process.exe.dev && meta.ino() == process.exe.ino;
    same.then(|| path.to_string_lossy().into_owned()).ok_or(ErrorKind::NotFound.into())
}

/// What looks like a secret in the environment of a process, as procfs writes it: names and values with a
/// zero byte after each, at most [`MAX_SECRETS_BYTES`].
///
/// # Errors
/// `PermissionDenied` for a process of another user, without privilege; `NotFound` for one that ended or
/// has executed another file.
pub fn secrets(process: &Process) -> Result<Zeroizing<Vec<u8>>> {
    let mut all = Zeroizing::new(Vec::with_capacity(8192));
    let file = File::open(format!("/proc/{}/environ", process.key.tgid))?;
    file.take(MAX_ENVIRONMENT_BYTES as u64).read_to_end(&mut all)?;
    // After it was read: until here the number was this process's.
    exe_path(process)?;
    if !anchors::is_alive(process.key) {
        return Err(ErrorKind::NotFound.into());
    }
    let mut out = Zeroizing::new(Vec::new());
    for (name, value) in environment::secrets(&all) {
        if out.len() + name.len() + value.len() + 2 <= MAX_SECRETS_BYTES {
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(0);
        }
    }
    Ok(out)
}

/// The same of a process below this cgroup, a path relative to the cgroup2 mount; of others nothing.
pub fn captured_secrets(process: &Process, captured: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", process.key.tgid)).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Read afterwards: `secrets` sees to it that it is still the same process.
    Path::new(path).starts_with(captured).then(|| secrets(process).ok()).flatten()
}

/// Path of the cgroup that a process is in below the cgroup2 mount, only if it is the one with this
/// id: the process may have ended, or moved on.
pub fn cgroup_path(process: ProcessKey, id: CgroupId) -> Option<String> {
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", process.tgid)).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let dir = cgroup::mount().ok()?.join(path.trim_start_matches('/'));
    cgroup::id(&dir).is_ok_and(|found| found == id).then(|| path.to_owned())
}

/// The login session of a process, by the audit system or else by its cgroup's path; `None` where it
/// has none, and where another process has its number now.
pub fn login(process: ProcessKey, cgroup: &str) -> Option<Login> {
    // Kernels without audit have no such files: then the cgroup tells.
    let read = |name| {
        std::fs::read_to_string(format!("/proc/{}/{name}", process.tgid)).unwrap_or_default()
    };
    let (session, uid) = (read("sessionid"), read("loginuid"));
    // After it was read: until here the number was this process's.
    anchors::is_alive(process).then(|| Login::of(&session, &uid, cgroup)).flatten()
}

/// `user:NAME` from the user database, else `uid:N`.
pub fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user:{}", user.name),
        Ok(None) | Err(_) => format!("uid:{uid}"),
    }
}

/// The kernel's boot id; nil where procfs does not tell.
pub fn kernel_boot_id() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Uuid::parse_str(text.trim()).unwrap_or_default()
}
