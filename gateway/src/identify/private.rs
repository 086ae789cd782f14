//! Files that only the gateway's user may read, replaced as a whole.
//!
//! - input: names and bytes
//! - output: the same bytes after a crash, or the earlier ones
//! - bound: the caller's, for bytes and for files
//! - on failure: the operating system's answer; a file of somebody else's is none
//!
//! The directory is 0700, files are 0600, and a file is on disk before [`Dir::write`] returns.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use secrecy::zeroize::Zeroizing;

/// A file that was not written to its end.
const HALF: &str = "half";

/// The directory is ours until this is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "unlocks when it is dropped")] Flock<File>);

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Dir(PathBuf);

impl Dir {
    /// Makes the directory, or makes sure that it is private.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        Ok(Self(dir.to_owned()))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps other gateways from changing it; `None` while one does.
    pub(super) fn hold(&self) -> Result<Option<Held>> {
        match Flock::lock(File::open(&self.0)?, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(Held(held))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Names of what is not a directory.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A file. `None` when it is gone, longer than `most`, no file, or not ours alone.
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.0.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let is_ours = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
        if !meta.is_file() || !is_ours {
            return Ok(None);
        }
        let mut bytes = Zeroizing::new(Vec::new());
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| bytes.len() <= most))
    }

    /// Writes a file, over an older one.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        let half = path.with_extension(HALF);
        // One that is left may be somebody's who could read what is written.
        drop(fs::remove_file(&half));
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&half)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&half, &path)?;
        self.sync()
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Whether a name is of a file that was not written to its end.
    pub(super) fn is_half(name: &str) -> bool {
        Path::new(name).extension().is_some_and(|end| end == HALF)
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(&root.path().join("a/b")).unwrap();
        dir.write("x.json", b"one").unwrap();
        dir.write("x.json", b"two").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&dir.path().join("x.json"))), (0o700, 0o600));
        assert_eq!(dir.read("x.json", 3).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(dir.names().unwrap(), ["x.json"]);
        assert!(dir.read("x.json", 2).unwrap().is_none(), "longer than that");
        dir.remove("x.json").unwrap();
        dir.remove("x.json").unwrap();
        assert!(dir.read("x.json", 3).unwrap().is_none());
    }

    #[test]
    fn what_others_may_read_or_lead_elsewhere_is_no_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        dir.write("own.json", b"{}").unwrap();
        std::os::unix::fs::symlink(dir.path().join("own.json"), dir.path().join("link.json"))
            .unwrap();
        fs::write(dir.path().join("open.json"), "{}").unwrap();
        fs::create_dir(dir.path().join("dir.json")).unwrap();
        for name in ["link.json", "open.json", "dir.json"] {
            assert!(dir.read(name, 10).unwrap().is_none(), "{name}");
        }
        assert!(!dir.names().unwrap().contains(&"dir.json".to_owned()));
    }

    #[test]
    fn one_gateway_at_a_time_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let held = dir.hold().unwrap();
        assert!(held.is_some() && dir.hold().unwrap().is_none());
        drop(held);
        assert!(dir.hold().unwrap().is_some());
    }
}
