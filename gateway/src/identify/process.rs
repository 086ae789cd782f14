//! Names for a process, from procfs and the user database.
//!
//! - input: the kernel's identifiers of a process
//! - output: executable path, user name, boot id
//! - bound: a handful of small reads
//! - on failure: an error, or a name that says less; the caller keeps the identifiers

use std::io::{ErrorKind, Result};
use std::os::unix::fs::MetadataExt as _;

use uuid::Uuid;

use crate::capture::session::Login;
use crate::capture::{CgroupId, Process, ProcessKey, anchors, cgroup};

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
