//! The `SpoolFs` seam: the few file operations that the spool needs.
//!
//! - input: paths below the spool directory
//! - output: bytes, handles, names
//! - bound: a read is at most as long as its caller allows
//! - on failure: the operating system's error, unchanged

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

#[cfg(test)]
pub(crate) mod faulty;

/// Files of the spool. One real and one fake implementation.
pub trait SpoolFs: Debug + Send + Sync + 'static {
    /// Makes a directory and its parents, for the owner only.
    ///
    /// # Errors
    /// As of `mkdir(2)`; an existing directory is none.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a directory, held until the value is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another holder exists.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Held>>;
    /// Makes a new file, for the owner only.
    ///
    /// # Errors
    /// `AlreadyExists`, or as of `open(2)`.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>>;
    /// Opens an existing file to append to it.
    ///
    /// # Errors
    /// As of `open(2)`.
    fn append(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>>;
    /// Reads a whole file.
    ///
    /// # Errors
    /// `FileTooLarge` beyond `max` bytes, or as of `read(2)`.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>>;
    /// Renames a file, replacing the target.
    ///
    /// # Errors
    /// As of `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    ///
    /// # Errors
    /// As of `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names and lengths of the regular files of a directory, in no order.
    ///
    /// # Errors
    /// As of `readdir(2)`.
    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, u64)>>;
    /// Makes creations, renames and deletions in a directory durable.
    ///
    /// # Errors
    /// As of `fsync(2)`.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that the file system has left for us.
    ///
    /// # Errors
    /// As of `statvfs(3)`.
    fn free(&self, dir: &Path) -> io::Result<u64>;
}

/// A file that only grows, or is cut.
pub trait SpoolFile: Debug + Send {
    /// Appends all bytes. After an error it is unknown how many arrived.
    ///
    /// # Errors
    /// As of `write(2)`.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content durable. After an error the unsynced part must be taken as lost: the
    /// kernel may have marked the pages clean.
    ///
    /// # Errors
    /// As of `fdatasync(2)`.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    ///
    /// # Errors
    /// As of `ftruncate(2)`.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

/// Something that is held until it is dropped.
pub trait Held: Debug + Send + Sync {}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl SpoolFs for RealFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Held>> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = Flock::lock(options.open(path)?, FlockArg::LockExclusiveNonblock);
        lock.map(|lock| Box::new(lock) as Box<dyn Held>).map_err(|(_, errno)| errno.into())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if len > max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(meta) if meta.is_file() => files.push((entry.file_name(), meta.len())),
                Ok(_) => {}
                // acknowledged by the sink since the directory was read
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(files)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

impl Held for Flock<File> {}

impl SpoolFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}
