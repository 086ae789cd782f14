//! The pin directory: a bpffs directory that is the whole state of an attached capture.
//!
//! - input: a path below a bpffs mount
//! - output: [`Status`], [`Detached`]
//! - bound: [`MAX_PINS`] entries
//! - on failure: [`CaptureError`]; what could not be removed stays and is named
//!
//! Beside links and maps it holds symbolic links, which bpffs allows and which need no second
//! place to keep state: `captured` and `gateway` lead to the cgroups, `captured-id` has the id of
//! the former as its text, `gateway-id` and `gateway-port` likewise, `programs` names the programs that
//! were attached, `repair-N` tell what `repair` did, `made-N` lead to directories that were made for it, and `complete` is
//! written last.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::links::PinnedLink;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::maps::{self, bpf};
use super::{CaptureError, cgroup};

/// Entries that are looked at in a pin directory.
pub const MAX_PINS: usize = 256;

/// What there is to say about a pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No pins.
    Detached,
    /// Everything is pinned and the captured cgroup is the one it was attached to.
    Attached(Attachment),
    /// Pins of an attach that did not finish, or whose cgroup was removed. `attach` replaces them.
    Stale,
}

/// An attached capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The captured cgroup's directory.
    pub captured: PathBuf,
    /// The gateway's cgroup directory.
    pub gateway: PathBuf,
    /// Port that captured connections go to.
    pub gateway_port: u16,
}

/// What `detach` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links, maps and notes removed from the pin directory.
    pub pins: usize,
    /// Cgroups that were made by `attach` and are removed now.
    pub cgroups_removed: Vec<PathBuf>,
    /// Cgroups that were made by `attach` and are in use.
    pub cgroups_left: Vec<PathBuf>,
}

/// Looks at a pin directory.
///
/// # Errors
/// [`CaptureError::AbiVersion`] when another version of weir made the pins; [`CaptureError::Io`]
/// and [`CaptureError::Bpf`] when they cannot be read.
pub fn status(pin_dir: &Path) -> Result<Status, CaptureError> {
    if entries(pin_dir)?.is_empty() {
        return Ok(Status::Detached);
    }
    let note = |name: &str| std::fs::read_link(pin_dir.join(name)).ok();
    let (Some(captured), Some(gateway), Some(id), Some(_)) =
        (note("captured"), note("gateway"), note("captured-id"), note("complete"))
    else {
        return Ok(Status::Stale);
    };
    // A cgroup that was removed and made again is another cgroup: nothing is attached to it.
    if !cgroup::id(&captured).is_ok_and(|now| now.0.to_string().as_str() == id.as_os_str()) {
        return Ok(Status::Stale);
    }
    let gateway_port = maps::config(pin_dir)?.gateway_port;
    Ok(Status::Attached(Attachment { captured, gateway, gateway_port }))
}

/// Removes every pin, and with the links the hooks; then the cgroups that were made for them and
/// are not in use. Does nothing when there is nothing.
///
/// # Errors
/// [`CaptureError::Io`] when a pin cannot be removed; the others are removed all the same.
pub fn remove(pin_dir: &Path) -> Result<Detached, CaptureError> {
    let mut done = Detached::default();
    let mut made = Vec::new();
    let mut failed = None;
    let found = entries(pin_dir)?;
    if found.is_empty() && !pin_dir.exists() {
        return Ok(done);
    }
    for path in found {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("made-")) {
            made.extend(std::fs::read_link(&path));
        }
        // With the link open, its last reference goes when we close it, which detaches at once
        // and not some time later.
        let link = PinnedLink::from_pin(&path).ok();
        match std::fs::remove_file(&path) {
            Ok(()) => done.pins += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => failed = Some(io("removing pin", &path, source)),
        }
        drop(link);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    std::fs::remove_dir(pin_dir).map_err(|source| io("removing", pin_dir, source))?;
    // Innermost first.
    made.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    for dir in made {
        if cgroup::remove(&dir)? {
            done.cgroups_removed.push(dir);
        } else {
            done.cgroups_left.push(dir);
        }
    }
    Ok(done)
}

