//! Settings of the host that decide what root, or a user, in a job can still do.
//!
//! - input: files of procfs, sysfs and `/etc`
//! - output: one line for each setting; docs/threat-model.md says what each one closes
//! - bound: [`MAX_BYTES`] of a file, [`MAX_FILES`] of a directory
//! - on failure: what cannot be read is judged as what that means: absent, or not known

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Check, wish};
use crate::config::Config;

const MAX_BYTES: u64 = 256 * 1024;
const MAX_FILES: usize = 256;

/// What a judge answers: in both cases what was found.
type Verdict = Result<String, String>;

/// A setting whose content alone decides. The judge gets `None` where the file is missing.
struct Setting {
    name: &'static str,
    path: &'static str,
    judge: fn(Option<&str>) -> Verdict,
    remedy: &'static str,
}

const SETTINGS: [Setting; 9] = [
    Setting {
        name: "ptrace",
        path: "/proc/sys/kernel/yama/ptrace_scope",
        judge: ptrace,
        remedy: "sysctl kernel.yama.ptrace_scope=1 (or 2): else a captured process can run code in \
                 one of the same user that is not captured",
    },
    Setting {
        name: "bpf",
        path: "/proc/sys/kernel/unprivileged_bpf_disabled",
        judge: unprivileged_bpf,
        remedy: "sysctl kernel.unprivileged_bpf_disabled=2",
    },
    Setting {
        name: "bpf lsm",
        path: "/sys/kernel/security/lsm",
        judge: bpf_lsm,
        remedy: "boot with bpf in lsm=: without it packet sockets of other namespaces, vsock and \
                 sockets made outside are not refused",
    },
    Setting {
        name: "io_uring",
        path: "/proc/sys/kernel/io_uring_disabled",
        judge: io_uring,
        remedy: "its connects are captured, but seccomp filters of jobs do not see them: sysctl \
                 kernel.io_uring_disabled=2",
    },
    Setting {
        name: "modules",
        path: "/proc/sys/kernel/modules_disabled",
        judge: modules,
        remedy: "CAP_SYS_MODULE is the kernel: drop it, or sysctl kernel.modules_disabled=1 once \
                 everything is loaded",
    },
    Setting {
        name: "kexec",
        path: "/proc/sys/kernel/kexec_load_disabled",
        judge: kexec,
        remedy: "sysctl kernel.kexec_load_disabled=1: root could boot another kernel",
    },
    Setting {
        name: "lockdown",
        path: "/sys/kernel/security/lockdown",
        judge: lockdown,
        remedy: "boot with lockdown=integrity: root could write kernel memory",
    },
    Setting {
        name: "hidepid",
        path: "/proc/self/mounts",
        judge: hidepid,
        remedy: "mount /proc with hidepid=2: users see what others run",
    },
    Setting {
        name: "core dumps",
        path: "/proc/sys/kernel/core_pattern",
        judge: core_pattern,
        remedy: "sysctl kernel.core_pattern=core: a captured process that crashes starts that \
                 program as root, uncaptured, on bytes of its own",
    },
];

/// Looks at all of them.
pub(super) fn all(config: &Config, checks: &mut Vec<Check>) {
    for Setting { name, path, judge, remedy } in SETTINGS {
        checks.push(wish(name, judge(read(path).as_deref()), remedy));
    }
    let sysctl = |name: &str| read(&format!("/proc/sys/{name}"));
    checks.push(wish(
        "user namespaces",
        user_namespaces(
            sysctl("user/max_user_namespaces").as_deref(),
            sysctl("kernel/unprivileged_userns_clone").as_deref(),
            sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref(),
        ),
        "sysctl user.max_user_namespaces=0, or deny unshare by seccomp: in a namespace of its own \
         every user makes packet sockets (they reach no device of the host)",
    ));
    let ports = [config.gateway.port, config.dns.port];
    checks.push(wish(
        "port range",
        port_range(&ports, sysctl("net/ipv4/ip_local_port_range").as_deref()),
        "choose gateway.port and dns.port outside of it: any process may get a port of it without \
         asking for it",
    ));
    checks.push(wish(
        "port owner",
        port_owner(&ports, sysctl("net/ipv4/ip_unprivileged_port_start").as_deref()),
        "choose ports below it: else any user can listen on them while no gateway runs",
    ));
    checks.push(wish(
        "autoload",
        autoload(&modprobe_rules(), sysctl("kernel/modules_disabled").as_deref()),
        "in /etc/modprobe.d: `install NAME /bin/false` for each; captured sockets of these protocols \
         are refused, but asking for one loads its code",
    ));
    checks.push(wish(
        "vsock",
        vsock(Path::new("/sys/module/vsock").exists(), read("/sys/kernel/security/lsm").as_deref()),
        "a captured process can talk to the hypervisor's side: deny AF_VSOCK by seccomp, or boot \
         with bpf in lsm=",
    ));
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn found(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn ptrace(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        None => Err("yama is not active: processes of one user trace each other".into()),
        Some("0") => Err("0: processes of one user trace each other".into()),
        Some(scope) => Ok(found(scope)),
    }
}

fn unprivileged_bpf(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        None => Ok("no such setting".into()),
        Some("0") => Err("0: every user may load programs".into()),
        Some(value) => Ok(found(value)),
    }
}

