//! Who opened a flow.
//!
//! - input: the capture record
//! - output: [`Identity`]: names for the record, resolved from the kernel's identifiers
//! - bound: `limits::MAX_CACHED_PROCESSES` entries per worker; a full cache starts over
//! - on failure: names stay empty; the kernel's identifiers are always there
//!
//! Until OIDC identities arrive, an identity is the user id, and a session is one user in one
//! captured cgroup.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::capture::{CgroupId, ExeId, Process, ProcessKey, cgroup};
use crate::limits::MAX_CACHED_PROCESSES;

pub mod process;

/// Who opened a flow, ready for the record.
#[derive(Clone, Debug)]
pub struct Identity {
    /// One user in one captured cgroup of one boot.
    pub session_id: Uuid,
    /// The captured cgroup below weir's own, `host` for that one itself.
    pub job_id: Arc<str>,
    /// `host:boot:start_ns:tgid`.
    pub exec_id: Arc<str>,
    /// The user, as `user:NAME` or `uid:N`.
    pub identity: Arc<str>,
    /// Base name of the executable, or the thread name.
    pub process: Arc<str>,
    /// Path of the executable.
    pub exe: Arc<str>,
    /// Path of the cgroup below the cgroup2 mount.
    pub cgroup: Arc<str>,
}

/// A process may change its executable, cgroup and user; each is another identity.
type Key = (ProcessKey, ExeId, CgroupId, u32);

/// Resolves processes; one per worker, so that lookups take no lock.
#[derive(Debug)]
pub struct Identifier {
    host_id: Arc<str>,
    /// The kernel's boot, which start times and cgroup ids are relative to.
    kernel_boot: Uuid,
    captured_root: Option<PathBuf>,
    cgroup_prefix: String,
    known: RefCell<HashMap<Key, Rc<Identity>>>,
    cgroups: RefCell<HashMap<CgroupId, Arc<str>>>,
}

impl Identifier {
    /// `captured_root` is the captured cgroup's directory, `cgroup_prefix` its path below the
    /// cgroup2 mount; without them cgroups stay numbers.
    pub fn new(host_id: Arc<str>, captured_root: Option<PathBuf>, cgroup_prefix: String) -> Self {
        Self {
            host_id,
            kernel_boot: process::kernel_boot_id(),
            captured_root,
            cgroup_prefix,
            known: RefCell::default(),
            cgroups: RefCell::default(),
        }
    }

    /// Names a process. Reads procfs and cgroupfs once per process: memory file systems, some
    /// tens of microseconds.
    pub fn identify(&self, process: &Process) -> Rc<Identity> {
        let key = (process.key, process.exe, process.cgroup_id, process.uid);
        if let Some(known) = self.known.borrow().get(&key) {
            return Rc::clone(known);
        }
        let identity = Rc::new(self.resolve(process));
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_CACHED_PROCESSES {
            known.clear();
        }
        known.insert(key, Rc::clone(&identity));
        identity
    }

    /// `host:boot:start_ns:tgid`.
    pub fn exec_id(&self, key: ProcessKey) -> String {
        let ProcessKey { tgid, start_time_ns } = key;
        format!("{}:{}:{start_time_ns}:{tgid}", self.host_id, self.kernel_boot.simple())
    }

    fn resolve(&self, process: &Process) -> Identity {
        let exe = process::exe_path(process).unwrap_or_default();
        let base = exe.rsplit('/').next().filter(|name| !name.is_empty());
        let job_id = self.job(process.cgroup_id);
        let cgroup = match &*job_id {
            "" => String::new(),
            HOST_JOB => self.cgroup_prefix.clone(),
            job => format!("{}/{job}", self.cgroup_prefix),
        };
        Identity {
            session_id: self.session_id(process),
            exec_id: self.exec_id(process.key).into(),
            identity: process::user_name(process.uid).into(),
            process: base.unwrap_or(&process.comm).into(),
            exe: exe.as_str().into(),
            cgroup: cgroup.into(),
            job_id,
        }
    }

    /// A cgroup id names one cgroup for one boot of the kernel, and a uid one user in it.
    fn session_id(&self, process: &Process) -> Uuid {
        let name = format!("{}:{}:{}", self.host_id, process.cgroup_id.0, process.uid);
        Uuid::new_v5(&self.kernel_boot, name.as_bytes())
    }

    fn job(&self, id: CgroupId) -> Arc<str> {
        if let Some(known) = self.cgroups.borrow().get(&id) {
            return Arc::clone(known);
        }
        let found = self.captured_root.as_ref().and_then(|root| {
            let dir = cgroup::name_of(root, id)?;
            dir.strip_prefix(root).map(std::path::Path::to_owned).ok()
        });
        let name: Arc<str> = match found {
            // Not remembered: the cgroup may be gone already, or not visible yet.
            None => return Arc::from(""),
            Some(path) if path.as_os_str().is_empty() => Arc::from(HOST_JOB),
            Some(path) => path.to_string_lossy().into(),
        };
        let mut cgroups = self.cgroups.borrow_mut();
        if cgroups.len() >= MAX_CACHED_PROCESSES {
            cgroups.clear();
        }
        cgroups.insert(id, Arc::clone(&name));
        name
    }
}

/// Job of processes that sit directly in the captured cgroup.
const HOST_JOB: &str = "host";

#[cfg(test)]
mod tests {
    use super::*;

    fn identifier() -> Identifier {
        Identifier::new("h1".into(), None, "weir/captured".into())
    }

    fn process(uid: u32, cgroup: u64) -> Process {
        let key = ProcessKey { tgid: u32::MAX, start_time_ns: 7 };
        Process { key, uid, cgroup_id: CgroupId(cgroup), comm: "curl".into(), ..Process::default() }
    }

    #[test]
    fn a_gone_process_keeps_its_comm_and_identifiers() {
        let identity = identifier().identify(&process(0, 5));
        assert_eq!(&*identity.process, "curl");
        assert_eq!(&*identity.exe, "");
        assert!(identity.exec_id.starts_with("h1:") && identity.exec_id.ends_with(":7:4294967295"));
    }

    #[test]
    fn sessions_differ_by_cgroup_and_by_user() {
        let who = identifier();
        let id = |uid, cgroup| who.identify(&process(uid, cgroup)).session_id;
        assert_eq!(id(1, 5), id(1, 5));
        assert_ne!(id(1, 5), id(2, 5));
        assert_ne!(id(1, 5), id(1, 6));
    }

    #[test]
    fn the_own_process_is_named_by_its_executable() {
        use std::os::unix::fs::MetadataExt as _;
        let exe = std::fs::metadata("/proc/self/exe").expect("exe");
        let (major, minor) = (libc::major(exe.dev()), libc::minor(exe.dev()));
        let me = Process {
            key: ProcessKey { tgid: std::process::id(), start_time_ns: 0 },
            exe: ExeId { dev: (major << 20) | minor, ino: exe.ino() },
            ..Process::default()
        };
        let identity = identifier().identify(&me);
        assert!(identity.exe.starts_with('/'), "{}", identity.exe);
        assert!(identity.exe.ends_with(&*identity.process));
    }
}