/// Makes an empty pin directory, mounting bpffs on its parent if nothing is mounted there.
/// Answers the mount point it mounted.
///
/// # Errors
/// [`CaptureError::Unsupported`] when the parent belongs to another use, [`CaptureError::Io`].
pub(super) fn create(pin_dir: &Path) -> Result<Option<PathBuf>, CaptureError> {
    let parent = pin_dir.parent().unwrap_or(pin_dir);
    let mut mounted = None;
    if !is_bpffs(parent) {
        std::fs::create_dir_all(parent).map_err(|source| io("making", parent, source))?;
        let mut listing =
            std::fs::read_dir(parent).map_err(|source| io("listing", parent, source))?;
        if listing.next().is_some() {
            return Err(CaptureError::Unsupported(format!(
                "{} is neither bpffs nor empty: pins need a bpffs directory",
                parent.display()
            )));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("bpf"), parent, Some("bpf"), flags, Some("mode=0700"))
            .map_err(|errno| io("mounting bpffs on", parent, errno.into()))?;
        mounted = Some(parent.to_owned());
    }
    match std::fs::create_dir(pin_dir) {
        Ok(()) => Ok(mounted),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(CaptureError::AlreadyAttached(pin_dir.to_owned()))
        }
        Err(source) => Err(io("making", pin_dir, source)),
    }
}

/// Writes a note: a symbolic link that nobody follows by accident.
pub(super) fn note(pin_dir: &Path, name: &str, text: impl AsRef<Path>) -> Result<(), CaptureError> {
    let path = pin_dir.join(name);
    std::os::unix::fs::symlink(text, &path).map_err(|source| io("noting", &path, source))
}

/// Writes a note in place of an earlier one: whoever reads it sees the one or the other.
pub(super) fn renote(
    pin_dir: &Path,
    name: &str,
    text: impl AsRef<Path>,
) -> Result<(), CaptureError> {
    let fresh = format!("{name}-new");
    let path = pin_dir.join(&fresh);
    // Left by whoever ended between the two steps.
    drop(std::fs::remove_file(&path));
    note(pin_dir, &fresh, text)?;
    std::fs::rename(&path, pin_dir.join(name)).map_err(|source| io("noting", &path, source))
}

/// The text of a note.
pub(super) fn noted(pin_dir: &Path, name: &str) -> Option<String> {
    Some(std::fs::read_link(pin_dir.join(name)).ok()?.to_string_lossy().into_owned())
}

/// The right to change what is attached, given back when dropped: one process at a time, so that
/// nobody takes another's half-made change for damage.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Option<Flock<File>>,
}

/// Waits for that right; `None` when somebody else keeps it for longer. Without a directory there is
/// nothing to change.
pub(super) fn turn(pin_dir: &Path, patience: Duration) -> Result<Option<Turn>, CaptureError> {
    let mut dir = match File::open(pin_dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Turn { _lock: None })),
        Err(source) => return Err(io("opening", pin_dir, source)),
    };
    let deadline = Instant::now() + patience;
    loop {
        dir = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(Turn { _lock: Some(lock) })),
            Err((dir, Errno::EWOULDBLOCK)) => dir,
            Err((_, errno)) => return Err(io("locking", pin_dir, errno.into())),
        };
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(TURN_POLL);
    }
}

/// Between two attempts at [`turn`].
const TURN_POLL: Duration = Duration::from_millis(10);
/// What a whole attach takes at most, on a slow machine.
pub(super) const TURN_PATIENCE: Duration = Duration::from_secs(60);

/// As [`turn`], with an error instead of nothing.
pub(super) fn own_turn(pin_dir: &Path) -> Result<Turn, CaptureError> {
    turn(pin_dir, TURN_PATIENCE)?.ok_or_else(|| {
        let late = std::io::Error::from(ErrorKind::TimedOut);
        io("waiting for another process that changes", pin_dir, late)
    })
}

/// What is in the pin directory; nothing if it does not exist.
fn entries(pin_dir: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let listing = match std::fs::read_dir(pin_dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io("listing", pin_dir, source)),
    };
    // The last line of defence against a mistyped path: we delete here.
    if !is_bpffs(pin_dir) {
        return Err(bpf(
            format!("opening pin directory {}", pin_dir.display()),
            &std::io::Error::new(ErrorKind::InvalidInput, "it is not on bpffs"),
        ));
    }
    listing
        .take(MAX_PINS)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|source| io("listing", pin_dir, source))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC)
}

fn io(action: &str, path: &Path, source: std::io::Error) -> CaptureError {
    CaptureError::Io { action: format!("{action} {}", path.display()), source }
}
