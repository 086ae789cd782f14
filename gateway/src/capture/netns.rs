//! Registers network namespaces of this host beside the gateway's own: containers.
//!
//! - input: descriptors of namespaces; the pins of an attached capture
//! - output: entries of maps `NETNS`, `LINKS` and `NEIGHBOURS`; until then a namespace is refused
//! - bound: [`weir_ebpf_common::MAX_NETNS`] namespaces, [`weir_ebpf_common::MAX_LINKS`] devices
//! - on failure: [`CaptureError`]; the namespace stays refused, or as it was registered before
//!
//! Root, in the namespace that `weir attach` was run in. A namespace is registered when its devices
//! are there and before its first process connects; devices that it gets later lead nowhere until it
//! is registered again. Entries of namespaces that are gone are removed by the next registration.

use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, SockMap};
use nix::sched::{CloneFlags, setns};
use weir_ebpf_common::{
    LISTENER_BRIDGED, LISTENER_LOCAL, Link as LinkKey, Listener, Peer, SLOT_V4, SLOT_V6,
};

use self::pairs::{Paired, pair};
use super::CaptureError;
use super::bridge::{self, Bridge};
use super::links::{self, Link};
use super::maps::{self, Maps, bpf, netns_cookie};
use super::settings::words;

mod neighbours;
mod pairs;

/// How a namespace reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The gateway listens on its loopback, on this port.
    Loopback(u16),
    /// By a bridge.
    Bridge,
}

/// A registered namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// `SO_NETNS_COOKIE` of its sockets; not reused until the next boot.
    pub cookie: u64,
    /// How it reaches the gateway.
    pub way: Way,
    /// Indexes of its devices by which packets may leave.
    pub links: Vec<u32>,
    /// Whether it is the one that the gateway runs in.
    pub is_own: bool,
}

/// Registers a namespace whose only way out is one of the configured bridges. Answers its cookie.
///
/// # Errors
/// [`CaptureError::UnknownNetns`] when a device of it leads somewhere else,
/// [`CaptureError::Unsupported`] when the caller is in the wrong namespace, and others when a step
/// fails.
pub fn register_bridged(pin_dir: &Path, netns: BorrowedFd<'_>) -> Result<u64, CaptureError> {
    let own = check_own(&pin_dir.into())?;
    remove_stale(pin_dir)?;
    let bridges = configured(pin_dir)?;
    let listing = |source| CaptureError::Io { action: "listing network devices".into(), source };
    let inside = inside(netns, || {
        let links = links::list().map_err(listing)?;
        Ok((netns_cookie()?, links, links::addresses().map_err(listing)?))
    })?;
    let (cookie, links, addresses) = inside;
    if cookie == own {
        return Err(CaptureError::UnknownNetns("it is the gateway's own".into()));
    }
    let id = links::id_of(netns).map_err(listing)?;
    let here = links::list().map_err(listing)?;
    let paired = pair(&links, &here, id, &bridges).map_err(CaptureError::UnknownNetns)?;
    let mut reached = Vec::new();
    for Paired { link, bridge, .. } in &paired {
        reached.extend(neighbours::ranges(
            bridge,
            addresses.iter().filter(|(name, ..)| *name == link.name),
        ));
    }
    neighbours::write(pin_dir, cookie, &reached)?;
    let mut map = open::<LinkKey, Peer>(pin_dir, "LINKS")?;
    let failed = |error: &dyn std::error::Error| bpf("writing LINKS".into(), error);
    for Paired { link, peer, bridge } in &paired {
        let key = LinkKey { netns_cookie: cookie, ifindex: link.index, pad: 0 };
        let peer = Peer { ifindex: peer.index, bridge: bridge.index };
        map.insert(key, peer, 0).map_err(|error| failed(&error))?;
    }
    let known = |key: &LinkKey| paired.iter().any(|one| one.link.index == key.ifindex);
    let keys: Vec<LinkKey> = map.keys().filter_map(Result::ok).collect();
    for gone in keys.iter().filter(|key| key.netns_cookie == cookie && !known(key)) {
        map.remove(gone).map_err(|error| failed(&error))?;
    }
    let listener = paired.first().map(|one| one.bridge.listener());
    // Last: from here on it is no longer refused.
    write(pin_dir, cookie, listener.unwrap_or_default())?;
    Ok(cookie)
}

