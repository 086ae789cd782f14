//! bpf(2) itself, for what aya 0.14 does not offer: links of every kind that can be pinned, and
//! replaced in place; and process descriptors.
//!
//! - input: descriptors and paths
//! - output: descriptors
//! - bound: one system call each
//! - on failure: the operating system's answer
#![expect(unsafe_code, reason = "aya cannot pin all links nor update them; nix has no pidfd_open")]

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

/// What a link attaches to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A cgroup's directory.
    Cgroup(BorrowedFd<'a>),
    /// A network device of the calling thread's namespace.
    Device(u32),
    /// A network namespace.
    Netns(BorrowedFd<'a>),
    /// The place that the program was loaded for.
    Whole,
}

/// What a link runs, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Never given to another program while this one is loaded.
    pub(super) program_id: u32,
    /// Id of the cgroup, inode of the namespace, or index of the device; 0 when that is gone or the link was detached.
    /// Of other kinds of links nothing is said.
    pub(super) target: u64,
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a link (5.8): `struct bpf_link_info`.
pub(super) fn link_info(link: BorrowedFd<'_>) -> Result<LinkInfo> {
    const TYPE_NETNS: u32 = 5;
    const TYPE_TCX: u32 = 11;
    let mut info = [0_u64; 16];
    let size = u32::try_from(size_of_val(&info)).map_err(Error::other)?;
    let [low, high] = halves(info.as_mut_ptr().addr());
    bpf(OBJ_GET_INFO_BY_FD, &[number(link)?, size, low, high])?;
    let [first, second, third, ..] = info.map(words);
    let ([kind, _id], [program_id, _pad], [index, _]) = (first, second, third);
    let [_, _, cgroup_id, ..] = info;
    let has_small = matches!(kind, TYPE_NETNS | TYPE_TCX);
    let target = if has_small { u64::from(index) } else { cgroup_id };
    Ok(LinkInfo { program_id, target })
}

/// `BPF_LINK_CREATE` (5.7) without flags: links of a cgroup add up.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: u32,
) -> Result<OwnedFd> {
    let to = match target {
        Target::Cgroup(fd) | Target::Netns(fd) => number(fd)?,
        Target::Device(index) => index,
        Target::Whole => 0,
    };
    descriptor(LINK_CREATE, &[number(program)?, to, attach_type])
}

/// `BPF_LINK_UPDATE` (5.7): from one packet or call to the next, the other program runs.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    bpf(LINK_UPDATE, &[number(link)?, number(program)?]).map(drop)
}

/// `BPF_OBJ_PIN` (4.4).
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let [low, high] = halves(path.as_ptr().addr());
    bpf(OBJ_PIN, &[low, high, number(object)?]).map(drop)
}

/// `BPF_OBJ_GET` (4.4).
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(OBJ_GET, &halves(path.as_ptr().addr()))
}

/// Whether BPF programs are among the active security modules: lsm_list_modules(2), Linux 6.8.
pub(super) fn has_bpf_lsm() -> Result<bool> {
    // The number is the same on every architecture.
    const LSM_LIST_MODULES: libc::c_long = 461;
    const LSM_ID_BPF: u64 = 110;
    let mut ids = [0_u64; 64];
    let mut size = u32::try_from(size_of_val(&ids)).map_err(Error::other)?;
    // SAFETY: both pointers are to live, writable variables, and `size` is the size of the first.
    let answer = unsafe { libc::syscall(LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut size, 0) };
    if answer < 0 {
        return Err(Error::last_os_error());
    }
    Ok(ids.contains(&LSM_ID_BPF))
}

/// `pidfd_open(2)` (5.3): names a process for as long as the descriptor is open.
pub(super) fn pidfd(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).map_err(Error::other)?;
    // SAFETY: takes two numbers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(answer).map_err(Error::other)?;
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Watches a descriptor without owning it.
pub(super) fn readable(fd: BorrowedFd<'_>) -> Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open, and the same one, for as long as the result
    // lives.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(Error::from)
}

fn number(fd: BorrowedFd<'_>) -> Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(Error::other)
}

/// A pointer as `union bpf_attr` has it: 64 bits on every architecture.
fn halves(address: usize) -> [u32; 2] {
    words(address as u64)
}

/// Two words in the order that they have in memory.
fn words(both: u64) -> [u32; 2] {
    let bytes = both.to_ne_bytes();
    let half =
        |at| u32::from_ne_bytes(std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0)));
    [half(0), half(4)]
}

fn descriptor(command: libc::c_int, words: &[u32]) -> Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, words)?).map_err(Error::other)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `words` begin `union bpf_attr`; the rest of it is zero. Pointers among them are valid until the
/// callers' borrows end, which is after this returns.
fn bpf(command: libc::c_int, words: &[u32]) -> Result<libc::c_long> {
    let mut attr = [0_u64; 16];
    for (to, pair) in attr.iter_mut().zip(words.chunks(2)) {
        let mut bytes = [0; 8];
        for (half, word) in bytes.chunks_exact_mut(4).zip(pair) {
            half.copy_from_slice(&word.to_ne_bytes());
        }
        *to = u64::from_ne_bytes(bytes);
    }
    if words.len() > attr.len() * 2 {
        return Err(ErrorKind::InvalidInput.into());
    }
    // SAFETY: `attr` is live, writable, aligned to eight bytes and as long as we say; the kernel
    // reads no further, and takes trailing zeros for absent fields.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) };
    if answer < 0 { Err(Error::last_os_error()) } else { Ok(answer) }
}
