//! Login sessions: which login of a user a process belongs to, where no anchor says.
//!
//! - input: texts of `/proc/PID/sessionid` and `loginuid`, and a cgroup path
//! - output: [`Login`]
//! - bound: none; pure functions on short texts
//! - on failure: `None`: there was no login, or nobody recorded one
//!
//! An audit session is the kernel's: set once at login by PAM, inherited, and not to be changed
//! without `CAP_AUDIT_CONTROL`. Many hosts have none. A scope is systemd's: below its own service a
//! user may make cgroups of any name, so names count only at the depth where systemd makes them.

use serde::{Deserialize, Serialize};

/// What the audit system says for "not set".
const UNSET: u32 = u32::MAX;

/// A login, surest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// Session of the audit system, and who logged in.
    Audit {
        /// `/proc/PID/sessionid`, unique within a boot.
        session: u32,
        /// `/proc/PID/loginuid`: stays the same through `su` and `sudo`.
        uid: u32,
    },
    /// Session scope of logind.
    Scope {
        /// Owner of the slice.
        uid: u32,
        /// `3` of `session-3.scope`.
        session: String,
    },
    /// The user's service manager: no particular session.
    Manager {
        /// Owner of the service.
        uid: u32,
    },
}

impl Login {
    /// The best that is known. `cgroup` is the path from the root of the cgroup2 hierarchy.
    pub fn of(sessionid: &str, loginuid: &str, cgroup: &str) -> Option<Self> {
        match (audit_id(sessionid), audit_id(loginuid)) {
            (Some(session), Some(uid)) => Some(Self::Audit { session, uid }),
            _ => Self::of_cgroup(cgroup),
        }
    }

    /// From `/user.slice/user-1000.slice/session-3.scope` or `…/user@1000.service/…`.
    pub fn of_cgroup(path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        if parts.next()? != "user.slice" {
            return None;
        }
        let uid = number(parts.next()?.strip_prefix("user-")?.strip_suffix(".slice")?)?;
        let unit = parts.next()?;
        if let Some(session) = unit.strip_prefix("session-").and_then(|s| s.strip_suffix(".scope"))
        {
            let is_name = !session.is_empty() && session.bytes().all(|b| b.is_ascii_alphanumeric());
            return is_name.then(|| Self::Scope { uid, session: session.to_owned() });
        }
        let owner = number(unit.strip_prefix("user@")?.strip_suffix(".service")?)?;
        (owner == uid).then_some(Self::Manager { uid })
    }

    /// Who logged in.
    pub fn uid(&self) -> u32 {
        match self {
            Self::Audit { uid, .. } | Self::Scope { uid, .. } | Self::Manager { uid } => *uid,
        }
    }
}

/// The content of `/proc/PID/sessionid` or `/proc/PID/loginuid`; `None` if it is not set.
pub fn audit_id(text: &str) -> Option<u32> {
    number(text.trim()).filter(|id| *id != UNSET)
}

/// Digits only: no sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "4294967295";

    #[test]
    fn audit_sessions_come_first() {
        let cgroup = "/user.slice/user-1000.slice/session-3.scope";
        let audit = Login::Audit { session: 12, uid: 1000 };
        assert_eq!(Login::of("12\n", "1000\n", cgroup), Some(audit));
        let scope = Login::Scope { uid: 1000, session: "3".into() };
        for (session, uid) in [(NONE, NONE), ("12", NONE), (NONE, "1000"), ("", ""), ("-1", "1")] {
            assert_eq!(Login::of(session, uid, cgroup), Some(scope.clone()), "{session} {uid}");
        }
        assert_eq!(Login::of(NONE, NONE, "/system.slice/cron.service"), None);
    }

    #[test]
    fn root_may_log_in() {
        assert_eq!(audit_id("0"), Some(0));
        assert_eq!(audit_id("4294967295\n"), None);
        assert_eq!(audit_id("4294967296"), None);
    }

    #[test]
    fn cgroups_of_logind() {
        let of = Login::of_cgroup;
        let scope = |uid, session: &str| Some(Login::Scope { uid, session: session.into() });
        assert_eq!(of("/user.slice/user-1000.slice/session-c2.scope"), scope(1000, "c2"));
        assert_eq!(of("/user.slice/user-0.slice/session-17.scope/job"), scope(0, "17"));
        let manager = Some(Login::Manager { uid: 1000 });
        let service = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(of(service), manager);
        assert_eq!(of(&format!("{service}/app.slice/app-org.gnome.Terminal.slice")), manager);
        assert_eq!(of(&format!("{service}/tmux-spawn-1.scope")), manager);
    }

    #[test]
    fn names_that_users_can_make_do_not_count() {
        let service = "/user.slice/user-1000.slice/user@1000.service";
        let manager = Some(Login::Manager { uid: 1000 });
        assert_eq!(Login::of_cgroup(&format!("{service}/session-9.scope")), manager);
        let inner = format!("{service}/user.slice/user-0.slice/session-1.scope");
        assert_eq!(Login::of_cgroup(&inner), manager);
        for path in [
            "",
            "/",
            "/user.slice",
            "/user.slice/user-1000.slice",
            "/user.slice/user-1000.slice/user@0.service",
            "/user.slice/user-.slice/session-1.scope",
            "/user.slice/user-+1.slice/session-1.scope",
            "/user.slice/user-1000.slice/session-.scope",
            "/user.slice/user-1000.slice/session-1 2.scope",
            "/weir/captured/user.slice/user-1000.slice/session-1.scope",
            "/system.slice/user@1000.service",
        ] {
            assert_eq!(Login::of_cgroup(path), None, "{path}");
        }
    }
}
