//! Descriptors across `exec`: sd_listen_fds(3), both sides.
//!
//! - input: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`
//! - output: [`Handed`]; or the same variables for the next program of this process
//! - bound: what the caller has
//! - on failure: an error; a name of another program is closed and told
#![expect(unsafe_code, reason = "descriptors that an earlier program left are plain numbers")]

use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::app::handed::{Handed, Name};

/// The first descriptor of the protocol.
const FIRST: i32 = 3;

/// Takes what was handed to this process; nothing the second time.
///
/// # Errors
/// When the variables make no sense.
pub(super) fn inherited() -> Result<Handed> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut handed = Handed::default();
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(handed);
    }
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: whoever executed this program left the descriptor open for it and says so under
        // our own process id; nothing here has used it, and `TAKEN` lets it be taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        match Name::parse(&name) {
            Some(name) => handed.push(name, fd),
            None => tracing::warn!(name, "a descriptor with this name is not ours"),
        }
    }
    Ok(handed)
}

/// The same, and closes everything else that an earlier program left open (Linux 5.9).
///
/// Call it before anything is opened.
///
/// # Errors
/// When the variables make no sense; as of `close_range(2)`.
pub(super) fn inherited_alone() -> Result<Handed> {
    let handed = inherited()?;
    let ours = handed.iter().map(|(_, fd)| fd.as_raw_fd()).max().unwrap_or(FIRST - 1);
    let (first, last) = (ours + 1, u32::MAX);
    // SAFETY: nothing of this process has opened a descriptor yet, so that nothing owns those that
    // are closed: they are strangers of the program before.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(handed),
        _ => Err(Error::last_os_error()),
    }
}

/// Leaves descriptors to the next program of this process, and names them in variables for it.
/// Everything else that is open must close on exec.
///
/// # Errors
/// Out of descriptors, or the places that the protocol wants are taken.
pub(super) fn leave(handed: Handed) -> Result<[(&'static str, String); 3]> {
    let count = i32::try_from(handed.iter().count()).map_err(Error::other)?;
    // Out of the way first: the places from three on may be used by the very same descriptors.
    let mut away = Vec::new();
    for (name, fd) in handed.iter() {
        let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count))?;
        // SAFETY: the kernel just made this descriptor and nobody else knows it.
        away.push((name, unsafe { OwnedFd::from_raw_fd(number) }));
    }
    drop(handed);
    let mut names = Vec::new();
    for (place, (name, fd)) in (FIRST..).zip(&away) {
        if fcntl(fd, FcntlArg::F_DUPFD(place))? != place {
            return Err(Error::other(format!("descriptor {place} is in use")));
        }
        names.push(name.as_str());
    }
    Ok([
        ("LISTEN_PID", std::process::id().to_string()),
        ("LISTEN_FDS", count.to_string()),
        ("LISTEN_FDNAMES", names.join(":")),
    ])
}
