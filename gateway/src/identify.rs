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
use std::io::ErrorKind;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use self::guard::Guard;
use self::registry::SessionKey;
use self::who::Who;
use crate::capture::container::container_id;
use crate::capture::session::Login;
use crate::capture::{CgroupId, ExeId, Process, ProcessKey, cgroup};
use crate::limits::MAX_CACHED_PROCESSES;

pub mod binding;
pub mod bound;
pub mod fetch;
pub mod github_app;
pub mod guard;
pub mod jwks;
pub mod kept;
pub mod login;
mod metadata;
pub mod oidc;
mod private;
pub mod process;
pub mod registry;
pub mod source;
pub mod standing;
pub mod who;
pub mod wire;

/// Who opened a flow, ready for the record.
#[derive(Clone, Debug)]
pub struct Identity {
    /// One user in one captured cgroup of one boot.
    pub session_id: Uuid,
    /// The first level below weir's captured cgroup, `host` for that one itself. What a job makes
    /// below its own cgroup, containers for one, belongs to the job.
    pub job_id: Arc<str>,
    /// `host:boot:start_ns:tgid`.
    pub exec_id: Arc<str>,
    /// Who the process acts for.
    pub who: Arc<Who>,
    /// Base name of the executable, or the thread name.
    pub process: Arc<str>,
    /// Path of the executable.
    pub exe: Arc<str>,
    /// Path of the cgroup below the cgroup2 mount.
    pub cgroup: Arc<str>,
    /// The login that the process belongs to, where the host records logins.
    pub login: Option<Login>,
}

impl Identity {
    /// The same process, acting for somebody: jobs and logins of one user in one cgroup are sessions
    /// of their own.
    #[must_use]
    pub fn acting_for(&self, who: Arc<Who>) -> Self {
        let session_id = if who.issuer.is_empty() {
            self.session_id
        } else {
            let Who { issuer, subject, run, ci_job, .. } = &*who;
            let name = format!("{issuer}\n{subject}\n{run}\n{ci_job}");
            Uuid::new_v5(&self.session_id, name.as_bytes())
        };
        Self { who, session_id, ..self.clone() }
    }

    /// Whose the process is, if it runs in a container: the first level of its cgroup.
    pub fn container_of(&self) -> Option<&str> {
        let job = Some(&*self.job_id).filter(|job| !job.is_empty() && *job != HOST_JOB);
        job.filter(|_| container_id(&self.cgroup).is_some())
    }

    /// The login session.
    pub fn session(&self, uid: u32) -> SessionKey {
        SessionKey::of(uid, self.login.clone())
    }
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
    /// Asked about processes of other users.
    guard: Guard,
    known: RefCell<HashMap<Key, Rc<Identity>>>,
    cgroups: RefCell<HashMap<CgroupId, Arc<str>>>,
}

impl Identifier {
    /// `captured_root` is the captured cgroup's directory, `cgroup_prefix` its path below the
    /// cgroup2 mount; without them cgroups stay numbers.
    pub fn new(
        host_id: Arc<str>,
        captured_root: Option<PathBuf>,
        cgroup_prefix: String,
        guard: Guard,
    ) -> Self {
        Self {
            guard,
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
    pub async fn identify(&self, process: &Process) -> Rc<Identity> {
        let key = (process.key, process.exe, process.cgroup_id, process.uid);
        if let Some(known) = self.known.borrow().get(&key) {
            return Rc::clone(known);
        }
        let (identity, certain) = self.resolve(process).await;
        let identity = Rc::new(identity);
        if !certain {
            return identity;
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_CACHED_PROCESSES {
            known.clear();
        }
        known.insert(key, Rc::clone(&identity));
        identity
    }

    /// What looks like a secret in the environment of a process; `None` where nobody can tell.
    pub async fn secrets(&self, process: &Process) -> Option<Zeroizing<Vec<u8>>> {
        match process::secrets(process) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.guard.secrets(process).await.ok().flatten()
            }
            read => read.ok(),
        }
    }

    /// `host:boot:start_ns:tgid`.
    pub fn exec_id(&self, key: ProcessKey) -> String {
        let ProcessKey { tgid, start_time_ns } = key;
        format!("{}:{}:{start_time_ns}:{tgid}", self.host_id, self.kernel_boot.simple())
    }

    /// False when somebody who may know more did not answer: not to be remembered.
    async fn resolve(&self, process: &Process) -> (Identity, bool) {
        // First: a cgroup may go while somebody is asked.
        let below = self.below(process.cgroup_id);
        let (job_id, cgroup) = match below.as_deref() {
            None => ("", String::new()),
            Some("") => (HOST_JOB, self.cgroup_prefix.clone()),
            Some(path) => (job_of(path), format!("{}/{path}", self.cgroup_prefix)),
        };
        let exe = match process::exe_path(process) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.guard.exe_path(process).await
            }
            read => Ok(read.ok()),
        };
        let certain = exe.is_ok();
        let exe = exe.ok().flatten().unwrap_or_default();
        let base = exe.rsplit('/').next().filter(|name| !name.is_empty());
        let identity = Identity {
            session_id: self.session_id(process),
            exec_id: self.exec_id(process.key).into(),
            who: Arc::new(Who::user(&process::user_name(process.uid))),
            process: base.unwrap_or(&process.comm).into(),
            exe: exe.as_str().into(),
            login: process::login(process.key, &cgroup),
            cgroup: cgroup.into(),
            job_id: job_id.into(),
        };
        (identity, certain)
    }

    /// A cgroup id names one cgroup for one boot of the kernel, and a uid one user in it.
    fn session_id(&self, process: &Process) -> Uuid {
        let name = format!("{}:{}:{}", self.host_id, process.cgroup_id.0, process.uid);
        Uuid::new_v5(&self.kernel_boot, name.as_bytes())
    }

    /// Name of the job whose cgroup this is; empty for one that is gone or not captured.
    pub fn job(&self, id: CgroupId) -> Arc<str> {
        match self.below(id).as_deref() {
            None => Arc::from(""),
            Some("") => Arc::from(HOST_JOB),
            Some(path) => Arc::from(job_of(path)),
        }
    }

    /// A cgroup's path below the captured one; empty for that one itself. `None` is not
    /// remembered: the cgroup may be gone already, or not visible yet.
    fn below(&self, id: CgroupId) -> Option<Arc<str>> {
        if let Some(known) = self.cgroups.borrow().get(&id) {
            return Some(Arc::clone(known));
        }
        let found = self.captured_root.as_ref().and_then(|root| {
            let dir = cgroup::name_of(root, id)?;
            dir.strip_prefix(root).map(std::path::Path::to_owned).ok()
        });
        let name: Arc<str> = found?.to_string_lossy().into();
        let mut cgroups = self.cgroups.borrow_mut();
        if cgroups.len() >= MAX_CACHED_PROCESSES {
            cgroups.clear();
        }
        cgroups.insert(id, Arc::clone(&name));
        Some(name)
    }
}

