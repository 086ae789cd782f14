//! Alarms: what somebody should look at, though nothing was recorded as a flow.
//!
//! - input: an [`Alarm`] from anywhere in the gateway
//! - output: rows of `alarms`, by way of the [`Desk`] in the recorder's thread
//! - bound: see [`Desk`]; the recorder's queue
//! - on failure: an alarm that finds no place in the queue is counted and told in a summary

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::flow::mapped;
use super::row::{AlarmRow, Ids};
use crate::capture::Process;
use crate::identify::Identity;
use crate::identify::who::Who;
use crate::inspect::mask::Masked;

mod desk;
mod rate;

#[cfg(test)]
mod tests;

pub(super) use desk::Desk;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Expected now and then.
    Info,
    /// Refused or repaired, but somebody tried.
    Warn,
    /// Something passed that should not have, or weir does not work.
    Error,
}

impl Severity {
    /// The recorded value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The process that an alarm is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As the kernel saw it.
    pub process: Process,
    /// Its names.
    pub identity: Identity,
    /// Its arguments.
    pub argv: Masked<Vec<String>>,
    /// `exec_id`s of its ancestors, parent first.
    pub ancestors: Vec<String>,
}

/// Where the process wanted to go, or what it wanted to bind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Address.
    pub ip: IpAddr,
    /// Port, 0 where there is none.
    pub port: u16,
    /// `tcp`, `udp`, or the number of another IP protocol.
    pub proto: Cow<'static, str>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// What it is: a stable name, `snake_case`.
    pub kind: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Whose doing it was, if it was a process's.
    pub process: Option<Box<Subject>>,
    /// Where to.
    pub destination: Option<Destination>,
    /// What happened, in words, without any payload.
    pub detail: String,
    /// How often it happened.
    pub count: u64,
    /// How long ago it happened.
    pub age: Duration,
}

impl Alarm {
    /// An alarm about weir itself, just now.
    pub fn new(kind: &'static str, severity: Severity, detail: impl Into<String>) -> Self {
        Self {
            kind,
            severity,
            process: None,
            destination: None,
            detail: detail.into(),
            count: 1,
            age: Duration::ZERO,
        }
    }

    /// The row, with masked arguments. `ts` in microseconds since the Unix epoch.
    fn into_row(self, ts: i64) -> AlarmRow {
        let none: Arc<str> = Arc::from("");
        let nobody: Arc<Who> = Arc::default();
        let destination = self.destination;
        let mut row = AlarmRow {
            ts,
            kind: self.kind,
            severity: self.severity.as_str(),
            session_id: Uuid::nil(),
            job_id: Arc::clone(&none),
            exec_id: Arc::clone(&none),
            identity: Arc::clone(&none),
            pid: 0,
            start_ns: 0,
            process: Arc::clone(&none),
            exe: Arc::clone(&none),
            exe_dev: 0,
            exe_ino: 0,
            comm: String::new(),
            argv: Vec::new(),
            ancestors: Vec::new(),
            uid: 0,
            gid: 0,
            cgroup_id: 0,
            cgroup: none,
            dst_ip: destination.as_ref().map_or(Ipv6Addr::UNSPECIFIED, |to| mapped(to.ip)),
            dst_port: destination.as_ref().map_or(0, |to| to.port),
            proto: destination.map_or_else(String::new, |to| to.proto.into_owned()),
            count: self.count,
            detail: self.detail,
            ids: Ids(Arc::clone(&nobody)),
            who: nobody,
        };
        let Some(subject) = self.process else { return row };
        let Subject { process, identity, argv, ancestors } = *subject;
        row.session_id = identity.session_id;
        row.job_id = identity.job_id;
        row.exec_id = identity.exec_id;
        row.identity = Arc::clone(&identity.who.display);
        row.pid = process.key.tgid;
        row.start_ns = process.key.start_time_ns;
        row.process = identity.process;
        row.exe = identity.exe;
        row.exe_dev = process.exe.dev;
        row.exe_ino = process.exe.ino;
        row.comm = process.comm;
        row.argv = argv.into_inner();
        row.ancestors = ancestors;
        row.uid = process.uid;
        row.gid = process.gid;
        row.cgroup_id = process.cgroup_id.0;
        row.cgroup = identity.cgroup;
        row.ids = Ids(Arc::clone(&identity.who));
        row.who = identity.who;
        row
    }
}
