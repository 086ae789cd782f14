//! Who is at the other end of a connection, by the kernel and procfs.
//!
//! - input: a connected unix socket; pids
//! - output: [`Peer`], and the processes above it
//! - bound: [`MAX_ANCESTORS`] levels
//! - on failure: the operating system's answer; nobody is taken for somebody else

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt as _;

use tokio::net::UnixStream;

use crate::capture::{CgroupId, Process, ProcessKey, anchors, cgroup};
use crate::config::identity::Kind;

const MAX_ANCESTORS: usize = 64;

/// A process, and its user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Which process. The start time is that of procfs, to the clock tick below.
    pub(super) key: ProcessKey,
    /// Its user, at the time of connect(2).
    pub(super) uid: u32,
    parent: u32,
}

impl Peer {
    /// Who connected.
    pub(super) fn of(stream: &UnixStream) -> Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        // Another pid namespace than ours, above it.
        let pid = pid.ok_or_else(|| Error::new(ErrorKind::NotFound, "the caller has no number"))?;
        let (key, parent) = anchors::living(pid)?;
        Ok(Self { key, uid: credentials.uid(), parent })
    }

    /// Another process.
    pub(super) fn numbered(pid: u32) -> Result<Self> {
        let (key, parent) = anchors::living(pid)?;
        Ok(Self { key, uid: std::fs::metadata(format!("/proc/{pid}"))?.uid(), parent })
    }

    /// The first process of the job that a hook belongs to; `None` where nothing above it is the
    /// worker of such a CI system.
    pub(super) fn job(&self, kind: Kind) -> Option<u32> {
        let (mut below, mut pid) = (self.key.tgid, self.parent);
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