fn bpf_lsm(text: Option<&str>) -> Verdict {
    match text {
        None => Err("not known: securityfs is not mounted".into()),
        Some(list) if has_bpf(list) => Ok(found(list)),
        Some(list) => Err(found(list)),
    }
}

fn has_bpf(list: &str) -> bool {
    list.trim().split(',').any(|one| one == "bpf")
}

fn io_uring(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        // Linux 6.6 brought the setting.
        None => Err("no such setting".into()),
        Some("0") => Err("0: for everybody".into()),
        Some(value) => Ok(found(value)),
    }
}

fn modules(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        None => Ok("this kernel loads none".into()),
        Some("1") => Ok("no more are loaded".into()),
        Some(value) => Err(format!("modules_disabled is {}", found(value))),
    }
}

fn kexec(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        None => Ok("this kernel has none".into()),
        Some("1") => Ok("disabled".into()),
        Some(value) => Err(format!("kexec_load_disabled is {}", found(value))),
    }
}

fn lockdown(text: Option<&str>) -> Verdict {
    match text {
        None => Err("not known, or not built in".into()),
        Some(modes) if modes.contains("[none]") => Err(found(modes)),
        Some(modes) => Ok(found(modes)),
    }
}

fn hidepid(mounts: Option<&str>) -> Verdict {
    let options = mounts.unwrap_or_default().lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next()? == "/proc" && fields.next()? == "proc").then(|| fields.next())?
    });
    let hidden = options.unwrap_or_default().split(',').find(|option| {
        option.starts_with("hidepid=") && !matches!(*option, "hidepid=0" | "hidepid=off")
    });
    hidden.map(str::to_owned).ok_or_else(|| "every process is visible".into())
}

fn core_pattern(text: Option<&str>) -> Verdict {
    match text.map(str::trim) {
        Some(pattern) if pattern.starts_with('|') => Err(found(pattern)),
        Some(pattern) => Ok(format!("a file, {}", found(pattern))),
        None => Ok("no core dumps".into()),
    }
}

fn user_namespaces(max: Option<&str>, clone: Option<&str>, apparmor: Option<&str>) -> Verdict {
    let is = |value: Option<&str>, wanted| value.map(str::trim) == Some(wanted);
    if max.is_none() || is(max, "0") {
        Ok("none can be made".into())
    } else if is(clone, "0") {
        Ok("unprivileged_userns_clone is 0".into())
    } else if is(apparmor, "1") {
        Ok("restricted by apparmor".into())
    } else {
        Err(format!("every user may make them, up to {}", found(max.unwrap_or_default())))
    }
}

fn port_range(ports: &[u16], range: Option<&str>) -> Verdict {
    let mut ends = range.unwrap_or_default().split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else {
        return Err("ip_local_port_range is not known".into());
    };
    let inside: Vec<String> =
        ports.iter().filter(|port| (low..=high).contains(port)).map(u16::to_string).collect();
    if inside.is_empty() {
        Ok(format!("outside of {low} to {high}"))
    } else {
        Err(format!("{} inside of {low} to {high}", inside.join(", ")))
    }
}

fn port_owner(ports: &[u16], start: Option<&str>) -> Verdict {
    let Some(Ok(start)) = start.map(|start| start.trim().parse::<u32>()) else {
        return Err("ip_unprivileged_port_start is not known".into());
    };
    let open: Vec<String> =
        ports.iter().filter(|port| u32::from(**port) >= start).map(u16::to_string).collect();
    if open.is_empty() {
        Ok(format!("below {start}"))
    } else {
        Err(format!("{}: root only below {start}", open.join(", ")))
    }
}

/// Protocols that `socket(2)` loads a module for.
const PROTOCOLS: [&str; 5] = ["sctp", "dccp", "tipc", "rds", "vsock"];

