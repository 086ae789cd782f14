//! The host's side of bridges whose containers are captured: routes what they send to the gateway,
//! and refuses the rest.
//!
//! - input: names of bridges in the namespace of the caller
//! - output: a rule and a route per family, table `inet weirbr_…`, entries of map `BRIDGES`
//! - bound: [`weir_ebpf_common::MAX_BRIDGES`] bridges
//! - on failure: [`CaptureError`]; without all of it nothing is captured, and nothing passes
//!
//! The rule sends every TCP packet that arrives by a bridge to the host itself, where `weir_lookup`
//! finds the gateway's socket for it. It works whether or not bridges call iptables
//! (`net.bridge.bridge-nf-call-iptables`): no mark and no socket is handed from there to here.
//!
//! All of it is named after the bridge, and taken up again by its name; `weir_lookup` and the rule
//! that accepts TCP go by its index. A bridge that was removed and made again is therefore refused
//! until `weir attach` is run once more.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use weir_ebpf_common::{LISTENER_BRIDGED, Listener, MAX_BRIDGES};

use super::{CaptureError, links, nft, pins};

/// Routing table with one entry per family: "everything is here".
const TABLE: &str = "2003133810";
/// Before every rule but the kernel's own for local addresses.
const PREFERENCE: &str = "7";
const NOTE: &str = "bridges";
/// Copies of one rule that are removed: there is never more than one of ours.
const MAX_COPIES: usize = 8;

/// A bridge of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) index: u32,
    /// With their prefix lengths.
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

impl Bridge {
    /// One address of each family: where the resolver listens.
    pub(super) fn listener(&self) -> Listener {
        let mut listener = Listener { kind: LISTENER_BRIDGED, ..Listener::default() };
        for (addr, _) in &self.addresses {
            match addr {
                IpAddr::V4(v4) if listener.bridge_v4 == 0 => {
                    listener.bridge_v4 = u32::from_ne_bytes(v4.octets());
                }
                IpAddr::V6(v6) if listener.bridge_v6 == [0; 4] && !v6.is_unicast_link_local() => {
                    listener.bridge_v6 = super::settings::words(v6.octets());
                }
                _ => {}
            }
        }
        listener
    }
}

/// Bridges by name, or by index where `wanted` says so.
pub(super) fn find(wanted: impl Fn(&links::Link) -> bool) -> Result<Vec<Bridge>, CaptureError> {
    let failed = |source| CaptureError::Io { action: "listing network devices".to_owned(), source };
    let addresses = links::addresses().map_err(failed)?;
    let found = links::list().map_err(failed)?;
    Ok(found
        .into_iter()
        .filter(|link| link.kind == "bridge" && wanted(link))
        .map(|link| Bridge {
            addresses: addresses
                .iter()
                .filter(|(name, ..)| *name == link.name)
                .map(|(_, addr, len)| (*addr, *len))
                .collect(),
            name: link.name,
            index: link.index,
        })
        .collect())
}

/// All bridges of these names.
pub(super) fn named(names: &[String]) -> Result<Vec<Bridge>, CaptureError> {
    let most = usize::try_from(MAX_BRIDGES).unwrap_or(usize::MAX);
    if names.len() > most {
        return Err(CaptureError::Unsupported(format!("more than {most} bridges")));
    }
    let found = find(|link| names.contains(&link.name))?;
    match names.iter().find(|name| !found.iter().any(|one| one.name == **name)) {
        Some(name) => Err(CaptureError::Unsupported(format!("there is no bridge {name}"))),
        None => Ok(found),
    }
}