/// Makes a namespace unknown again. Answers `false` when it was not registered.
///
/// # Errors
/// [`CaptureError::Unsupported`] for the gateway's own, [`CaptureError::Bpf`] when a map cannot be
/// written.
pub fn unregister(maps: impl Into<Maps>, cookie: u64) -> Result<bool, CaptureError> {
    let maps = maps.into();
    check_foreign(&maps, cookie)?;
    let mut map = open::<u64, Listener>(&maps, "NETNS")?;
    let was = map.get(&cookie, 0).is_ok();
    if was {
        // First: what remains of the others matters to nobody.
        map.remove(&cookie).map_err(|error| bpf("writing NETNS".into(), &error))?;
    }
    let mut links = open::<LinkKey, Peer>(&maps, "LINKS")?;
    let keys: Vec<LinkKey> = links.keys().filter_map(Result::ok).collect();
    for key in keys.iter().filter(|key| key.netns_cookie == cookie) {
        links.remove(key).map_err(|error| bpf("writing LINKS".into(), &error))?;
    }
    neighbours::write(&maps, cookie, &[])?;
    Ok(was)
}

/// All registered namespaces.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn list(maps: impl Into<Maps>) -> Result<Vec<Registered>, CaptureError> {
    let maps = maps.into();
    maps::config(&maps)?;
    let own = netns_cookie()?;
    let map = open::<u64, Listener>(&maps, "NETNS")?;
    let links: Vec<LinkKey> =
        open::<LinkKey, Peer>(&maps, "LINKS")?.keys().filter_map(Result::ok).collect();
    let mut all: Vec<Registered> = map
        .iter()
        .filter_map(Result::ok)
        .map(|(cookie, listener)| Registered {
            cookie,
            way: match listener.kind {
                LISTENER_BRIDGED => Way::Bridge,
                _ => Way::Loopback(listener.port),
            },
            links: links
                .iter()
                .filter(|key| key.netns_cookie == cookie)
                .map(|key| key.ifindex)
                .collect(),
            is_own: cookie == own,
        })
        .collect();
    all.sort_by_key(|one| one.cookie);
    Ok(all)
}

/// The cookie of a namespace.
///
/// # Errors
/// [`CaptureError::Io`] when it cannot be entered.
pub fn cookie_of(netns: BorrowedFd<'_>) -> Result<u64, CaptureError> {
    inside(netns, netns_cookie)
}

/// Where the resolver listens beside loopback: an address of each bridge and family.
///
/// # Errors
/// [`CaptureError::Bpf`] when the map cannot be read.
pub fn resolver_addresses(pin_dir: &Path) -> Result<Vec<IpAddr>, CaptureError> {
    let map = open::<u32, Listener>(pin_dir, "BRIDGES")?;
    let mut all = Vec::new();
    for (_, listener) in map.iter().filter_map(Result::ok) {
        if listener.bridge_v4 != 0 {
            all.push(IpAddr::from(listener.bridge_v4.to_ne_bytes()));
        }
        if listener.bridge_v6 != [0; 4] {
            let mut octets = [0; 16];
            for (bytes, word) in octets.chunks_exact_mut(4).zip(listener.bridge_v6) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            all.push(octets.into());
        }
    }
    Ok(all)
}

/// Lets a namespace reach the gateway's listener on its own loopback.
///
/// # Errors
/// As [`unregister`].
pub fn register_listening(pin_dir: &Path, cookie: u64, port: u16) -> Result<(), CaptureError> {
    check_foreign(pin_dir, cookie)?;
    write(pin_dir, cookie, Listener { port, addresses: 1, ..Listener::default() })
}

/// Forgets all namespaces with listeners of their own: those of an earlier gateway are gone.
///
/// # Errors
/// As [`unregister`].
pub fn forget_listening(maps: impl Into<Maps>) -> Result<(), CaptureError> {
    let maps = maps.into();
    for one in list(&maps)? {
        if matches!(one.way, Way::Loopback(_)) && !one.is_own {
            unregister(&maps, one.cookie)?;
        }
    }
    Ok(())
}

/// Whether a namespace is another one than the gateway's, where the calling thread is.
///
/// # Errors
/// [`CaptureError::Unsupported`] when it is not.
pub fn check_foreign(maps: impl Into<Maps>, cookie: u64) -> Result<(), CaptureError> {
    if cookie == check_own(&maps.into())? {
        return Err(CaptureError::Unsupported("the gateway's own namespace stays".into()));
    }
    Ok(())
}

