//! A network namespace with one veth pair, for origins that are not on loopback.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

const MAX_THIRD: u8 = 31;

/// The namespace; it is removed when dropped.
pub(crate) struct Netns {
    name: String,
    link: String,
    /// Our end's address.
    pub(crate) host: String,
    /// The address inside.
    pub(crate) inside: String,
}

impl Netns {
    /// `prefix` is the first two bytes of its /24, such as `10.77`; the third is the first free.
    pub(crate) fn new(kind: &str, prefix: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "needs root, for a network namespace");
        let prefix = free(prefix)?;
        let id = std::process::id();
        let (name, link) = (format!("weir-{kind}-{id}"), format!("wr{id}"));
        ip(&["netns", "add", &name])?;
        // From here on the guard removes what exists.
        let (host, inside) = (format!("{prefix}.1"), format!("{prefix}.2"));
        let netns = Self { name, link, host, inside };
        let (name, link) = (netns.name.as_str(), netns.link.as_str());
        let peer = format!("{link}p");
        ip(&["link", "add", link, "type", "veth", "peer", "name", &peer, "netns", name])?;
        ip(&["address", "add", &format!("{}/24", netns.host), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        for arguments in [
            &["address", "add", &format!("{}/24", netns.inside), "dev", &peer][..],
            &["link", "set", &peer, "up"],
            &["link", "set", "lo", "up"],
        ] {
            ip(&[&["-n", name], arguments].concat())?;
        }
        Ok(netns)
    }

    /// The start of a command inside. `ip netns exec` would hide the cgroup mounts.
    pub(crate) fn enter(&self) -> Command {
        sh::command(&["nsenter", &format!("--net=/run/netns/{}", self.name)])
    }

    /// Lets it stay and returns how to remove it.
    pub(crate) fn keep(self) -> String {
        let netns = std::mem::ManuallyDrop::new(self);
        format!("ip link del {}; ip netns del {}", netns.link, netns.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The link may not exist if set-up failed half way; the namespace takes its end along.
        drop(output(&["ip", "link", "del", &self.link]));
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            println!("cannot remove the namespace {}: {error:#}", self.name);
        }
    }
}

/// A /24 that no address of ours is in.
fn free(prefix: &str) -> Result<String> {
    for third in 0..=MAX_THIRD {
        let candidate = format!("{prefix}.{third}");
        let taken = output(&["ip", "-4", "address", "show", "to", &format!("{candidate}.0/24")])?;
        if taken.trim().is_empty() {
            return Ok(candidate);
        }
    }
    bail!("{prefix}.0.0/24 to {prefix}.{MAX_THIRD}.0/24 are all in use on this machine")
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(&[&["ip"], arguments].concat()).map(drop)
}

/// Not through `sh`: clean-up must work after an interrupt too.
fn output(parts: &[&str]) -> Result<String> {
    let what = parts.join(" ");
    let output = sh::command(parts).output().with_context(|| format!("run `{what}`"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{what}` failed: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
