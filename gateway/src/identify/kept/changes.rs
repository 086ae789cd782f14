//! Tells that files of a directory were replaced or removed.
//!
//! - input: directories
//! - output: a wake-up, once for any number of changes
//! - bound: one read of the kernel's queue; when that overflows, it is a change
//! - on failure: the operating system's answer
#![expect(unsafe_code, reason = "tokio wants to be told that a descriptor stays the same")]

use std::io::Result;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watched directories.
#[derive(Debug)]
pub struct Changes(AsyncFd<Queue>);

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// Watches from now on. Wants a runtime with input and output.
    ///
    /// # Errors
    /// When the kernel has no room, or a directory is missing.
    pub fn of(directories: &[&Path]) -> Result<Self> {
        let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for directory in directories {
            // Files are renamed into place.
            queue.add_watch(*directory, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE)?;
        }
        // SAFETY: the queue owns its descriptor, shows always the same one, and lives as long as the
        // registration.
        let watched = unsafe { AsyncFd::register_with_interest(Queue(queue), Interest::READABLE) };
        Ok(Self(watched.map_err(std::io::Error::from)?))
    }

    /// Waits for a change since the last call, or since the beginning.
    ///
    /// # Errors
    /// The operating system's answer.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(_some) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaced_and_removed_files_wake() {
        let dir = tempfile::tempdir().unwrap();
        let mut changes = Changes::of(&[dir.path()]).unwrap();
        std::fs::write(dir.path().join("a.half"), "").unwrap();
        std::fs::rename(dir.path().join("a.half"), dir.path().join("a")).unwrap();
        changes.next().await.unwrap();
        std::fs::remove_file(dir.path().join("a")).unwrap();
        changes.next().await.unwrap();
        assert!(Changes::of(&[&dir.path().join("none")]).is_err());
    }
}
