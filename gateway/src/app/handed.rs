//! The descriptors that a gateway works with, by name: opened here, or handed to it.
//!
//! - input: the configuration; descriptors of `weir launch`, of an older gateway, or of the
//!   service manager's descriptor store
//! - output: [`Handed`], complete
//! - bound: `gateway.workers` times `gateway.addresses` listeners and a handful more
//! - on failure: [`AppError`]; nothing stays open
//!
//! Names are those of `LISTEN_FDNAMES` (sd_listen_fds(3)). A socket belongs to the cgroup of the
//! process that made it, so that whoever opens them here must be in the gateway's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use super::{AppError, handover, identity, namespaces};
use crate::capture::maps::{self, Maps};
use crate::capture::{CaptureError, netns};
use crate::config::Config;
use crate::config::identity::Require;
use crate::dns::server::Sockets;
use crate::{accept, admin, packet};

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A listener of the captured port.
    Captured,
    /// A socket of the resolver, UDP or TCP.
    Dns,
    /// The listener for health and metrics.
    Admin,
    /// The listener where a newer gateway asks for all of these.
    Handover,
    /// The connection to the older gateway that these came from.
    Predecessor,
    /// A listener of what arrives by bridges.
    Bridged,
    /// The programs' map `CONFIG`.
    Config,
    /// `SERVER`: the records of accepted sockets.
    Records,
    /// `COUNTERS`
    Counters,
    /// `ALIVE`
    Alive,
    /// `EVENTS`
    Events,
    /// `DNS_ASKERS`
    Askers,
    /// `NETNS`
    Namespaces,
    /// `LINKS`
    Links,
    /// `NEIGHBOURS`
    Neighbours,
    /// The listener for orders about other network namespaces.
    Orders,
    /// `ANCHORS`
    Anchors,
    /// `ANCHOR_ROOTS`
    AnchorRoots,
    /// `ANCHOR_OUTER`
    AnchorOuter,
    /// The listener for hooks of CI runners, and people.
    Identity,
}

impl Name {
    const ALL: [Self; 20] = [
        Self::Captured,
        Self::Dns,
        Self::Admin,
        Self::Handover,
        Self::Predecessor,
        Self::Bridged,
        Self::Config,
        Self::Records,
        Self::Counters,
        Self::Alive,
        Self::Events,
        Self::Askers,
        Self::Namespaces,
        Self::Links,
        Self::Neighbours,
        Self::Orders,
        Self::Anchors,
        Self::AnchorRoots,
        Self::AnchorOuter,
        Self::Identity,
    ];

    /// As in `LISTEN_FDNAMES`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Dns => "dns",
            Self::Admin => "admin",
            Self::Handover => "handover",
            Self::Predecessor => "predecessor",
            Self::Bridged => "bridged",
            Self::Config => "config",
            Self::Records => "records",
            Self::Counters => "counters",
            Self::Alive => "alive",
            Self::Events => "events",
            Self::Askers => "askers",
            Self::Namespaces => "namespaces",
            Self::Links => "links",
            Self::Neighbours => "neighbours",
            Self::Orders => "orders",
            Self::Anchors => "anchors",
            Self::AnchorRoots => "anchor-roots",
            Self::AnchorOuter => "anchor-outer",
            Self::Identity => "identity",
        }
    }

    /// `None` for a name of another program or version.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// Whether an older gateway gives it to a newer one: sockets, not maps, which the newer one
    /// opens as they are then.
    const fn is_socket(self) -> bool {
        matches!(
            self,
            Self::Captured
                | Self::Bridged
                | Self::Dns
                | Self::Admin
                | Self::Handover
                | Self::Orders
                | Self::Identity
        )
    }

    /// The name of a map's pin; `None` for what is no map.
    const fn pin(self) -> Option<&'static str> {
        match self {
            Self::Config => Some("CONFIG"),
            Self::Records => Some("SERVER"),
            Self::Counters => Some("COUNTERS"),
            Self::Alive => Some("ALIVE"),
            Self::Events => Some("EVENTS"),
            Self::Askers => Some("DNS_ASKERS"),
            Self::Namespaces => Some("NETNS"),
            Self::Links => Some("LINKS"),
            Self::Neighbours => Some("NEIGHBOURS"),
            Self::Anchors => Some("ANCHORS"),
            Self::AnchorRoots => Some("ANCHOR_ROOTS"),
            Self::AnchorOuter => Some("ANCHOR_OUTER"),
            _ => None,
        }
    }
}

/// Named descriptors.
#[derive(Debug, Default)]
pub struct Handed(Vec<(Name, OwnedFd)>);