fn autoload(rules: &str, modules_disabled: Option<&str>) -> Verdict {
    match modules_disabled.map(str::trim) {
        None => return Ok("this kernel loads no modules".into()),
        Some("1") => return Ok("no more modules are loaded".into()),
        Some(_) => {}
    }
    let blocked = |name: &&str| {
        rules.lines().any(|line| {
            let mut words = line.split_whitespace();
            // socket(2) asks for an alias of the module, which a blacklist takes away.
            matches!(words.next(), Some("install" | "blacklist")) && words.next() == Some(*name)
        })
    };
    let open: Vec<&str> = PROTOCOLS.into_iter().filter(|name| !blocked(name)).collect();
    if open.is_empty() { Ok("blocked".into()) } else { Err(open.join(", ")) }
}

/// All rules of modprobe.d(5).
fn modprobe_rules() -> String {
    let mut text = String::new();
    for dir in ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_FILES) {
            text.extend(read(&entry.path().to_string_lossy()));
            text.push('\n');
        }
    }
    text
}

fn vsock(loaded: bool, lsm: Option<&str>) -> Verdict {
    if !loaded {
        Ok("not loaded".into())
    } else if lsm.is_some_and(has_bpf) {
        Ok("refused by a security hook".into())
    } else {
        Err("loaded, and nothing refuses it".into())
    }
}

/// Programs by which a user becomes root.
const HELPERS: [&str; 6] = ["sudo", "su", "pkexec", "doas", "newuidmap", "newgrp"];

/// Those that are there and are set-user-id.
pub(super) fn suid_helpers() -> Vec<String> {
    let dirs = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin"];
    let all = dirs.iter().flat_map(|dir| HELPERS.iter().map(move |name| format!("{dir}/{name}")));
    all.filter(|path| {
        std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o4000 != 0)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_judged_by_its_content() {
        let good = [
            ptrace(Some("1\n")),
            unprivileged_bpf(Some("2\n")),
            bpf_lsm(Some("lockdown,capability,bpf\n")),
            io_uring(Some("2\n")),
            modules(Some("1\n")),
            modules(None),
            kexec(Some("1\n")),
            lockdown(Some("none [integrity] confidentiality\n")),
            hidepid(Some(
                "sysfs /sys sysfs rw 0 0\nproc /proc proc rw,nosuid,hidepid=invisible 0 0\n",
            )),
            core_pattern(Some("core\n")),
        ];
        for verdict in good {
            assert!(verdict.is_ok(), "{verdict:?}");
        }
        let bad = [
            ptrace(Some("0\n")),
            ptrace(None),
            unprivileged_bpf(Some("0\n")),
            bpf_lsm(Some("capability,bpfish\n")),
            bpf_lsm(None),
            io_uring(Some("0\n")),
            modules(Some("0\n")),
            kexec(Some("0\n")),
            lockdown(Some("[none] integrity confidentiality\n")),
            hidepid(Some("proc /proc proc rw,hidepid=0 0 0\n")),
            hidepid(None),
            core_pattern(Some("|/usr/lib/systemd/systemd-coredump %P\n")),
        ];
        for verdict in bad {
            assert!(verdict.is_err(), "{verdict:?}");
        }
    }

    #[test]
    fn namespaces_are_closed_by_any_of_three_settings() {
        assert!(user_namespaces(Some("0\n"), None, None).is_ok());
        assert!(user_namespaces(Some("9\n"), Some("0\n"), None).is_ok());
        assert!(user_namespaces(Some("9\n"), Some("1\n"), Some("1\n")).is_ok());
        let open = user_namespaces(Some("9\n"), None, Some("0\n"));
        assert_eq!(open, Err("every user may make them, up to 9".into()));
    }

    #[test]
    fn ports_are_compared_with_both_ranges() {
        assert!(port_range(&[15443, 15053], Some("32768\t60999\n")).is_ok());
        assert_eq!(
            port_range(&[15443, 40000], Some("32768\t60999\n")),
            Err("40000 inside of 32768 to 60999".into())
        );
        assert!(port_range(&[1], Some("nonsense")).is_err());
        assert!(port_owner(&[443, 53], Some("1024\n")).is_ok());
        assert!(port_owner(&[15443], Some("1024\n")).is_err());
        assert!(port_owner(&[80], None).is_err());
    }

    #[test]
    fn protocols_are_blocked_by_rules_or_by_no_modules_at_all() {
        let rules = "# x\ninstall sctp /bin/false\nblacklist dccp\ninstall tipc /bin/true\n";
        assert_eq!(autoload(rules, Some("0")), Err("rds, vsock".into()));
        assert!(autoload("", Some("1")).is_ok());
        assert!(autoload("", None).is_ok());
        assert!(vsock(true, Some("bpf,yama")).is_ok());
        assert!(vsock(true, Some("yama")).is_err());
        assert!(vsock(false, None).is_ok());
    }
}
