//! The command line of an OCI runtime: options, command, options of the command, container.
//!
//! - input: arguments, as containerd, dockerd, podman and BuildKit write them for runc or crun
//! - output: [`Call`]
//! - bound: one pass
//! - on failure: [`OciError::UnknownOption`]: what might hide the command is not passed on

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::OciError;

/// Options before the command that take a value: runc 1.1 to 1.3 and crun 1.x.
const GLOBAL_VALUES: [&str; 7] =
    ["cgroup-manager", "criu", "log", "log-format", "log-level", "root", "rootless"];
/// Options before the command that take none.
const GLOBAL_FLAGS: [&str; 6] = ["debug", "h", "help", "systemd-cgroup", "v", "version"];
/// Options of `create`, `run`, `start`, `delete` and `exec` that take a value.
const VALUES: [&str; 20] = [
    "additional-gids",
    "apparmor",
    "b",
    "bundle",
    "c",
    "cap",
    "cgroup",
    "console-socket",
    "cwd",
    "e",
    "env",
    "g",
    "p",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
    "process",
    "process-label",
    "u",
    "user",
];
/// Options of the same that take none.
const FLAGS: [&str; 14] = [
    "d",
    "detach",
    "f",
    "force",
    "ignore-paused",
    "keep",
    "no-new-keyring",
    "no-new-privs",
    "no-pivot",
    "no-subreaper",
    "r",
    "regex",
    "t",
    "tty",
];

/// A command line, as far as weir needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Arguments before the command: they go to every call of the real runtime.
    pub global: Vec<OsString>,
    /// `create`, `start`, `delete` and so on; none for `--version`.
    pub command: Option<String>,
    /// Whether cgroups are named as systemd does: `slice:prefix:name`.
    pub systemd: bool,
    /// File that gets the runtime's errors, which docker shows.
    pub log: Option<PathBuf>,
    /// `--bundle`, as written; `create` and `run` default to the working directory.
    pub bundle: Option<PathBuf>,
    /// `--process` of `exec`.
    pub process: Option<PathBuf>,
    /// The container; none for commands that weir does not look at.
    pub id: Option<String>,
}

/// An option without its dashes, and the value behind `=`.
fn option(word: &OsStr) -> Option<(String, Option<String>)> {
    let text = word.to_string_lossy();
    let rest = text.strip_prefix('-')?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    Some(match rest.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (rest.to_owned(), None),
    })
}

/// Reads a command line.
///
/// # Errors
/// [`OciError::UnknownOption`] before the command, or within one that weir looks at.
pub fn parse(args: &[OsString]) -> Result<Call, OciError> {
    let mut call = Call::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let Some((name, value)) = option(word) else {
            call.command = Some(word.to_string_lossy().into_owned());
            break;
        };
        call.global.push(word.clone());
        let value = if GLOBAL_VALUES.contains(&name.as_str()) {
            value.or_else(|| {
                let next = words.next()?;
                call.global.push(next.clone());
                Some(next.to_string_lossy().into_owned())
            })
        } else if GLOBAL_FLAGS.contains(&name.as_str()) {
            value
        } else {
            return Err(OciError::UnknownOption(word.to_string_lossy().into_owned()));
        };
        match name.as_str() {
            "systemd-cgroup" => call.systemd = value.as_deref() != Some("false"),
            "cgroup-manager" => call.systemd = value.as_deref() == Some("systemd"),
            "log" => call.log = value.map(PathBuf::from),
            _ => {}
        }
    }
    let looked_at = ["create", "run", "start", "delete", "exec"];
    if !call.command.as_deref().is_some_and(|name| looked_at.contains(&name)) {
        return Ok(call);
    }
    while let Some(word) = words.next() {
        if word == "--" {
            call.id = words.next().map(|id| id.to_string_lossy().into_owned());
            break;
        }
        let Some((name, value)) = option(word) else {
            call.id = Some(word.to_string_lossy().into_owned());
            break;
        };
        let value = if VALUES.contains(&name.as_str()) {
            value.or_else(|| words.next().map(|next| next.to_string_lossy().into_owned()))
        } else if FLAGS.contains(&name.as_str()) {
            value
        } else {
            return Err(OciError::UnknownOption(word.to_string_lossy().into_owned()));
        };
        match name.as_str() {
            "b" | "bundle" => call.bundle = value.map(PathBuf::from),
            "p" | "process" => call.process = value.map(PathBuf::from),
            _ => {}
        }
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Call, OciError> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_containerd_writes_is_understood() {
        let call = parsed(
            "--root /run/r --log /b/log.json --log-format json --systemd-cgroup create \
             --bundle /b --pid-file /b/init.pid --console-socket /t/s abc",
        )
        .unwrap();
        assert_eq!(call.command.as_deref(), Some("create"));
        assert_eq!(call.bundle, Some("/b".into()));
        assert_eq!(call.id.as_deref(), Some("abc"));
        assert_eq!(call.log, Some("/b/log.json".into()));
        assert!(call.systemd);
        assert_eq!(call.global.len(), 7);
        let call = parsed("--root=/run/r --log=/l start abc").unwrap();
        assert_eq!((call.command.as_deref(), call.id.as_deref()), (Some("start"), Some("abc")));
        assert!(!call.systemd);
        let call = parsed("--cgroup-manager=systemd exec -p /f -d abc").unwrap();
        assert_eq!(call.process, Some("/f".into()));
        assert!(call.systemd);
        let call = parsed("delete --force abc").unwrap();
        assert_eq!((call.command.as_deref(), call.id.as_deref()), (Some("delete"), Some("abc")));
    }

    #[test]
    fn other_commands_are_not_read_further() {
        let call = parsed("kill --all --new-option abc 9").unwrap();
        assert_eq!((call.command.as_deref(), call.id), (Some("kill"), None));
        assert_eq!(parsed("--version").unwrap().command, None);
    }

    #[test]
    fn an_option_that_may_hide_the_command_is_refused() {
        for line in ["--new create abc", "--root /r --new=1 create abc", "create --config f abc"] {
            assert!(matches!(parsed(line), Err(OciError::UnknownOption(_))), "{line}");
        }
    }
}
