//! Who is at the other end of a unix socket: its process, and the job that it belongs to.
//!
//! - input: a connected socket; procfs
//! - output: [`Caller`]
//! - bound: one small file
//! - on failure: [`DockerError::Refused`]: who cannot be told is refused

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::{DockerError, refused};
use crate::identify::{HOST_JOB, job_of};

/// A process and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its process id.
    pub pid: u32,
    /// Its job; `None` outside of the captured cgroup.
    pub job: Option<Job>,
}

/// A job of captured processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// As in the record.
    pub name: String,
    /// `HostConfig.CgroupParent` of its containers.
    pub parent: String,
}

/// Tells who connected, or for a socket that connected, who listened.
///
/// The kernel answers for the moment of connect(2) or listen(2). A process that ended since may have
/// given its number to another one: `SO_PEERPIDFD` (Linux 6.5) rules that out. Before 6.5 the number
/// alone is what there is; a caller that ends within a moment and whose number is taken by an
/// uncaptured process in that moment passes for the latter.
///
/// # Errors
/// When the process is gone or procfs does not tell its cgroup.
pub fn of(socket: &impl AsFd, captured: &Path) -> Result<Caller, DockerError> {
    let unknown = |what: &str| refused(format!("the caller cannot be identified: {what}"));
    let credentials = getsockopt(socket, sockopt::PeerCredentials)
        .map_err(|error| unknown(&format!("SO_PEERCRED: {error}")))?;
    let pid = u32::try_from(credentials.pid()).unwrap_or(0);
    if pid == 0 {
        return Err(unknown("its process is not in our namespace"));
    }
    let held = match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(fd) => Some(fd),
        Err(Errno::ENOPROTOOPT) => None,
        Err(error) => return Err(unknown(&format!("SO_PEERPIDFD: {error}"))),
    };
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|error| unknown(&format!("process {pid}: {error}")))?;
    // Alive now, so the number was its own while we read.
    if held.is_some_and(|held| has_ended(&held)) {
        return Err(unknown(&format!("process {pid} ended")));
    }
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or_else(|| unknown("it is in no cgroup of version 2"))?;
    Ok(Caller { pid, job: job(path, captured) })
}

/// A pidfd is readable when its process has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
}

/// The job of a cgroup, given as in `/proc/PID/cgroup`.
fn job(path: &str, captured: &Path) -> Option<Job> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let root = Path::new("/").join(captured);
    let below = Path::new(path).strip_prefix(&root).ok()?.to_string_lossy().into_owned();
    let name = job_of(&below);
    let (name, parent) = if name.is_empty() { (HOST_JOB, root) } else { (name, root.join(name)) };
    Some(Job { name: name.to_owned(), parent: parent.to_string_lossy().into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_the_first_level_below_the_captured_cgroup() {
        let of = |path| job(path, Path::new("weir/captured"));
        let one = |name: &str, parent: &str| {
            Some(Job { name: name.to_owned(), parent: parent.to_owned() })
        };
        assert_eq!(of("/weir/captured/a"), one("a", "/weir/captured/a"));
        assert_eq!(of("/weir/captured/a/0123/init"), one("a", "/weir/captured/a"));
        assert_eq!(of("/weir/captured/a (deleted)"), one("a", "/weir/captured/a"));
        assert_eq!(of("/weir/captured"), one("host", "/weir/captured"));
        for outside in ["/", "/weir", "/weir/gateway", "/weir/captured2/a", "/docker/x", ""] {
            assert_eq!(of(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_connected_socket_names_this_process() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let caller = of(&one, Path::new("no/such/cgroup")).expect("identified");
        assert_eq!(caller, Caller { pid: std::process::id(), job: None });
    }

    #[test]
    fn a_caller_that_has_ended_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let status = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
        assert!(status.expect("python3").success());
        let (socket, _) = listener.accept().expect("accepted");
        let error = of(&socket, Path::new("weir/captured")).expect_err("refused").to_string();
        assert!(error.contains("cannot be identified"), "{error}");
    }
}
