//! Logins that outlive a restart of the gateway: one file each, with the refresh token.
//!
//! - input: [`Kept`] logins
//! - output: the same after a restart
//! - bound: `limits::MAX_LOGINS` files of `limits::MAX_LOGIN_FILE_BYTES`
//! - on failure: [`LoginError::File`]; a file that cannot be read as a login is removed
//!
//! The directory is the gateway's user's alone (0700, files 0600). A file is replaced as a whole and
//! is on disk before the call returns: a refresh token that was used once is worse than none.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Result, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LoginError, LoginKey};
use crate::limits::{MAX_LOGIN_FILE_BYTES, MAX_LOGINS};

const VERSION: u32 = 1;

/// A login with a refresh token.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: Uuid,
    pub(super) key: LoginKey,
    /// `iss`, as the configuration may rename a provider.
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) refresh: SecretString,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    version: u32,
    id: Uuid,
    session: LoginKey,
    issuer: String,
    subject: String,
    #[serde(borrow)]
    refresh_token: std::borrow::Cow<'a, str>,
}

/// The directory is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "unlocks when it is dropped")] Flock<File>);

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

impl Store {
    /// Makes the directory, or makes sure that it is private.
    pub(super) fn open(dir: &Path) -> std::result::Result<Self, LoginError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
            .map_err(failed("opening the directory of logins"))?;
        Ok(Self(dir.to_owned()))
    }

    /// Keeps other gateways from using the same logins; `None` while one does.
    pub(super) fn hold(&self) -> std::result::Result<Option<Held>, LoginError> {
        let failed = failed("locking the directory of logins");
        let lock = File::open(&self.0).map_err(&failed)?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(Held(held))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Writes a login, over an older state of it.
    pub(super) fn save(&self, kept: &Kept) -> std::result::Result<(), LoginError> {
        self.write(kept).map_err(failed("keeping a login"))
    }

    /// Forgets a login.
    pub(super) fn remove(&self, id: Uuid) -> std::result::Result<(), LoginError> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("forgetting a login")(error))
            }
            _ => self.sync().map_err(failed("forgetting a login")),
        }
    }

    /// All logins. Other files of the directory are removed: they are broken or half-written.
    pub(super) fn load(&self) -> std::result::Result<Vec<Kept>, LoginError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed("reading kept logins"))? {
            let path = entry.map_err(failed("reading kept logins"))?.path();
            match read(&path) {
                Ok(Some(kept)) if path == self.path(kept.id) && all.len() < MAX_LOGINS => {
                    all.push(kept);
                }
                Ok(_) => {
                    tracing::warn!(path = %path.display(), "removing a file that is no kept login");
                    fs::remove_file(&path).map_err(failed("forgetting a login"))?;
                }
                Err(error) => return Err(failed("reading kept logins")(error)),
            }
        }
        Ok(all)
    }

    fn write(&self, kept: &Kept) -> Result<()> {
        let written = Written {
            version: VERSION,
            id: kept.id,
            session: kept.key.clone(),
            issuer: kept.issuer.clone(),
            subject: kept.subject.clone(),
            refresh_token: kept.refresh.expose_secret().into(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&written)?);
        let path = self.path(kept.id);
        let half = path.with_extension("half");
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&half)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&half, &path)?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.0.join(format!("{}.json", id.simple()))
    }
}

fn read(path: &Path) -> Result<Option<Kept>> {
    let most = u64::try_from(MAX_LOGIN_FILE_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Zeroizing::new(Vec::new());
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(std::io::Error::other("there is something that is no file"));
    }
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    let Ok(written) = serde_json::from_slice::<Written<'_>>(&bytes) else { return Ok(None) };
    let same = written.version == VERSION;
    Ok(same.then(|| Kept {
        id: written.id,
        key: written.session,
        issuer: written.issuer,
        subject: written.subject,
        refresh: written.refresh_token.as_ref().into(),
    }))
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> LoginError {
    move |source| LoginError::File { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::session::Login;

    fn kept() -> Kept {
        Kept {
            id: Uuid::from_u128(7),
            key: LoginKey {
                boot: Uuid::from_u128(1),
                uid: 5,
                login: Some(Login::Scope { uid: 5, session: "c1".into() }),
            },
            issuer: "https://id.example".into(),
            subject: "alice".into(),
            refresh: "secret \"1\"".into(),
        }
    }

    #[test]
    fn logins_come_back_and_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        let store = Store::open(&dir).unwrap();
        store.save(&kept()).unwrap();
        store.save(&Kept { refresh: "secret \"2\"".into(), ..kept() }).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&store.path(kept().id))), (0o700, 0o600));
        let all = Store::open(&dir).unwrap().load().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((&all[0].key, all[0].subject.as_str()), (&kept().key, "alice"));
        assert_eq!(all[0].refresh.expose_secret(), "secret \"2\"");
        assert!(!format!("{all:?}").contains("secret"));
        store.remove(kept().id).unwrap();
        store.remove(kept().id).unwrap();
        assert!(store.load().unwrap().is_empty());
    }

    #[test]
    fn broken_and_misnamed_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&kept()).unwrap();
        let text = fs::read_to_string(store.path(kept().id)).unwrap();
        for (name, text) in [
            ("a.json", text.as_str()),
            ("b.half", ""),
            ("c.json", "{}"),
            ("d.json", &text.replace("\"version\":1", "\"version\":2")),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(store.load().unwrap().len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