/// Puts the gateway's transparent sockets where `weir_lookup` finds them, and takes out those of a
/// family that it does not have.
///
/// # Errors
/// [`CaptureError::Bpf`]
pub fn show_listeners(
    pin_dir: &Path,
    v4: Option<&TcpListener>,
    v6: Option<&TcpListener>,
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf("writing LISTENERS".into(), error);
    let map = map(pin_dir, "LISTENERS")?;
    let mut map = SockMap::try_from(map).map_err(|error| failed(&error))?;
    for (slot, listener) in [(SLOT_V4, v4), (SLOT_V6, v6)] {
        match listener {
            Some(listener) => map.set(slot, listener, 0).map_err(|error| failed(&error))?,
            // Missing is what was wanted.
            None => drop(map.clear_index(&slot)),
        }
    }
    Ok(())
}

/// Removes bridged namespaces none of whose pairs of devices exists any more.
pub(super) fn remove_stale(pin_dir: &Path) -> Result<(), CaptureError> {
    let here = links::list()
        .map_err(|source| CaptureError::Io { action: "listing network devices".into(), source })?;
    let mut alive = std::collections::BTreeSet::new();
    for (key, peer) in open::<LinkKey, Peer>(pin_dir, "LINKS")?.iter().filter_map(Result::ok) {
        let is_pair = |link: &Link| {
            link.index == peer.ifindex && link.kind == "veth" && link.peer == Some(key.ifindex)
        };
        if here.iter().any(is_pair) {
            alive.insert(key.netns_cookie);
        }
    }
    let known: Vec<(u64, Listener)> =
        open::<u64, Listener>(pin_dir, "NETNS")?.iter().filter_map(Result::ok).collect();
    for (cookie, listener) in known {
        if listener.kind == LISTENER_BRIDGED && !alive.contains(&cookie) {
            unregister(pin_dir, cookie)?;
        }
    }
    Ok(())
}

/// The bridges of the attached capture, as they are now.
fn configured(pin_dir: &Path) -> Result<Vec<Bridge>, CaptureError> {
    let indexes: Vec<u32> =
        open::<u32, Listener>(pin_dir, "BRIDGES")?.keys().filter_map(Result::ok).collect();
    if indexes.is_empty() {
        return Err(CaptureError::Unsupported("capture.bridges names no bridge".into()));
    }
    bridge::find(|link| indexes.contains(&link.index))
}

/// Whether the calling thread is where the gateway is; answers the cookie.
fn check_own(maps: &Maps) -> Result<u64, CaptureError> {
    maps::config(maps)?;
    let own = netns_cookie()?;
    let here = open::<u64, Listener>(maps, "NETNS")?.get(&own, 0);
    match here {
        Ok(listener) if listener.kind == LISTENER_LOCAL => Ok(own),
        _ => Err(CaptureError::Unsupported(
            "this is not the network namespace that weir was attached in".into(),
        )),
    }
}

fn write(pin_dir: &Path, cookie: u64, listener: Listener) -> Result<(), CaptureError> {
    let mut map = open::<u64, Listener>(pin_dir, "NETNS")?;
    map.insert(cookie, listener, 0).map_err(|error| bpf("writing NETNS".into(), &error))
}

/// Runs something in another namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    body: impl FnOnce() -> Result<T, CaptureError> + Send,
) -> Result<T, CaptureError> {
    let action = || "entering a network namespace".to_owned();
    let run = || {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| CaptureError::Io { action: action(), source: errno.into() })?;
        body()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_panic| {
        let source = std::io::Error::other("the thread panicked");
        Err(CaptureError::Io { action: action(), source })
    })
}

/// Opens the namespace of a process.
///
/// # Errors
/// [`CaptureError::Io`]
pub fn of_process(pid: u32) -> Result<File, CaptureError> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path)
        .map_err(|source| CaptureError::Io { action: format!("opening {path}"), source })
}

fn open<K: aya::Pod, V: aya::Pod>(
    maps: impl Into<Maps>,
    name: &str,
) -> Result<HashMap<MapData, K, V>, CaptureError> {
    HashMap::try_from(map(maps, name)?).map_err(|error| bpf(format!("opening {name}"), &error))
}

fn map(maps: impl Into<Maps>, name: &str) -> Result<Map, CaptureError> {
    maps.into().map(name).map_err(|error| bpf(format!("opening {name}"), &error))
}
