//! Who asks for a login: what the kernel says of a process that is connected to the gateway.
//!
//! - input: process, user id and cgroup of a peer (`SO_PEERCRED`)
//! - output: [`Asker`]
//! - bound: four small reads
//! - on failure: no login session and no terminal; the user is always known

use uuid::Uuid;

use super::LoginKey;
use crate::capture::ProcessKey;
use crate::identify::process;
use crate::identify::registry::SessionKey;

/// A process that asks, and the session it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Session of the process.
    pub key: LoginKey,
    /// Its user, who need not be who logged in.
    pub uid: u32,
    /// Name of its user.
    pub user: String,
    /// `pts/3`, or empty.
    pub tty: String,
}

impl Asker {
    /// Looks at a process, which is to be alive: its connection is still open. `cgroup` is its path
    /// from the root of the cgroup2 hierarchy. The session is found as for its connections.
    pub fn of(boot: Uuid, process: ProcessKey, uid: u32, cgroup: &str) -> Self {
        let SessionKey { uid: owner, login } = SessionKey::of(uid, process::login(process, cgroup));
        let user = process::user_name(uid);
        let user = user.strip_prefix("user:").unwrap_or(&user).to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.tgid));
        let tty = tty(&stat.unwrap_or_default());
        Self { key: LoginKey { boot, uid: owner, login }, uid, user, tty }
    }
}

/// Field 7 of `/proc/PID/stat`; the name of the process before it may hold anything.
fn tty(stat: &str) -> String {
    let number = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(4));
    let Some(number) = number.and_then(|text| text.parse::<u64>().ok()) else {
        return String::new();
    };
    // Linux's Documentation/admin-guide/devices.txt: 136 to 143 are slaves of Unix98 terminals.
    let (major, minor) = (libc::major(number), libc::minor(number));
    match major {
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_named() {
        assert_eq!(tty("7 (a) b) S 1 7 7 34819 8"), "pts/3");
        assert_eq!(tty("7 (login) S 1 7 7 1025 8"), "tty1");
        assert_eq!(tty("7 (getty) S 1 7 7 1088 8"), "ttyS0");
        assert_eq!(tty("7 (daemon) S 1 7 7 0 -1"), "");
        assert_eq!(tty(""), "");
    }
}
