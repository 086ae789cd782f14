//! The second default deny, by another part of the kernel: a table of nftables' own.
//!
//! - input: the captured cgroup, exclusions
//! - output: table `inet weir_…` in the network namespace of the caller
//! - bound: 512 exclusions; [`MAX_ANSWER_BYTES`] of nft's answer
//! - on failure: a reason; the layer is then reported as unavailable
//!
//! nft resolves the cgroup's path to its id when the rule is loaded: a cgroup that is removed and
//! made again no longer matches. So the rule names the captured cgroup, which stays, and never a
//! job's; and [`health`] compares what nft shows: a path where the id is known, a number where not.
//!
//! Text and not JSON: libnftables' JSON form of `socket cgroupv2` has no level (1.0.6, 1.1).

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use super::pins;
use crate::config::Net;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const NOTE: &str = "nft-rule";
const SUM: &str = "nft-sum";
/// Bytes read of what nft says.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;

/// What the table is about.
#[derive(Clone, Debug)]
pub(super) struct Guard<'a> {
    pub(super) pin_dir: &'a Path,
    pub(super) captured: &'a Path,
    /// Depth of `captured`.
    pub(super) level: u32,
    pub(super) exclude: &'a [Net],
    pub(super) allow_dns: bool,
}

/// Loads the table, in place of an earlier one: one transaction.
pub(super) fn apply(guard: &Guard<'_>) -> Result<(), String> {
    let matcher = matcher(guard)?;
    run(&["-f", "-"], &ruleset(guard, &matcher))?;
    let note = guard.pin_dir.join(NOTE);
    if note.symlink_metadata().is_ok() {
        std::fs::remove_file(&note).map_err(|error| error.to_string())?;
    }
    pins::note(guard.pin_dir, NOTE, &matcher).map_err(|error| error.to_string())?;
    let sum = sum(&shown(guard.pin_dir)?);
    pins::renote(guard.pin_dir, SUM, sum).map_err(|error| error.to_string())?;
    health(guard.pin_dir)
}

/// Whether a table was loaded.
pub(super) fn was_loaded(pin_dir: &Path) -> bool {
    pin_dir.join(NOTE).symlink_metadata().is_ok()
}

/// Removes the table. Does nothing where there is none, or where it was never loaded.
pub(super) fn remove(pin_dir: &Path) -> Result<(), String> {
    if !was_loaded(pin_dir) {
        return Ok(());
    }
    let name = table(pin_dir);
    // Declared first, so that deleting what is gone already is no error.
    run(&["-f", "-"], &format!("table inet {name}\ndelete table inet {name}\n")).map(drop)
}

/// Whether the rule is there, still means the captured cgroup, and the table is as it was loaded.
pub(super) fn health(pin_dir: &Path) -> Result<(), String> {
    let wanted = pins::noted(pin_dir, NOTE).ok_or("no rule was loaded")?;
    let shown = shown(pin_dir)?;
    if !shown.lines().any(|line| line.trim().starts_with(&format!("{wanted} jump captured"))) {
        return Err("the rule does not match the captured cgroup any more".into());
    }
    match pins::noted(pin_dir, SUM) {
        Some(noted) if noted != sum(&shown) => Err("somebody changed the table".into()),
        _ => Ok(()),
    }
}

/// The table without its counters' values (`-s`).
fn shown(pin_dir: &Path) -> Result<String, String> {
    run(&["-s", "list", "table", "inet", &table(pin_dir)], "")
}

fn sum(shown: &str) -> String {
    hex::encode(Sha256::digest(shown))
}

pub(super) fn table(pin_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let digest = hex::encode(Sha256::digest(pin_dir.as_os_str().as_bytes()));
    format!("weir_{}", digest.get(..8).unwrap_or_default())
}

