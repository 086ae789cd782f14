//! What the processes in the captured cgroup could do to get out of it.
//!
//! - input: procfs of the live processes of the captured cgroup
//! - output: one line for each kind of way out
//! - bound: [`MAX_PROCESSES`] processes, [`MAX_DIRS`] cgroups, [`MAX_BYTES`] of a file
//! - on failure: a process that ended meanwhile is left out

use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Check, check, settings, wish};

/// Processes that are looked at.
const MAX_PROCESSES: usize = 512;
const MAX_DIRS: usize = 4096;
const MAX_BYTES: u64 = 1024 * 1024;
/// Processes that a line names.
const NAMED: usize = 4;

/// Capabilities that open a way out, by number (capabilities(7)).
const DANGEROUS: [(u32, &str); 11] = [
    (1, "DAC_OVERRIDE"),
    (12, "NET_ADMIN"),
    (13, "NET_RAW"),
    (16, "SYS_MODULE"),
    (17, "SYS_RAWIO"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (22, "SYS_BOOT"),
    (27, "MKNOD"),
    (38, "PERFMON"),
    (39, "BPF"),
];
const DAC_OVERRIDE: u32 = 1;

/// Whoever may write to one of these is root of the host.
const SOCKETS: [&str; 9] = [
    "run/docker.sock",
    "run/containerd/containerd.sock",
    "run/podman/podman.sock",
    "run/crio/crio.sock",
    "run/systemd/private",
    "run/libvirt/libvirt-sock",
    "run/snapd.socket",
    "var/lib/incus/unix.socket",
    "var/snap/lxd/common/lxd/unix.socket",
];

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    name: String,
    uid: u32,
    gids: Vec<u32>,
    effective: u64,
    bounding: u64,
    no_new_privs: bool,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let mut status = Self::default();
        let mut seen = 0;
        for line in text.lines() {
            let (key, value) = line.split_once(':')?;
            let mut words = value.split_whitespace();
            let hex = |word: Option<&str>| u64::from_str_radix(word?, 16).ok();
            match key {
                "Name" => status.name = value.trim().into(),
                // Real, effective, saved, file system.
                "Uid" => status.uid = words.nth(1)?.parse().ok()?,
                "Gid" => status.gids.push(words.nth(1)?.parse().ok()?),
                "Groups" => status.gids.extend(words.filter_map(|gid| gid.parse::<u32>().ok())),
                "CapEff" => status.effective = hex(words.next())?,
                "CapBnd" => status.bounding = hex(words.next())?,
                "NoNewPrivs" => status.no_new_privs = words.next()? == "1",
                _ => continue,
            }
            seen += 1;
        }
        // All of them but supplementary groups, which may be missing.
        (seen >= 6).then_some(status)
    }

    fn dangerous(&self) -> Vec<&'static str> {
        let all = DANGEROUS.iter().filter(|(bit, _)| self.effective & (1 << bit) != 0);
        all.map(|(_, name)| *name).collect()
    }

    /// Whether it may write to something with this owner and mode.
    fn may_write(&self, uid: u32, gid: u32, mode: u32) -> bool {
        self.effective & (1 << DAC_OVERRIDE) != 0
            || mode & 0o002 != 0
            || (self.uid == uid && mode & 0o200 != 0)
            || (self.gids.contains(&gid) && mode & 0o020 != 0)
    }
}