/// The first level of a path below the captured cgroup.
pub fn job_of(below: &str) -> &str {
    below.split('/').next().unwrap_or(below)
}

/// Job of processes that sit directly in the captured cgroup.
pub const HOST_JOB: &str = "host";

#[cfg(test)]
mod tests {
    use super::*;

    fn identifier() -> Identifier {
        Identifier::new("h1".into(), None, "weir/captured".into(), nobody())
    }

    fn nobody() -> Guard {
        Guard::new(std::path::Path::new("/nowhere"), Arc::default())
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn process(uid: u32, cgroup: u64) -> Process {
        let key = ProcessKey { tgid: u32::MAX, start_time_ns: 7 };
        Process { key, uid, cgroup_id: CgroupId(cgroup), comm: "curl".into(), ..Process::default() }
    }

    #[test]
    fn a_gone_process_keeps_its_comm_and_identifiers() {
        let identity = now(identifier().identify(&process(0, 5)));
        assert_eq!(&*identity.process, "curl");
        assert_eq!(&*identity.exe, "");
        assert!(identity.exec_id.starts_with("h1:") && identity.exec_id.ends_with(":7:4294967295"));
    }

    #[test]
    fn sessions_differ_by_cgroup_and_by_user() {
        let who = identifier();
        let id = |uid, cgroup| now(who.identify(&process(uid, cgroup))).session_id;
        assert_eq!(id(1, 5), id(1, 5));
        assert_ne!(id(1, 5), id(2, 5));
        assert_ne!(id(1, 5), id(1, 6));
    }

    #[test]
    fn jobs_of_one_user_in_one_cgroup_are_sessions_of_their_own() {
        let process = now(identifier().identify(&process(0, 5)));
        let acting = |run: &str| {
            let who = Who { issuer: "https://i".into(), run: run.into(), ..Who::default() };
            process.acting_for(who.into()).session_id
        };
        assert_eq!(acting("1"), acting("1"));
        assert_ne!(acting("1"), acting("2"));
        assert_ne!(acting("1"), process.session_id);
        let user = process.acting_for(Who::user("user:x").into());
        assert_eq!(user.session_id, process.session_id);
    }

    #[test]
    fn what_a_job_makes_below_its_cgroup_belongs_to_it() {
        let root = tempfile::tempdir().expect("directory");
        let who = |dir: &str| {
            let dir = root.path().join(dir);
            std::fs::create_dir_all(&dir).expect("made");
            let captured = Some(root.path().to_owned());
            let identifier =
                Identifier::new("h1".into(), captured, "weir/captured".into(), nobody());
            let id = cgroup::id(&dir).expect("id");
            let identity = now(identifier.identify(&process(0, id.0)));
            format!("{} {}", identity.job_id, identity.cgroup)
        };
        assert_eq!(who(""), "host weir/captured");
        assert_eq!(who("build"), "build weir/captured/build");
        assert_eq!(who("build/0123/init"), "build weir/captured/build/0123/init");
        let gone = now(identifier().identify(&process(0, u64::MAX)));
        assert_eq!((&*gone.job_id, &*gone.cgroup), ("", ""));
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
        let identity = now(identifier().identify(&me));
        assert!(identity.exe.starts_with('/'), "{}", identity.exe);
        assert!(identity.exe.ends_with(&*identity.process));
    }
}
