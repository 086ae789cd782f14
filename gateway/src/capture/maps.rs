//! The maps: reads the record of an accepted socket, and the programs' counters.
//!
//! - input: [`Maps`]: pins made by `loader`, or descriptors of them; accepted sockets
//! - output: [`Captured`]; counter values
//! - bound: one map lookup (one system call) per record, no lock
//! - on failure: [`CaptureError`]; the caller closes the connection

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, SkStorage};
use weir_ebpf_common::{ABI_VERSION, Config, Counter, FLAG_FAIL_OPEN, RECORD_SOCKET_MOVED, Record};

use super::alive::Alive;
use super::{
    Capture, CaptureError, Captured, CgroupId, ExeId, OrigDst, Process, ProcessKey, Question,
    SocketCookie, Told, anchors::Membership, syscall,
};

/// Names of the pins that a gateway works with.
pub const OF_GATEWAY: [&str; 12] = [
    "CONFIG",
    "SERVER",
    "COUNTERS",
    "ALIVE",
    "EVENTS",
    "DNS_ASKERS",
    "NETNS",
    "LINKS",
    "NEIGHBOURS",
    "ANCHORS",
    "ANCHOR_ROOTS",
    "ANCHOR_OUTER",
];

/// Where maps are found.
#[derive(Clone, Debug)]
pub enum Maps {
    /// Below a pin directory. Needs read and write permission on the pins, and no capability.
    Pinned(PathBuf),
    /// By descriptors, under the names of their pins. Needs no permission at all.
    Handed(Arc<BTreeMap<&'static str, OwnedFd>>),
}

impl From<&Path> for Maps {
    fn from(pin_dir: &Path) -> Self {
        Self::Pinned(pin_dir.to_owned())
    }
}

impl From<&PathBuf> for Maps {
    fn from(pin_dir: &PathBuf) -> Self {
        Self::Pinned(pin_dir.clone())
    }
}

impl From<&Self> for Maps {
    fn from(maps: &Self) -> Self {
        maps.clone()
    }
}

impl Maps {
    /// Whether a map can be found.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Pinned(pin_dir) => pin_dir.join(name).exists(),
            Self::Handed(fds) => fds.contains_key(name),
        }
    }

    /// Opens a map by the name of its pin.
    ///
    /// # Errors
    /// [`CaptureError::Bpf`]
    pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
        &self,
        name: &str,
    ) -> Result<T, CaptureError> {
        self.typed(name).map_err(|error| bpf(format!("opening map {name}"), &error))
    }

    fn typed<T: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<T, MapError> {
        T::try_from(self.map(name)?)
    }

    /// Opens a map of any kind.
    ///
    /// # Errors
    /// The kernel's or aya's answer.
    pub(super) fn map(&self, name: &str) -> Result<Map, MapError> {
        Map::from_map_data(self.data(name)?)
    }

    fn data(&self, name: &str) -> Result<MapData, MapError> {
        match self {
            Self::Pinned(pin_dir) => MapData::from_pin(pin_dir.join(name)),
            Self::Handed(fds) => {
                let copy = fds.get(name).map(OwnedFd::try_clone).transpose();
                let copy = copy.map_err(MapError::IoError)?;
                MapData::from_fd(copy.ok_or(MapError::InvalidName { name: name.to_owned() })?)
            }
        }
    }
}

/// Descriptors of the maps in [`OF_GATEWAY`], for [`Maps::Handed`].
///
/// # Errors
/// As of [`PinnedCapture::open`].
pub fn descriptors(pin_dir: &Path) -> Result<Vec<(&'static str, OwnedFd)>, CaptureError> {
    config(pin_dir)?;
    let open = |name: &'static str| {
        let path = pin_dir.join(name);
        let io =
            |source| CaptureError::Io { action: format!("opening {}", path.display()), source };
        syscall::open(&path).map(|fd| (name, fd)).map_err(io)
    };
    OF_GATEWAY.into_iter().map(open).collect()
}

/// The real side of the [`Capture`] seam: socket storage, filled by the kernel before `accept(2)`
/// returns the socket.
#[derive(Debug)]
pub struct PinnedCapture {
    server: SkStorage<MapData, Record>,
    alive: Alive,
    /// `None` where this process may not read it: questions then name nobody.
    askers: Option<HashMap<MapData, weir_ebpf_common::Question, Record>>,
}

impl PinnedCapture {
    /// Opens the maps `SERVER`, `ALIVE` and `DNS_ASKERS`.
    ///
    /// # Errors
    /// [`CaptureError::AbiVersion`] when another version of weir made the pins,
    /// [`CaptureError::Bpf`] when they cannot be opened.
    pub fn open(maps: impl Into<Maps>) -> Result<Self, CaptureError> {
        let maps = maps.into();
        config(&maps)?;
        let askers = maps.open("DNS_ASKERS");
        if let Err(error) = &askers {
            tracing::warn!(%error, "questions to the resolver will not name the process");
        }
        let (server, alive) = (maps.open("SERVER")?, Alive::open(&maps)?);
        Ok(Self { server, alive, askers: askers.ok() })
    }
}

