//! Names for a process, from procfs and the user database.
//!
//! - input: the kernel's identifiers of a process
//! - output: executable path, user name, boot id
//! - bound: a handful of small reads
//! - on failure: `None`; the caller keeps the identifiers

use std::os::unix::fs::MetadataExt as _;

use uuid::Uuid;

use crate::capture::Process;

/// Path of the executable, only if procfs still shows the same device and inode that the hook
/// saw. A reused pid or an `execve` since then has another inode and answers `None`.
pub fn exe_path(process: &Process) -> Option<String> {
    let link = format!("/proc/{}/exe", process.key.tgid);
    let path = std::fs::read_link(&link).ok()?;
    let meta = std::fs::metadata(&link).ok()?;
    // The kernel's own dev_t has a 20-bit minor; stat(2) uses another layout.
    let dev = (libc::major(meta.dev()) << 20) | libc::minor(meta.dev());
    let same = dev == process.exe.dev && meta.ino() == process.exe.ino;
    same.then(|| path.to_string_lossy().into_owned())
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
