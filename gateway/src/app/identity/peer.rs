//! Who is at the other end of a connection, by the kernel and procfs.
//!
//! - input: a connected unix socket; pids
//! - output: [`Peer`], and the processes above it
//! - bound: [`MAX_ANCESTORS`] levels
//! - on failure: the operating system's answer; nobody is taken for somebody else

use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;

use tokio::net::UnixStream;

use crate::capture::{CgroupId, Process, ProcessKey, anchors, cgroup};
use crate::config::identity::Kind;

const MAX_ANCESTORS: usize = 64;

/// A process, and its user.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Which process. The start time is that of procfs, to the clock tick below.
    pub(super) key: ProcessKey,
    /// Its user, at the time of connect(2).
    pub(super) uid: u32,
    /// Names the process also when its number is another's.
    pidfd: Arc<OwnedFd>,
}

impl Peer {
    /// Who connected.
    pub(super) fn of(stream: &UnixStream) -> Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        // Another pid namespace than ours, above it.
        let pid = pid.ok_or_else(|| Error::new(ErrorKind::NotFound, "the caller has no number"))?;
        let pidfd = match getsockopt(stream, PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Before Linux 6.5: who exits between connect(2) and here can leave its number to another.
            Err(Errno::ENOPROTOOPT) => anchors::pidfd(pid)?,
            // It has exited already.
            Err(errno) => return Err(errno.into()),
        };
        Self::pinned(pid, credentials.uid(), pidfd)
    }

    /// Another process.
    pub(super) fn numbered(pid: u32) -> Result<Self> {
        let pidfd = anchors::pidfd(pid)?;
        let uid = std::fs::metadata(format!("/proc/{pid}"))?.uid();
        Self::pinned(pid, uid, pidfd)
    }

    fn pinned(pid: u32, uid: u32, pidfd: OwnedFd) -> Result<Self> {
        let (key, _parent) = anchors::living(pid)?;
        let peer = Self { key, uid, pidfd: Arc::new(pidfd) };
        // After it was read: until here the number was this process's.
        peer.lives()?;
        Ok(peer)
    }

    /// That it has not exited: what was read by its number until here was about it.
    pub(super) fn lives(&self) -> Result<()> {
        if anchors::has_exited(&self.pidfd) {
            return Err(Error::new(ErrorKind::NotFound, "the process has ended"));
        }
        Ok(())
    }

    /// The first process of the job that a hook belongs to, with its start time; `None` where nothing
    /// above it is the worker of such a CI system.
    pub(super) fn job(&self, kind: Kind) -> Option<ProcessKey> {
        let root = self.worker(kind)?;
        let key = anchors::living(root).ok()?.0;
        // A parent that exits gives its children away: still above it means still the same.
        let again = self.worker(kind).filter(|again| *again == root);
        again.filter(|_| self.lives().is_ok()).map(|_| key)
    }

    fn worker(&self, kind: Kind) -> Option<u32> {
        let (mut below, mut pid) = (self.key.tgid, anchors::living(self.key.tgid).ok()?.1);
        for _ in 0..MAX_ANCESTORS {
            if pid <= 1 {
                return None;
            }
            let is = |name: &str| comm(pid).is_some_and(|comm| comm == name);
            match kind {
                // One process for each job.
                Kind::Github if is("Runner.Worker") => return Some(pid),
                Kind::AzureDevops if is("Agent.Worker") => return Some(pid),
                // `buildkite-agent bootstrap`, below `buildkite-agent start`.
                Kind::Buildkite if is("buildkite-agent") => return Some(pid),
                // One process for all jobs: what it started is a stage of this one.
                Kind::Gitlab if is("gitlab-runner") => return Some(below),
                _ => {}
            }
            below = pid;
            pid = anchors::living(pid).ok()?.1;
        }
        None
    }

    /// Path of its cgroup from the root of the hierarchy.
    pub(super) fn cgroup(&self) -> Option<String> {
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", self.key.tgid)).ok()?;
        own.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// As the kernel would describe it, as far as procfs tells.
    pub(super) fn process(&self) -> Process {
        let path = self.cgroup().unwrap_or_default();
        let dir = cgroup::mount().ok().map(|mount| mount.join(path.trim_start_matches('/')));
        let cgroup_id = dir.and_then(|dir| cgroup::id(&dir).ok()).unwrap_or(CgroupId(0));
        let comm = comm(self.key.tgid).unwrap_or_default();
        Process { key: self.key, uid: self.uid, cgroup_id, comm, ..Process::default() }
    }
}

fn comm(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn who_connected_is_known_while_it_lives_and_nobody_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let script = "import socket,sys,os\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      os.dup2(s.fileno(), 1)\nos.set_inheritable(1, True)\n\
                      os.posix_spawn('/bin/sleep', ['sleep', '60'], os.environ)\n\
                      sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script, path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        assert_eq!(peer.key.tgid, child.id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        peer.lives().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Its child still has the connection: the number is free, and nobody is taken for its owner.
        assert!(peer.lives().is_err() && Peer::of(&stream).is_err());
    }
}