impl Capture for PinnedCapture {
    fn record(&self, socket: BorrowedFd<'_>) -> Result<Captured, CaptureError> {
        match self.server.get(&socket, 0) {
            Ok(record) => Ok(captured(&record)),
            Err(MapError::KeyNotFound) => Err(CaptureError::NoRecord),
            Err(error) => Err(bpf("reading the record of a socket".into(), &error)),
        }
    }

    fn beat(&self) -> Result<(), CaptureError> {
        self.alive.beat()
    }

    fn told_bypassed(&self) -> Result<Told, CaptureError> {
        self.alive.told()
    }

    fn tell_bypassed(&self, told: Told) -> Result<(), CaptureError> {
        self.alive.tell(told)
    }

    fn asker(&self, question: Question) -> Result<Captured, CaptureError> {
        let askers = self.askers.as_ref().ok_or(CaptureError::NoRecord)?;
        match askers.get(&key(question), 0) {
            Ok(record) => Ok(captured(&record)),
            Err(MapError::KeyNotFound) => Err(CaptureError::NoRecord),
            Err(error) => Err(bpf("reading who asked the resolver".into(), &error)),
        }
    }
}

/// As the hooks wrote it.
fn key(question: Question) -> weir_ebpf_common::Question {
    let octets = match question.client.ip() {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    let mut client_addr = [0; 4];
    for (word, bytes) in client_addr.iter_mut().zip(octets.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    weir_ebpf_common::Question {
        client_addr,
        client_port: question.client.port(),
        id: question.id.unwrap_or(0),
        protocol: if question.id.is_some() { UDP } else { TCP },
    }
}

const TCP: u32 = 6;
const UDP: u32 = 17;

/// The programs' configuration, if it is of this version.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn config(maps: impl Into<Maps>) -> Result<Config, CaptureError> {
    let maps = maps.into();
    let failed = |error: MapError| bpf("reading map CONFIG".into(), &error);
    let other = |found| CaptureError::AbiVersion { found, wanted: ABI_VERSION };
    let map: Array<_, Config> = match maps.typed("CONFIG") {
        Ok(map) => map,
        // An entry of another size belongs to a version whose number we cannot find in it.
        Err(MapError::InvalidValueSize { .. }) => return Err(other(0)),
        Err(error) => return Err(failed(error)),
    };
    let config = map.get(&0, 0).map_err(failed)?;
    if config.abi_version == ABI_VERSION { Ok(config) } else { Err(other(config.abi_version)) }
}

/// Whether the attached programs let traffic pass while no gateway is alive.
///
/// # Errors
/// See [`config`].
pub fn fails_open(maps: impl Into<Maps>) -> Result<bool, CaptureError> {
    config(maps).map(|config| config.flags & FLAG_FAIL_OPEN != 0)
}

/// The programs' counters, summed over CPUs, with their metric labels.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn counters(maps: impl Into<Maps>) -> Result<Vec<(&'static str, u64)>, CaptureError> {
    let maps = maps.into();
    config(&maps)?;
    let map: PerCpuArray<_, u64> = maps.open("COUNTERS")?;
    (0..)
        .zip(Counter::ALL)
        .map(|(index, counter)| {
            let failed = |error| bpf(format!("reading counter {}", counter.name()), &error);
            Ok((counter.name(), sum(&map.get(&index, 0).map_err(failed)?)))
        })
        .collect()
}

fn sum(values: &PerCpuValues<u64>) -> u64 {
    values.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one))
}

/// Tells of lost events: how many there are that were not told before, and remembers it where the
/// next gateway finds it.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn take_lost_events(maps: impl Into<Maps>) -> Result<u64, CaptureError> {
    let maps = maps.into();
    config(&maps)?;
    let mut map: PerCpuArray<_, u64> = maps.open("COUNTERS")?;
    let failed = |error| bpf("telling of lost events".into(), &error);
    let lost = map.get(&(Counter::EventsLost as u32), 0).map_err(failed)?;
    let told = map.get(&(Counter::EventsTold as u32), 0).map_err(failed)?;
    let new = sum(&lost).saturating_sub(sum(&told));
    if new > 0 {
        map.set(Counter::EventsTold as u32, lost, 0).map_err(failed)?;
    }
    Ok(new)
}

/// The calling thread's network namespace, as `bpf_get_netns_cookie` names it (Linux 5.14).
///
/// # Errors
/// [`CaptureError::Io`]
#[expect(unsafe_code, reason = "neither nix nor socket2 knows SO_NETNS_COOKIE")]
pub(super) fn netns_cookie() -> Result<u64, CaptureError> {
    let io = |source| CaptureError::Io {
        action: "reading the cookie of the network namespace".into(),
        source,
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io)?;
    let mut cookie = 0_u64;
    // Eight bytes: the kernel writes no more than that.
    let mut len: libc::socklen_t = 8;
    // SAFETY: the descriptor is open; both pointers are to live, writable variables, and `len` is
    // the size of the first.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if answer == 0 { Ok(cookie) } else { Err(io(std::io::Error::last_os_error())) }
}