/// Refuses first, then routes.
pub(super) fn apply(pin_dir: &Path, bridges: &[Bridge], dns_port: u16) -> Result<(), CaptureError> {
    let noted: Vec<&str> = bridges.iter().map(|one| one.name.as_str()).collect();
    let earlier = names(pin_dir);
    if let Some(gone) = earlier.iter().find(|name| !noted.contains(&name.as_str())) {
        unroute(gone);
    }
    drop(std::fs::remove_file(pin_dir.join(NOTE)));
    pins::note(pin_dir, NOTE, noted.join(","))?;
    let failed = |action: &str, detail| CaptureError::Bpf { action: action.into(), detail };
    nft::run(&["-f", "-"], &ruleset(&table(pin_dir), bridges, dns_port))
        .map_err(|detail| failed("loading the nft table of bridges", detail))?;
    for family in ["-4", "-6"] {
        let routed =
            ip(&[family, "route", "replace", "local", "default", "dev", "lo", "table", TABLE])
                .and_then(|()| bridges.iter().try_for_each(|one| route(family, &one.name)));
        match routed {
            // A host without IPv6 forwards none.
            Err(error) if family == "-6" => tracing::warn!(%error, "no IPv6 from bridges"),
            routed => routed.map_err(|detail| failed("routing what comes from bridges", detail))?,
        }
    }
    Ok(())
}

/// Removes what [`apply`] made. Does nothing where there is nothing.
pub(super) fn remove(pin_dir: &Path) -> Result<(), String> {
    let names = names(pin_dir);
    if names.is_empty() {
        return Ok(());
    }
    for name in &names {
        unroute(name);
    }
    for family in ["-4", "-6"] {
        // Fails where the table is gone, which is what was wanted.
        drop(ip(&[family, "route", "flush", "table", TABLE]));
    }
    let table = table(pin_dir);
    // Declared first, so that deleting what is gone already is no error.
    nft::run(&["-f", "-"], &format!("table inet {table}\ndelete table inet {table}\n"))?;
    std::fs::remove_file(pin_dir.join(NOTE)).map_err(|error| error.to_string())
}

/// Whether rules, route and table are there, and mean the bridges that are there now.
pub(super) fn health(pin_dir: &Path) -> Result<(), String> {
    let names = names(pin_dir);
    let shown = nft::run(&["list", "table", "inet", &table(pin_dir)], "")?;
    for bridge in named(&names).map_err(|error| error.to_string())? {
        let name = &bridge.name;
        // An index that means no device any more is shown as a number.
        if !shown
            .lines()
            .any(|line| line.trim() == format!("iif \"{name}\" meta l4proto tcp accept"))
        {
            return Err(format!("bridge {name} is another one now: run `weir attach`"));
        }
        let rules = output(&["-4", "rule", "show", "pref", PREFERENCE, "iif", name])?;
        if !rules.contains(TABLE) {
            return Err(format!("the rule of bridge {name} is gone: run `weir attach`"));
        }
    }
    let routes = output(&["-4", "route", "show", "table", TABLE])?;
    if !routes.contains("local default") {
        return Err("the route of bridges is gone: run `weir attach`".into());
    }
    Ok(())
}