/// Whether these mounts show a cgroup2 directory that is not below `captured`, writably. Both are
/// paths of the hierarchy.
fn shows_outside(mountinfo: &str, captured: &str) -> bool {
    mountinfo.lines().any(|line| {
        let Some((before, after)) = line.split_once(" - ") else { return false };
        let mut fields = before.split(' ').skip(3);
        let (Some(root), Some(_point), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let writable = |options: &str| options.split(',').any(|option| option == "rw");
        let mut after = after.split(' ');
        after.next() == Some("cgroup2")
            && writable(options)
            && after.nth(1).is_some_and(writable)
            && !Path::new(root).starts_with(captured)
    })
}

/// One process and what it can do.
struct Seen {
    pid: u32,
    status: Status,
    outside: bool,
    sockets: Vec<&'static str>,
}

impl Seen {
    fn look(pid: u32, captured: &str) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let status = Status::parse(&read(&proc.join("status"))?)?;
        // Write permission for a directory of root's.
        let writes = status.may_write(0, 0, 0o755);
        let outside = writes
            && read(&proc.join("mountinfo")).is_some_and(|text| shows_outside(&text, captured));
        let sockets = SOCKETS.into_iter().filter(|path| {
            std::fs::metadata(proc.join("root").join(path)).is_ok_and(|file| {
                file.file_type().is_socket()
                    && status.may_write(file.uid(), file.gid(), file.mode())
            })
        });
        let sockets = sockets.collect();
        Some(Self { pid, status, outside, sockets })
    }

    fn text(&self, what: &str) -> String {
        // The name is the process's own word.
        let name: String = self.status.name.chars().filter(|c| c.is_ascii_graphic()).collect();
        if what.is_empty() {
            format!("{} ({name})", self.pid)
        } else {
            format!("{} ({name}): {what}", self.pid)
        }
    }
}

/// Looks at the processes below the captured cgroup; `mount` is where cgroup2 is mounted.
pub(super) fn all(captured: &Path, mount: &Path, checks: &mut Vec<Check>) {
    let (pids, more) = pids_below(captured);
    let relative = captured.strip_prefix(mount).unwrap_or(captured);
    let relative = format!("/{}", relative.display());
    let seen: Vec<Seen> = pids.into_iter().filter_map(|pid| Seen::look(pid, &relative)).collect();
    checks.extend(judge(&seen, more, &settings::suid_helpers()));
}

fn judge(seen: &[Seen], more: bool, helpers: &[String]) -> [Check; 5] {
    let total = match more {
        true => format!("of the first {}", seen.len()),
        false => format!("of {}", seen.len()),
    };
    let line = |what: &dyn Fn(&Seen) -> Option<String>| {
        let found: Vec<String> =
            seen.iter().filter_map(|one| Some(one.text(&what(one)?))).collect();
        if found.is_empty() {
            return Ok(format!("none {total} captured processes"));
        }
        let rest = found.len().saturating_sub(NAMED);
        let named = found.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        let rest = if rest == 0 { String::new() } else { format!("; and {rest} more") };
        Err(format!("{} {total} captured processes: {named}{rest}", found.len()))
    };
    [
        wish(
            "uid 0 inside",
            line(&|one| (one.status.uid == 0).then(String::new)),
            "run jobs as an ordinary user: `weir run --user NAME`",
        ),
        check(
            "capabilities",
            line(&|one| {
                let caps = one.status.dangerous();
                (!caps.is_empty()).then(|| caps.join(","))
            }),
            "drop them, also from the bounding set; docs/threat-model.md says what each one opens",
        ),
        check(
            "cgroupfs",
            line(&|one| one.outside.then(String::new)),
            "give jobs a cgroup namespace, or mount cgroup2 read-only in them: they can move \
             themselves out of the capture",
        ),
        check(
            "root sockets",
            line(&|one| (!one.sockets.is_empty()).then(|| one.sockets.join(","))),
            "keep them out of jobs: whoever writes to one is root outside of the capture",
        ),
        wish(
            "suid helpers",
            line(&|one| {
                let gains = !one.status.no_new_privs && one.status.bounding != 0;
                (gains && !helpers.is_empty()).then(|| helpers.join(","))
            }),
            "start jobs with no_new_privs, or without these programs",
        ),
    ]
}