fn matcher(guard: &Guard<'_>) -> Result<String, String> {
    let below = guard.captured.strip_prefix(CGROUP_ROOT).ok().and_then(Path::to_str);
    let path = below.ok_or_else(|| format!("cgroup2 is not mounted below {CGROUP_ROOT}"))?;
    // It is quoted in a program of another language.
    if path.is_empty() || path.contains(|c: char| c == '"' || c == '\\' || c.is_control()) {
        return Err(format!("nft cannot name the cgroup {path:?}"));
    }
    Ok(format!("socket cgroupv2 level {} \"{path}\"", guard.level))
}

fn ruleset(guard: &Guard<'_>, matcher: &str) -> String {
    let name = table(guard.pin_dir);
    let mut accepted = String::new();
    for Net { addr, prefix_len } in guard.exclude {
        // Loopback is accepted on its own device only.
        if addr.is_loopback() {
            continue;
        }
        let family = if matches!(addr, IpAddr::V4(_)) { "ip" } else { "ip6" };
        // Writing to a string cannot fail.
        writeln!(accepted, "    {family} daddr {addr}/{prefix_len} accept").unwrap_or_default();
    }
    if guard.allow_dns {
        accepted.push_str("    udp dport 53 accept\n");
    }
    format!(
        "table inet {name}\ndelete table inet {name}\n\
         table inet {name} {{\n\
         \x20 chain output {{\n\
         \x20   type filter hook output priority filter; policy accept;\n\
         \x20   {matcher} jump captured\n\
         \x20 }}\n\
         \x20 chain captured {{\n\
         \x20   oif 1 ip daddr 127.0.0.0/8 accept\n\
         \x20   oif 1 ip6 daddr ::1 accept\n\
         {accepted}\
         \x20   meta l4proto tcp counter reject with tcp reset\n\
         \x20   counter reject with icmpx admin-prohibited\n\
         \x20 }}\n\
         }}\n"
    )
}

pub(super) fn run(args: &[&str], input: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("running nft: {error}");
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).map_err(failed)?;
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_ANSWER_BYTES).read_to_end(&mut complaint).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint);
        return Err(format!("nft: {}", complaint.lines().next().unwrap_or("no reason given")));
    }
    written.map_err(failed)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard<'a>(captured: &'a str, exclude: &'a [Net]) -> Guard<'a> {
        Guard {
            pin_dir: Path::new("/sys/fs/bpf/weir"),
            captured: Path::new(captured),
            level: 2,
            exclude,
            allow_dns: true,
        }
    }

    #[test]
    fn the_rule_names_the_cgroup_at_its_depth() {
        let good = matcher(&guard("/sys/fs/cgroup/unified/weir/captured", &[])).unwrap();
        assert_eq!(good, "socket cgroupv2 level 2 \"unified/weir/captured\"");
        for bad in ["/mnt/cgroup/a", "/sys/fs/cgroup", "/sys/fs/cgroup/a\"b", "/sys/fs/cgroup/a\nb"]
        {
            assert!(matcher(&guard(bad, &[])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn exclusions_are_accepted_but_loopback_only_on_its_device() {
        let nets = [
            Net { addr: "127.0.0.0".parse().unwrap(), prefix_len: 8 },
            Net { addr: "192.0.2.0".parse().unwrap(), prefix_len: 24 },
            Net { addr: "2001:db8::".parse().unwrap(), prefix_len: 32 },
        ];
        let one = guard("/sys/fs/cgroup/weir", &nets);
        let text = ruleset(&one, "M");
        assert!(text.contains("    ip daddr 192.0.2.0/24 accept\n"), "{text}");
        assert!(text.contains("    ip6 daddr 2001:db8::/32 accept\n"), "{text}");
        assert!(text.contains("oif 1 ip daddr 127.0.0.0/8 accept"), "{text}");
        assert_eq!(text.matches("127.0.0.0").count(), 1, "{text}");
        assert!(text.contains("udp dport 53 accept"));
        let closed = Guard { allow_dns: false, ..one };
        assert!(!ruleset(&closed, "M").contains("dport 53"));
    }
}
