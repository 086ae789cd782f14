//! A file system in memory that fails on demand and can lose its power.
//!
//! - input: the operations of [`SpoolFs`], and what a test wants to go wrong
//! - output: the operations' results; the surviving files
//! - bound: `capacity` bytes
//! - on failure: as scripted

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Held, SpoolFile, SpoolFs};

/// See the module. Clones share their files.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyFs(Arc<Mutex<Disk>>);

/// What goes wrong, until it is cleared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Every write fails with this error number, after `short` bytes arrived.
    pub(crate) write: Option<i32>,
    pub(crate) short: usize,
    /// Every sync of a file fails.
    pub(crate) sync: Option<i32>,
    pub(crate) sync_dir: Option<i32>,
    pub(crate) create: Option<i32>,
    pub(crate) rename: Option<i32>,
    pub(crate) read: Option<i32>,
}

#[derive(Debug, Default)]
struct Disk {
    /// What a running process sees.
    names: BTreeMap<PathBuf, usize>,
    /// What is left after a power loss.
    durable_names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    faults: Faults,
    capacity: Option<u64>,
    locked: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug)]
struct Handle(FaultyFs, usize);

#[derive(Debug)]
struct Lock(FaultyFs, PathBuf);

impl Held for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.disk().locked.remove(&self.1);
    }
}

fn fault(number: Option<i32>) -> io::Result<()> {
    number.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
}

impl FaultyFs {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.disk().faults = faults;
    }

    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// Everything that was not synced is gone; of unsynced appends, `tail` more bytes happened to
    /// reach the disk.
    pub(crate) fn power_loss(&self, tail: usize) {
        let mut disk = self.disk();
        disk.names = disk.durable_names.clone();
        for inode in &mut disk.inodes {
            if inode.bytes.starts_with(&inode.synced) {
                let keep = (inode.synced.len() + tail).min(inode.bytes.len());
                inode.bytes.truncate(keep);
            } else {
                inode.bytes.clone_from(&inode.synced);
            }
            inode.synced.clone_from(&inode.bytes);
        }
    }

    /// Changes a file behind everyone's back.
    pub(crate) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let inode = disk.names[path];
        change(&mut disk.inodes[inode].bytes);
        disk.inodes[inode].synced = disk.inodes[inode].bytes.clone();
    }

    /// Paths that end like this.
    pub(crate) fn paths(&self, end: &str) -> Vec<PathBuf> {
        let disk = self.disk();
        disk.names.keys().filter(|p| p.to_str().unwrap().ends_with(end)).cloned().collect()
    }

    fn used(disk: &Disk) -> u64 {
        disk.names.values().map(|i| disk.inodes[*i].bytes.len() as u64).sum()
    }
}

impl SpoolFs for FaultyFs {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Held>> {
        if !self.disk().locked.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone(), dir.to_owned())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        let mut disk = self.disk();
        fault(disk.faults.create)?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(path.to_owned(), inode);
        Ok(Box::new(Handle(self.clone(), inode)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        let inode = self.disk().names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Handle(self.clone(), inode)))
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        fault(disk.faults.read)?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let bytes = disk.inodes[inode].bytes.clone();
        if bytes.len() as u64 > max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        fault(disk.faults.rename)?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk().names.remove(path).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, u64)>> {
        let disk = self.disk();
        let inside = disk.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, inode): (&PathBuf, &usize)| {
            (path.file_name().unwrap().to_owned(), disk.inodes[*inode].bytes.len() as u64)
        };
        Ok(inside.map(entry).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        fault(disk.faults.sync_dir)?;
        disk.durable_names.retain(|path, _| path.parent() != Some(dir));
        let now: Vec<_> = disk
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, inode)| (path.clone(), *inode))
            .collect();
        disk.durable_names.extend(now);
        Ok(())
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.map_or(u64::MAX / 2, |c| c.saturating_sub(Self::used(&disk))))
    }
}

impl SpoolFile for Handle {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.disk();
        let room = disk.capacity.map_or(u64::MAX, |c| c.saturating_sub(FaultyFs::used(&disk)));
        let mut taken = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let mut result = fault((taken < bytes.len()).then_some(libc::ENOSPC));
        if disk.faults.write.is_some() {
            taken = taken.min(disk.faults.short);
            result = fault(disk.faults.write);
        }
        disk.inodes[self.1].bytes.extend_from_slice(&bytes[..taken]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.0.disk();
        fault(disk.faults.sync)?;
        let inode = &mut disk.inodes[self.1];
        inode.synced.clone_from(&inode.bytes);
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.inodes[self.1].bytes.truncate(usize::try_from(len).unwrap());
        Ok(())
    }
}
