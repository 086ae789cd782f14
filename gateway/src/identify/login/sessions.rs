//! Whether login sessions live.
//!
//! - input: [`LoginKey`]s
//! - output: those that have ended
//! - bound: one small read a session of systemd; for others one walk over procfs of at most
//!   `limits::MAX_SCANNED_PROCESSES` processes for all of them
//! - on failure: what cannot be seen is taken to live: a login must not end because of a hidden
//!   procfs, and it still ends when its provider says so

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use uuid::Uuid;

use super::LoginKey;
use crate::capture::session::{Login, audit_id};
use crate::limits::MAX_SCANNED_PROCESSES;

/// Where sessions are looked for.
#[derive(Clone, Debug)]
pub struct Sessions {
    boot: Uuid,
    proc: PathBuf,
    cgroup: Option<PathBuf>,
}

/// What a walk over procfs found.
#[derive(Default)]
struct Seen {
    sessions: HashSet<u32>,
    users: HashSet<u32>,
}

impl Sessions {
    /// `proc` is procfs, `cgroup` the mount point of the cgroup2 hierarchy.
    pub fn new(boot: Uuid, proc: PathBuf, cgroup: Option<PathBuf>) -> Self {
        Self { boot, proc, cgroup }
    }

    /// Those of another boot, and those without a process.
    pub fn ended(&self, keys: Vec<LoginKey>) -> Vec<LoginKey> {
        let needs_walk = |key: &LoginKey| {
            key.boot == self.boot && matches!(key.login, None | Some(Login::Audit { .. }))
        };
        let seen = keys.iter().any(needs_walk).then(|| self.walk()).flatten();
        keys.into_iter().filter(|key| !self.lives(key, seen.as_ref())).collect()
    }

    fn lives(&self, key: &LoginKey, seen: Option<&Seen>) -> bool {
        if key.boot != self.boot {
            return false;
        }
        match &key.login {
            None => seen.is_none_or(|seen| seen.users.contains(&key.uid)),
            Some(Login::Audit { session, .. }) => {
                seen.is_none_or(|seen| seen.sessions.contains(session))
            }
            Some(Login::Scope { uid, session }) => {
                self.populated(&format!("user-{uid}.slice/session-{session}.scope"))
            }
            Some(Login::Manager { uid }) => {
                self.populated(&format!("user-{uid}.slice/user@{uid}.service"))
            }
        }
    }

    /// Whether a cgroup of a user has processes in it or below.
    fn populated(&self, path: &str) -> bool {
        let Some(root) = &self.cgroup else { return true };
        if !root.join("cgroup.controllers").exists() {
            return true;
        }
        match std::fs::read_to_string(root.join("user.slice").join(path).join("cgroup.events")) {
            Ok(text) => !text.lines().any(|line| line == "populated 0"),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// `None` when not everything can be seen.
    fn walk(&self) -> Option<Seen> {
        // Hidden where procfs is mounted with `hidepid`.
        if !self.proc.join("1").exists() {
            return None;
        }
        let mut seen = Seen::default();
        for (i, entry) in std::fs::read_dir(&self.proc).ok()?.enumerate() {
            if i >= MAX_SCANNED_PROCESSES {
                return None;
            }
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit())) {
                continue;
            }
            // A process that ends meanwhile is none.
            if let Ok(meta) = entry.metadata() {
                seen.users.insert(meta.uid());
            }
            let session = std::fs::read_to_string(entry.path().join("sessionid"));
            seen.sessions.extend(session.ok().as_deref().and_then(audit_id));
        }
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Host {
        root: tempfile::TempDir,
        boot: Uuid,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("proc/1")).unwrap();
            fs::create_dir_all(root.path().join("cgroup")).unwrap();
            fs::write(root.path().join("cgroup/cgroup.controllers"), "").unwrap();
            Self { root, boot: Uuid::from_u128(1) }
        }

        fn process(&self, pid: u32, session: &str) {
            let dir = self.root.path().join(format!("proc/{pid}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("sessionid"), session).unwrap();
        }

        fn cgroup(&self, path: &str, events: &str) {
            let dir = self.root.path().join("cgroup/user.slice").join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.events"), events).unwrap();
        }

        fn lives(&self, uid: u32, login: Option<Login>) -> bool {
            let (proc, cgroup) = (self.root.path().join("proc"), self.root.path().join("cgroup"));
            let sessions = Sessions::new(self.boot, proc, Some(cgroup));
            sessions.ended(vec![LoginKey { boot: self.boot, uid, login }]).is_empty()
        }
    }

    #[test]
    fn scopes_live_while_they_are_populated() {
        let host = Host::new();
        let scope = || Some(Login::Scope { uid: 5, session: "3".into() });
        assert!(!host.lives(5, scope()));
        host.cgroup("user-5.slice/session-3.scope", "populated 1\nfrozen 0\n");
        assert!(host.lives(5, scope()));
        host.cgroup("user-5.slice/session-3.scope", "populated 0\nfrozen 0\n");
        assert!(!host.lives(5, scope()));
        host.cgroup("user-5.slice/user@5.service", "populated 1\nfrozen 0\n");
        assert!(host.lives(5, Some(Login::Manager { uid: 5 })));
        assert!(!host.lives(6, Some(Login::Manager { uid: 6 })));
    }

    #[test]
    fn audit_sessions_and_users_live_while_they_have_processes() {
        let host = Host::new();
        host.process(10, "12\n");
        let audit = |session| Some(Login::Audit { session, uid: 5 });
        assert!(host.lives(5, audit(12)) && !host.lives(5, audit(13)));
        let me = nix::unistd::geteuid().as_raw();
        assert!(host.lives(me, None) && !host.lives(me + 1, None));
    }

    #[test]
    fn what_cannot_be_seen_lives_and_other_boots_do_not() {
        let host = Host::new();
        fs::remove_dir(host.root.path().join("proc/1")).unwrap();
        assert!(host.lives(77_777, None));
        fs::remove_file(host.root.path().join("cgroup/cgroup.controllers")).unwrap();
        assert!(host.lives(5, Some(Login::Manager { uid: 5 })));
        let sessions = Sessions::new(Uuid::from_u128(2), "/proc".into(), None);
        let key = LoginKey { boot: host.boot, uid: 0, login: None };
        assert_eq!(sessions.ended(vec![key.clone()]), vec![key]);
    }
}
