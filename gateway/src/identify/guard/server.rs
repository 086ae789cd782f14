//! The side of the guard: answers three questions, and nothing else.
//!
//! - input: packets of the gateway's user
//! - output: a path, or the secrets of an environment, if procfs shows the device and inode that the asker
//!   named; what can be seen of the capture
//! - bound: [`MAX_CONNECTIONS`], one question of [`MAX_QUESTION_BYTES`] at a time on each
//! - on failure: the connection is closed
//!
//! Who asks must know the executable's device and inode: a compromised gateway learns the paths of
//! executables that it could name already, and nothing about processes that were not captured. Of an
//! environment it is told what looks like a secret, of captured processes only: what these send passes the
//! gateway anyway.

use std::io::{ErrorKind, Result};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::super::process;
use super::{KNOWN, MAX_PACKET_BYTES, UNKNOWN, receive, send};
use crate::capture::repair::look::Look;
use crate::capture::{ExeId, Process, ProcessKey};
use crate::packet;

/// One per worker of a gateway and its control thread, for those of a handover.
const MAX_CONNECTIONS: usize = 1024;
const MAX_QUESTION_BYTES: usize = 128;

/// Answers until it is dropped. Runs on a `LocalSet`.
///
/// # Errors
/// When the runtime does not take the socket.
pub async fn serve(
    listener: UnixListener,
    uid: u32,
    pin_dir: PathBuf,
    captured: PathBuf,
) -> Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let site = Rc::new(Site { pin_dir, captured });
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a question");
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let site = Rc::clone(&site);
        tokio::task::spawn_local(async move {
            if let Err(error) = talk(&stream, uid, &site).await {
                tracing::debug!(%error, "connection to the guard ended");
            }
            drop(place);
        });
    }
}

/// What the guard looks at.
struct Site {
    pin_dir: PathBuf,
    /// The captured cgroup, relative to the cgroup2 mount.
    captured: PathBuf,
}

async fn talk(stream: &UnixStream, uid: u32, site: &Site) -> Result<()> {
    packet::only(stream, uid)?;
    loop {
        let question = receive(stream).await?;
        if question.is_empty() {
            return Ok(());
        }
        let known = match question_of(&question).ok_or(ErrorKind::InvalidData)? {
            Question::Exe(process) => process::exe_path(&process).ok().map(String::into_bytes),
            Question::Environment(process) => {
                process::captured_secrets(&process, &site.captured).map(|all| all.to_vec())
            }
            Question::Capture => look(site.pin_dir.clone()).await,
        };
        match known {
            Some(answer) => send(stream, &[&[KNOWN], answer.as_slice()].concat()).await?,
            None => send(stream, UNKNOWN).await?,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Question {
    Exe(Process),
    Environment(Process),
    Capture,
}

fn question_of(bytes: &[u8]) -> Option<Question> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(MAX_QUESTION_BYTES))?).ok()?;
    let mut words = text.split(' ');
    let question = match words.next()? {
        "exe" => {
            let key = ProcessKey { tgid: words.next()?.parse().ok()?, start_time_ns: 0 };
            Question::Exe(Process { key, exe: exe(&mut words)?, ..Process::default() })
        }
        "environment" => {
            let (tgid, start) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let key = ProcessKey { tgid, start_time_ns: start };
            Question::Environment(Process { key, exe: exe(&mut words)?, ..Process::default() })
        }
        "capture" => Question::Capture,
        _ => return None,
    };
    words.next().is_none().then_some(question)
}

fn exe<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<ExeId> {
    Some(ExeId { dev: words.next()?.parse().ok()?, ino: words.next()?.parse().ok()? })
}

/// May run nft: not on this thread.
async fn look(pin_dir: PathBuf) -> Option<Vec<u8>> {
    let mut text = tokio::task::spawn_blocking(move || Look::at(&pin_dir)).await.ok()?.text();
    // With what the gateway reads; only the newest entries are behind it.
    text.truncate(text.floor_char_boundary(MAX_PACKET_BYTES - 1));
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::{Guard, Unanswered};
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use tokio::task::LocalSet;

    fn me() -> Process {
        let exe = std::fs::metadata("/proc/self/exe").unwrap();
        let (major, minor) = (libc::major(exe.dev()), libc::minor(exe.dev()));
        Process {
            key: ProcessKey { tgid: std::process::id(), start_time_ns: 0 },
            exe: ExeId { dev: (major << 20) | minor, ino: exe.ino() },
            ..Process::default()
        }
    }

    #[tokio::test]
    async fn an_executable_is_named_only_to_who_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let listener = packet::listen(&path, 8).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let local = LocalSet::new();
        local.spawn_local(async move {
            serve(listener, own, "/nowhere".into(), "/nowhere".into()).await
        });
        let test = async {
            let metrics = Arc::default();
            let guard = Guard::new(&path, Arc::clone(&metrics));
            let named = guard.exe_path(&me()).await.unwrap().unwrap();
            assert_eq!(Path::new(&named), std::env::current_exe().unwrap());
            let other = Process { exe: ExeId { ino: 1, ..me().exe }, ..me() };
            assert_eq!(guard.exe_path(&other).await, Ok(None));
            // Outside of the captured cgroup nothing is told.
            assert_eq!(guard.secrets(&me()).await, Ok(None));
            assert!(guard.look().await.unwrap().layers.iter().all(|one| !one.is_active()));
            assert_eq!(metrics.guard_failed_total.value(), 0);
            let nobody = Guard::new(&dir.path().join("nobody"), Arc::clone(&metrics));
            assert_eq!(nobody.exe_path(&me()).await, Err(Unanswered));
            assert_eq!(metrics.guard_failed_total.value(), 1);
        };
        local.run_until(test).await;
    }

    #[test]
    fn other_questions_are_none() {
        for bad in [
            "",
            "exe",
            "exe 1 2",
            "exe 1 2 3 4",
            "exe a 2 3",
            "environment 1 2 3",
            "environment 1 2 3 4 5",
            "capture x",
            "file /etc",
        ] {
            assert_eq!(question_of(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(question_of(b"capture"), Some(Question::Capture));
        assert!(question_of(&[b'x'; 9000]).is_none());
    }
}
