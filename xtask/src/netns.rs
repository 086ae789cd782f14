//! A network namespace with one veth pair, for origins that are not on loopback.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::sh;

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
    /// `prefix` is the first three bytes of a /24, such as `10.77.0`.
    pub(crate) fn new(kind: &str, prefix: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "needs root, for a network namespace");
        let routes = output(&["ip", "-4", "address", "show", "to", &format!("{prefix}.0/24")])?;
        ensure!(routes.trim().is_empty(), "{prefix}.0/24 is in use on this machine:\n{routes}");
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