/// Processes of a cgroup and everything below it, and whether there are more than we look at.
fn pids_below(root: &Path) -> (Vec<u32>, bool) {
    let mut pids = Vec::new();
    let mut pending = vec![root.to_owned()];
    let mut dirs = 0;
    while let Some(dir) = pending.pop() {
        dirs += 1;
        if dirs > MAX_DIRS || pids.len() > MAX_PROCESSES {
            break;
        }
        let listed = read(&dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    let more = pids.len() > MAX_PROCESSES || !pending.is_empty();
    pids.truncate(MAX_PROCESSES);
    (pids, more)
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    const ROOT: &str = "Name:\tbash\nUmask:\t0022\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0 \n\
        CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\n";
    const USER: &str = "Name:\tx y\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n\
        Groups:\t27 998 \nCapEff:\t0000000000000000\nCapBnd:\t0000000000002000\nNoNewPrivs:\t1\n";

    fn seen(status: &str) -> Seen {
        let status = Status::parse(status).unwrap();
        Seen { pid: 7, status, outside: false, sockets: Vec::new() }
    }

    #[test]
    fn status_files_parse_and_nonsense_does_not() {
        let root = Status::parse(ROOT).unwrap();
        assert_eq!((root.uid, root.dangerous().len()), (0, DANGEROUS.len()));
        let user = Status::parse(USER).unwrap();
        assert_eq!((user.uid, &user.gids[..]), (1000, &[1000, 27, 998][..]));
        assert!(user.dangerous().is_empty() && user.no_new_privs);
        for text in ["", "Name", "Uid:\tx\n", "Uid:\t0\t0\n", "CapEff:\tzz\n"] {
            assert_eq!(Status::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn sockets_are_reachable_by_owner_group_or_capability() {
        let user = Status::parse(USER).unwrap();
        assert!(user.may_write(0, 998, 0o660), "in the group");
        assert!(user.may_write(0, 0, 0o666));
        assert!(!user.may_write(0, 0, 0o660));
        assert!(!user.may_write(0, 998, 0o600));
        assert!(Status::parse(ROOT).unwrap().may_write(5, 5, 0o600));
    }

    #[test]
    fn only_a_writable_view_from_above_leads_out() {
        let mount = |root: &str, options: &str, whole: &str| {
            format!(
                "41 31 0:38 {root} /sys/fs/cgroup {options} shared:1 - cgroup2 cgroup2 {whole}\n"
            )
        };
        let out = |text: &str| shows_outside(text, "/weir/captured");
        assert!(out(&mount("/", "rw,nosuid", "rw,nsdelegate")));
        assert!(out(&mount("/weir", "rw", "rw")));
        assert!(!out(&mount("/", "ro,nosuid", "rw")), "mounted read-only");
        assert!(!out(&mount("/", "rw", "ro")));
        assert!(!out(&mount("/weir/captured/job", "rw", "rw")), "its own part");
        assert!(!out("1 2 0:1 / /proc rw - proc proc rw\nnonsense\n - cgroup2\n"));
    }

    #[test]
    fn lines_name_a_few_and_count_the_rest() {
        let all: Vec<Seen> = (0..6).map(|_| seen(ROOT)).chain([seen(USER)]).collect();
        let [uid, capabilities, cgroupfs, sockets, suid] =
            judge(&all, false, &["/usr/bin/sudo".into()]);
        assert!(uid.found.starts_with("6 of 7 captured processes: 7 (bash)"), "{}", uid.found);
        assert!(uid.found.ends_with("and 2 more"), "{}", uid.found);
        assert!(uid.level == Level::Warn && capabilities.level == Level::Fail);
        assert!(capabilities.found.contains("SYS_ADMIN"), "{}", capabilities.found);
        assert!(cgroupfs.level == Level::Ok && sockets.level == Level::Ok);
        assert!(
            suid.found.contains("/usr/bin/sudo") && !suid.found.contains("xy"),
            "{}",
            suid.found
        );
        let quiet = judge(&[], true, &[]);
        assert!(quiet.iter().all(|check| check.level == Level::Ok));
    }
}