/// The bridges of an attached capture.
pub(super) fn names(pin_dir: &Path) -> Vec<String> {
    let noted = std::fs::read_link(pin_dir.join(NOTE)).unwrap_or_default();
    let noted = noted.to_string_lossy();
    noted.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn table(pin_dir: &Path) -> String {
    nft::table(pin_dir).replacen("weir_", "weirbr_", 1)
}

/// Chains of a table of their own, which accept for nobody else: other tables may still refuse.
fn ruleset(table: &str, bridges: &[Bridge], dns_port: u16) -> String {
    let mut names = String::new();
    let (mut same, mut ours) = (String::new(), String::new());
    for Bridge { name, .. } in bridges {
        let comma = if names.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        write!(names, "{comma}\"{name}\"").unwrap_or_default();
        writeln!(same, "    iifname \"{name}\" oifname \"{name}\" accept").unwrap_or_default();
        writeln!(ours, "    iif \"{name}\" meta l4proto tcp accept").unwrap_or_default();
    }
    let (dns, redirect) = if dns_port == 0 {
        (String::new(), String::new())
    } else {
        (
            format!("    udp dport {dns_port} accept\n"),
            format!("    iifname {{ {names} }} udp dport 53 redirect to :{dns_port}\n"),
        )
    };
    format!(
        "table inet {table}\ndelete table inet {table}\n\
         table inet {table} {{\n\
         \x20 chain prerouting {{\n\
         \x20   type nat hook prerouting priority dstnat; policy accept;\n\
         {redirect}\
         \x20 }}\n\
         \x20 chain forward {{\n\
         \x20   type filter hook forward priority filter; policy accept;\n\
         \x20   iifname {{ {names} }} jump leaving\n\
         \x20 }}\n\
         \x20 chain leaving {{\n\
         {same}\
         \x20   ct direction reply ct state established,related accept\n\
         \x20   jump refuse\n\
         \x20 }}\n\
         \x20 chain input {{\n\
         \x20   type filter hook input priority filter; policy accept;\n\
         \x20   iifname {{ {names} }} jump arriving\n\
         \x20 }}\n\
         \x20 chain arriving {{\n\
         {ours}\
         {dns}\
         \x20   meta l4proto {{ 1, 58 }} accept\n\
         \x20   ct direction reply ct state established,related accept\n\
         \x20   jump refuse\n\
         \x20 }}\n\
         \x20 chain refuse {{\n\
         \x20   meta l4proto tcp counter reject with tcp reset\n\
         \x20   counter reject with icmpx admin-prohibited\n\
         \x20 }}\n\
         }}\n"
    )
}

/// By number: not every host has `/etc/protocols`, where `ip` looks names up.
const TCP: &str = "6";

fn selector(name: &str) -> [&str; 8] {
    ["pref", PREFERENCE, "iif", name, "ipproto", TCP, "lookup", TABLE]
}

/// Until the rule is back, what it would route meets the default deny.
fn route(family: &str, name: &str) -> Result<(), String> {
    clear(family, name);
    ip(&[&[family, "rule", "add"][..], &selector(name)].concat())
}

fn unroute(name: &str) {
    clear("-4", name);
    clear("-6", name);
}

fn clear(family: &str, name: &str) {
    for _ in 0..MAX_COPIES {
        if ip(&[&[family, "rule", "del"][..], &selector(name)].concat()).is_err() {
            break;
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    output(args).map(drop)
}

fn output(args: &[&str]) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("running ip: {error}");
    let done = Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(failed)?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&done.stderr);
    let first = complaint.lines().next().unwrap_or("no reason given");
    Err(format!("ip {}: {first}", args.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(name: &str, index: u32, addresses: &[&str]) -> Bridge {
        let addresses = addresses.iter().map(|text| (text.parse().unwrap(), 24)).collect();
        Bridge { name: name.into(), index, addresses }
    }

    #[test]
    fn the_resolver_is_at_the_first_address_that_is_not_link_local() {
        let one = bridge("br0", 3, &["fe80::1", "172.17.0.1", "172.18.0.1", "2001:db8::1"]);
        let listener = one.listener();
        assert_eq!(listener.bridge_v4, u32::from_ne_bytes([172, 17, 0, 1]));
        assert_eq!(listener.bridge_v6, [0x2001_0db8_u32.to_be(), 0, 0, 1_u32.to_be()]);
        assert_eq!(bridge("br0", 3, &[]).listener().bridge_v4, 0);
    }

    #[test]
    fn only_tcp_to_the_host_is_accepted_by_index() {
        let text = ruleset("t", &[bridge("a", 3, &[]), bridge("b", 4, &[])], 53_000);
        assert!(text.contains("iifname { \"a\", \"b\" } jump leaving"), "{text}");
        assert!(text.contains("iifname \"a\" oifname \"a\" accept"), "{text}");
        assert!(!text.contains("iifname \"a\" oifname \"b\" accept"), "{text}");
        assert!(text.contains("iif \"b\" meta l4proto tcp accept"), "{text}");
        assert!(text.contains("udp dport 53 redirect to :53000"), "{text}");
        assert!(!ruleset("t", &[bridge("a", 3, &[])], 0).contains("udp"), "{text}");
    }
}