impl Handed {
    /// Adds one.
    pub fn push(&mut self, name: Name, fd: impl Into<OwnedFd>) {
        self.0.push((name, fd.into()));
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Removes all of a name.
    pub fn take(&mut self, name: Name) -> Vec<OwnedFd> {
        let (taken, kept) = std::mem::take(&mut self.0).into_iter().partition(|(n, _)| *n == name);
        self.0 = kept;
        let taken: Vec<(Name, OwnedFd)> = taken;
        taken.into_iter().map(|(_, fd)| fd).collect()
    }

    /// Removes the only one of a name.
    pub fn take_one(&mut self, name: Name) -> Option<OwnedFd> {
        self.take(name).into_iter().next()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &OwnedFd)> {
        self.0.iter().map(|(name, fd)| (*name, fd))
    }

    /// Whether there is one of a name.
    pub fn has(&self, name: Name) -> bool {
        self.0.iter().any(|(n, _)| *n == name)
    }

    /// Second descriptors of the same sockets, for a newer gateway.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn duplicate(&self) -> io::Result<Self> {
        let sockets = self.0.iter().filter(|(name, _)| name.is_socket());
        let copies = sockets.map(|(name, fd)| Ok((*name, fd.try_clone()?)));
        copies.collect::<io::Result<_>>().map(Self)
    }

    /// Opens what is missing; the place where a newer gateway asks only with `handover`.
    ///
    /// # Errors
    /// `Listen` for a port that is taken, `Io` for a socket file.
    pub fn complete(&mut self, config: &Config, handover: bool) -> Result<(), AppError> {
        // First, because they find out whether another gateway runs: its listeners would share
        // their connections with ours.
        let path = &config.admin.socket;
        let io = |what: &str| {
            let action = format!("listening for {what} on {}", path.display());
            move |source| AppError::Io { action, source }
        };
        if !self.has(Name::Admin) {
            self.push(Name::Admin, admin::listen(path).map_err(io("metrics"))?);
        }
        if handover && !self.has(Name::Handover) {
            let listener = packet::listen(&config.handover_socket(), handover::BACKLOG);
            self.push(Name::Handover, listener.map_err(io("a newer gateway beside"))?);
        }
        if handover && !self.has(Name::Orders) {
            match namespaces::bind(&config.orders_socket()) {
                Ok(listener) => self.push(Name::Orders, listener),
                Err(error) => {
                    tracing::warn!(%error, "no network namespaces can be registered for listeners");
                }
            }
        }
        if config.identity.require != Require::Off && !self.has(Name::Identity) {
            let path = config.identity_socket();
            let io = |source| AppError::Io {
                action: format!("listening for hooks on {}", path.display()),
                source,
            };
            self.push(Name::Identity, identity::listen(&path).map_err(io)?);
        }
        self.open_captured(config)?;
        let capture = &config.capture;
        if !capture.bridges.is_empty() && !self.has(Name::Bridged) {
            let opened = accept::bridge::open(&capture.pin_dir, config.gateway.workers)?;
            opened.into_iter().flatten().for_each(|one| self.push(Name::Bridged, one));
        }
        if !self.has(Name::Dns) {
            let port = config.dns.port;
            let failed = |source| AppError::Listen { port, source };
            let mut sockets = Sockets::open(port).map_err(failed)?;
            if !capture.bridges.is_empty() {
                let addresses = netns::resolver_addresses(&capture.pin_dir)?;
                sockets.open_also(&addresses).map_err(failed)?;
            }
            for fd in sockets.into_descriptors() {
                self.push(Name::Dns, fd);
            }
        }
        Ok(())
    }

    /// All listeners of all workers: one for each address and worker.
    fn open_captured(&mut self, config: &Config) -> Result<(), AppError> {
        let (mut port, addresses) = (config.gateway.port, config.gateway.addresses);
        let failed = |port| move |source| AppError::Listen { port, source };
        if !self.has(Name::Captured) {
            for _ in 0..config.gateway.workers {
                let listeners = accept::listen(port, addresses).map_err(failed(port))?;
                if let Some(first) = listeners.first() {
                    port = first.local_addr().map_err(failed(port))?.port();
                }
                listeners.into_iter().for_each(|one| self.push(Name::Captured, one));
            }
            return Ok(());
        }
        // Of an older gateway, whose configuration may have had fewer addresses.
        let mut there = BTreeSet::new();
        for (name, fd) in self.iter() {
            if name == Name::Captured {
                let socket = socket2::SockRef::from(fd);
                there.extend(socket.local_addr().map_err(failed(port))?.as_socket());
            }
        }
        if let Some(other) = there.iter().find(|addr| addr.port() != port) {
            let text = format!("the listeners that were handed over have port {}", other.port());
            return Err(failed(port)(io::Error::other(text)));
        }
        for addr in accept::addresses(port, addresses).filter(|addr| !there.contains(addr)) {
            let listener = accept::bind(addr, false).map_err(failed(port))?;
            self.push(Name::Captured, listener);
        }
        Ok(())
    }