pub(super) fn captured(record: &Record) -> Captured {
    Captured {
        orig_dst: OrigDst(orig_dst(record)),
        socket_cookie: SocketCookie(record.socket_cookie),
        process: Process {
            key: ProcessKey { tgid: record.tgid, start_time_ns: record.start_time_ns },
            uid: record.uid,
            gid: record.gid,
            cgroup_id: CgroupId(record.cgroup_id),
            netns_cookie: record.netns_cookie,
            exe: ExeId { dev: record.exe_dev, ino: record.exe_ino },
            ancestors: record
                .ancestors
                .iter()
                .take_while(|ancestor| ancestor.tgid != 0)
                .map(|one| ProcessKey { tgid: one.tgid, start_time_ns: one.start_time_ns })
                .collect(),
            comm: text(record.comm.split(|byte| *byte == 0).next().unwrap_or_default()),
            argv: argv(record),
            anchor: Membership::of(record.anchor_id, record.anchor_flags),
        },
        socket_moved: record.flags & RECORD_SOCKET_MOVED != 0,
    }
}

/// IPv4 destinations are IPv4 again, whichever family the client's socket had.
fn orig_dst(record: &Record) -> SocketAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(record.orig_addr) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), record.orig_port)
}

fn argv(record: &Record) -> Vec<String> {
    let len = usize::from(record.argv_len).min(record.argv.len());
    let bytes = record.argv.get(..len).unwrap_or_default();
    // The kernel ends each argument with NUL; the last one is missing where we cut.
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(text).collect()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn bpf(action: String, error: &dyn std::error::Error) -> CaptureError {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    CaptureError::Bpf { action, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_common::{Ancestor, COMM_BYTES, FAMILY_V6, MAX_ARGV_BYTES};

    fn record(argv: &[u8]) -> Record {
        let mut record = Record { family: FAMILY_V6, orig_port: 443, ..Record::default() };
        record.argv[..argv.len()].copy_from_slice(argv);
        record.argv_len = u16::try_from(argv.len()).unwrap();
        record
    }

    #[test]
    fn questions_are_looked_up_as_the_hooks_wrote_them() {
        let v4 = key(Question { client: "127.0.0.1:4000".parse().unwrap(), id: Some(0x1234) });
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(v4.client_addr, [0, 0, 0xffff_u32.to_be(), loopback]);
        assert_eq!((v4.client_port, v4.id, v4.protocol), (4000, 0x1234, 17));
        let v6 = key(Question { client: "[::1]:4000".parse().unwrap(), id: None });
        assert_eq!((v6.client_addr, v6.id, v6.protocol), ([0, 0, 0, 1_u32.to_be()], 0, 6));
    }

    #[test]
    fn mapped_destinations_become_v4() {
        let mut one = record(b"");
        one.orig_addr = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([192, 0, 2, 7])];
        assert_eq!(captured(&one).orig_dst.0, "192.0.2.7:443".parse().unwrap());
        one.orig_addr = [0x2001_0db8_u32.to_be(), 0, 0, 9_u32.to_be()];
        assert_eq!(captured(&one).orig_dst.0, "[2001:db8::9]:443".parse().unwrap());
    }

    #[test]
    fn argv_splits_at_nul_and_survives_nonsense() {
        assert_eq!(captured(&record(b"")).process.argv, Vec::<String>::new());
        assert_eq!(captured(&record(b"a\0-b\0\0")).process.argv, ["a", "-b", ""]);
        assert_eq!(captured(&record(b"a\0cut")).process.argv, ["a", "cut"]);
        assert_eq!(captured(&record(b"\xff\0")).process.argv, ["\u{fffd}"]);
        let mut long = record(&[b'x'; MAX_ARGV_BYTES]);
        long.argv_len = u16::MAX;
        assert_eq!(captured(&long).process.argv, ["x".repeat(MAX_ARGV_BYTES)]);
    }

    #[test]
    fn comm_and_ancestors_end_where_they_end() {
        let mut one = record(b"");
        one.comm = *b"0123456789abcdef";
        one.ancestors = [Ancestor { tgid: 7, start_time_ns: 8, pad: 0 }; 6];
        assert_eq!(captured(&one).process.comm.len(), COMM_BYTES);
        assert_eq!(captured(&one).process.ancestors.len(), 6);
        one.comm = *b"sh\0garbage\0\0\0\0\0\0";
        one.ancestors[1].tgid = 0;
        assert_eq!(captured(&one).process.comm, "sh");
        let parent = ProcessKey { tgid: 7, start_time_ns: 8 };
        assert_eq!(captured(&one).process.ancestors, [parent]);
    }
}
