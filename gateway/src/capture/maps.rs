//! The pinned maps: reads the record of an accepted socket, and the programs' counters.
//!
//! - input: bpffs pins made by `loader`; descriptors of accepted sockets
//! - output: [`Captured`]; counter values
//! - bound: one map lookup (one system call) per record, no lock
//! - on failure: [`CaptureError`]; the caller closes the connection

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, SkStorage};
use weir_ebpf_common::{ABI_VERSION, Config, Counter, Record};

use super::{
    Capture, CaptureError, Captured, CgroupId, ExeId, OrigDst, Process, ProcessKey, SocketCookie,
};

/// The real side of the [`Capture`] seam: socket storage, filled by the kernel before `accept(2)`
/// returns the socket.
#[derive(Debug)]
pub struct PinnedCapture {
    server: SkStorage<MapData, Record>,
}

impl PinnedCapture {
    /// Opens the map `SERVER` below a pin directory. Needs read and write permission on the pins,
    /// and no capability.
    ///
    /// # Errors
    /// [`CaptureError::AbiVersion`] when another version of weir made the pins,
    /// [`CaptureError::Bpf`] when they cannot be opened.
    pub fn open(pin_dir: &Path) -> Result<Self, CaptureError> {
        config(pin_dir)?;
        let path = pin_dir.join("SERVER");
        let action = || format!("opening {}", path.display());
        let data = MapData::from_pin(&path).map_err(|error| bpf(action(), &error))?;
        let map = Map::from_map_data(data).map_err(|error| bpf(action(), &error))?;
        let server = SkStorage::try_from(map).map_err(|error| bpf(action(), &error))?;
        Ok(Self { server })
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
}

/// The pinned configuration, if it is of this version.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn config(pin_dir: &Path) -> Result<Config, CaptureError> {
    let path = pin_dir.join("CONFIG");
    let action = || format!("reading {}", path.display());
    let data = MapData::from_pin(&path).map_err(|error| bpf(action(), &error))?;
    let other = |found| CaptureError::AbiVersion { found, wanted: ABI_VERSION };
    let map = match Array::<_, Config>::try_from(
        Map::from_map_data(data).map_err(|error| bpf(action(), &error))?,
    ) {
        Ok(map) => map,
        // An entry of another size belongs to a version whose number we cannot find in it.
        Err(MapError::InvalidValueSize { .. }) => return Err(other(0)),
        Err(error) => return Err(bpf(action(), &error)),
    };
    let config = map.get(&0, 0).map_err(|error| bpf(action(), &error))?;
    if config.abi_version == ABI_VERSION { Ok(config) } else { Err(other(config.abi_version)) }
}

/// The programs' counters, summed over CPUs, with their metric labels.
///
/// # Errors
/// [`CaptureError::AbiVersion`] or [`CaptureError::Bpf`].
pub fn counters(pin_dir: &Path) -> Result<Vec<(&'static str, u64)>, CaptureError> {
    config(pin_dir)?;
    let path = pin_dir.join("COUNTERS");
    let action = || format!("reading {}", path.display());
    let data = MapData::from_pin(&path).map_err(|error| bpf(action(), &error))?;
    let map = Map::from_map_data(data).map_err(|error| bpf(action(), &error))?;
    let map = PerCpuArray::<_, u64>::try_from(map).map_err(|error| bpf(action(), &error))?;
    (0..)
        .zip(Counter::ALL)
        .map(|(index, counter)| {
            let values = map.get(&index, 0).map_err(|error| bpf(action(), &error))?;
            Ok((counter.name(), values.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one))))
        })
        .collect()
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

fn captured(record: &Record) -> Captured {
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
        },
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
    let len = usize::try_from(record.argv_len).unwrap_or(usize::MAX).min(record.argv.len());
    let bytes = record.argv.get(..len).unwrap_or_default();
    // The kernel ends each argument with NUL; the last one is missing where we cut.
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(text).collect()
}

fn text(bytes: &[u8]) -> String {
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
        record.argv_len = u32::try_from(argv.len()).unwrap();
        record
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
        long.argv_len = u32::MAX;
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