    /// The listeners of each worker. Where there are fewer of an address than workers, some share
    /// one; where there are more, some workers have several: none may be without a worker.
    ///
    /// # Errors
    /// `Listen`
    pub(super) fn listeners(&mut self, workers: usize) -> Result<Vec<Vec<TcpListener>>, AppError> {
        let failed = |source| AppError::Listen { port: 0, source };
        let mut by_addr = BTreeMap::<SocketAddr, Vec<TcpListener>>::new();
        let bridged = self.take(Name::Bridged);
        for fd in self.take(Name::Captured).into_iter().chain(bridged) {
            let listener = TcpListener::from(fd);
            let addr = listener.local_addr().map_err(failed)?;
            by_addr.entry(addr).or_default().push(listener);
        }
        let mut all: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        for same in by_addr.into_values() {
            for at in 0..same.len().max(workers) {
                let listener = same.iter().cycle().nth(at).map(TcpListener::try_clone);
                let worker = all.get_mut(at.checked_rem(workers).unwrap_or(0));
                if let (Some(worker), Some(listener)) = (worker, listener) {
                    worker.push(listener.map_err(failed)?);
                }
            }
        }
        Ok(all)
    }

    /// The sockets of the resolver.
    ///
    /// # Errors
    /// `Listen` when they are not what they should be.
    pub(super) fn dns(&mut self, port: u16) -> Result<Sockets, AppError> {
        let fds = self.take(Name::Dns);
        Sockets::from_descriptors(fds).map_err(|source| AppError::Listen { port, source })
    }

    /// Adds the maps below a pin directory.
    ///
    /// # Errors
    /// As of [`maps::descriptors`].
    pub fn add_maps(&mut self, pin_dir: &Path) -> Result<(), CaptureError> {
        for (pin, fd) in maps::descriptors(pin_dir)? {
            if let Some(name) = Name::ALL.into_iter().find(|name| name.pin() == Some(pin)) {
                self.push(name, fd);
            }
        }
        Ok(())
    }

    /// The programs' maps: those that were handed over, or the pinned ones.
    pub fn maps(&mut self, pin_dir: &Path) -> Maps {
        let (maps, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|(name, _)| name.pin().is_some());
        self.0 = kept;
        if maps.is_empty() {
            return pin_dir.into();
        }
        let named = maps.into_iter().filter_map(|(name, fd)| Some((name.pin()?, fd)));
        Maps::Handed(Arc::new(named.collect()))
    }

    /// The listener for orders about network namespaces.
    pub(super) fn orders(&mut self) -> Option<UnixListener> {
        self.take_one(Name::Orders).map(UnixListener::from)
    }

    /// The listener for hooks and people.
    pub(super) fn identity(&mut self) -> Option<UnixListener> {
        self.take_one(Name::Identity).map(UnixListener::from)
    }

    /// The admin socket.
    pub(super) fn admin(&mut self) -> Option<UnixListener> {
        self.take_one(Name::Admin).map(UnixListener::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(workers: usize) -> Config {
        let mut config = Config::parse("").unwrap();
        config.gateway.port = 0;
        config.gateway.addresses = 2;
        config.gateway.workers = workers;
        config
    }

    #[test]
    fn names_survive_their_text() {
        for name in Name::ALL {
            assert_eq!(Name::parse(name.as_str()), Some(name));
        }
        assert_eq!(Name::parse("other"), None);
    }

    #[test]
    fn every_listener_has_a_worker_whatever_their_numbers() {
        for (opened, workers) in [(3, 3), (2, 5), (5, 2)] {
            let mut handed = Handed::default();
            handed.open_captured(&config(opened)).unwrap();
            let total = handed.iter().count();
            let addresses = total / opened;
            let all = handed.listeners(workers).unwrap();
            assert_eq!(all.len(), workers);
            let cookies = all.iter().flatten().map(|one| socket2::SockRef::from(one).cookie());
            let distinct: BTreeSet<u64> = cookies.map(Result::unwrap).collect();
            assert_eq!(distinct.len(), total, "{opened} for {workers}: one is accepted by nobody");
            for worker in &all {
                let own: BTreeSet<_> = worker.iter().map(|l| l.local_addr().unwrap()).collect();
                assert_eq!(own.len(), addresses, "a worker lacks an address");
            }
        }
    }

    #[test]
    fn addresses_that_the_older_gateway_lacked_are_opened() {
        let mut handed = Handed::default();
        handed.open_captured(&config(1)).unwrap();
        let before = handed.iter().count();
        let first = handed.iter().next().map(|(_, fd)| socket2::SockRef::from(fd).local_addr());
        let port = first.unwrap().unwrap().as_socket().unwrap().port();
        let mut more = config(1);
        more.gateway.port = port;
        more.gateway.addresses = 4;
        handed.open_captured(&more).unwrap();
        assert_eq!(handed.iter().count(), before + 2);
        more.gateway.port = port.wrapping_add(1);
        assert!(handed.open_captured(&more).is_err(), "another port needs a restart");
    }
}
