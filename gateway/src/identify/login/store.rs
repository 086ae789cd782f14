//! Logins that outlive a restart of the gateway: one file each, with who it is and the refresh token.
//!
//! - input: [`Kept`] logins
//! - output: the same after a restart, and for another gateway
//! - bound: `limits::MAX_LOGINS` files of `limits::MAX_LOGIN_FILE_BYTES`
//! - on failure: [`LoginError::File`]; a file that cannot be read as a login is removed
//!
//! A file is on disk before the call returns: a refresh token that was used once is worse than none.

use std::path::Path;

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LoginError, LoginKey};
use crate::clock::WallUs;
use crate::identify::kept::WrittenWho;
use crate::identify::private::{Dir, Held};
use crate::identify::who::Who;
use crate::limits::{MAX_LOGIN_FILE_BYTES, MAX_LOGINS};

const VERSION: u32 = 2;

/// A login.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: Uuid,
    pub(super) key: LoginKey,
    /// `iss`, as the configuration may rename a provider.
    pub(super) issuer: String,
    pub(super) subject: String,
    /// Who that is, as the last token said.
    pub(super) who: Who,
    /// When that token expires.
    pub(super) expires_at: WallUs,
    /// `None` where the provider gave none.
    pub(super) refresh: Option<SecretString>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    version: u32,
    id: Uuid,
    session: LoginKey,
    issuer: String,
    subject: String,
    who: WrittenWho,
    expires_at: i64,
    #[serde(borrow)]
    refresh_token: Option<std::borrow::Cow<'a, str>>,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Store(Dir);

impl Store {
    /// Makes the directory, or makes sure that it is private.
    pub(super) fn open(dir: &Path) -> Result<Self, LoginError> {
        Dir::open(dir).map(Self).map_err(failed("opening the directory of logins"))
    }

    /// Keeps other gateways from using the same logins; `None` while one does.
    pub(super) fn hold(&self) -> Result<Option<Held>, LoginError> {
        self.0.hold().map_err(failed("locking the directory of logins"))
    }

    /// Writes a login, over an older state of it.
    pub(super) fn save(&self, kept: &Kept) -> Result<(), LoginError> {
        let written = Written {
            version: VERSION,
            id: kept.id,
            session: kept.key.clone(),
            issuer: kept.issuer.clone(),
            subject: kept.subject.clone(),
            who: WrittenWho::of(&kept.who),
            expires_at: kept.expires_at.0,
            refresh_token: kept.refresh.as_ref().map(|token| token.expose_secret().into()),
        };
        let bytes = serde_json::to_vec(&written).map_err(std::io::Error::from);
        let saved = bytes.and_then(|bytes| self.0.write(&name(kept.id), &Zeroizing::new(bytes)));
        saved.map_err(failed("keeping a login"))
    }

    /// Forgets a login.
    pub(super) fn remove(&self, id: Uuid) -> Result<(), LoginError> {
        self.0.remove(&name(id)).map_err(failed("forgetting a login"))
    }

    /// All logins, for who holds the directory. Other files of it are removed: they are broken or
    /// half-written.
    pub(super) fn load(&self) -> Result<Vec<Kept>, LoginError> {
        let (all, broken) = self.look()?;
        for name in broken {
            tracing::warn!(name, "removing a file that is no kept login");
            self.0.remove(&name).map_err(failed("forgetting a login"))?;
        }
        Ok(all)
    }

    /// All logins, for who does not hold the directory, and the names of other files.
    pub(super) fn look(&self) -> Result<(Vec<Kept>, Vec<String>), LoginError> {
        let failed = failed("reading kept logins");
        let (mut all, mut broken) = (Vec::new(), Vec::new());
        for file in self.0.names().map_err(&failed)? {
            let bytes = self.0.read(&file, MAX_LOGIN_FILE_BYTES).map_err(&failed)?;
            match bytes.and_then(|bytes| parse(&bytes)).filter(|kept| name(kept.id) == file) {
                Some(kept) if all.len() < MAX_LOGINS => all.push(kept),
                _ => broken.push(file),
            }
        }
        Ok((all, broken))
    }
}

fn name(id: Uuid) -> String {
    format!("{}.json", id.simple())
}

fn parse(bytes: &[u8]) -> Option<Kept> {
    let written = serde_json::from_slice::<Written<'_>>(bytes).ok()?;
    let kept = Kept {
        id: written.id,
        key: written.session,
        issuer: written.issuer,
        subject: written.subject,
        who: written.who.who()?,
        expires_at: WallUs(written.expires_at),
        refresh: written.refresh_token.map(|token| token.as_ref().into()),
    };
    (written.version == VERSION).then_some(kept)
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> LoginError {
    move |source| LoginError::File { what, source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

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
            who: Who {
                display: "Alice".into(),
                method: "person_oidc",
                state: "active",
                ..Who::default()
            },
            expires_at: WallUs(7),
            refresh: Some("secret \"1\"".into()),
        }
    }

    #[test]
    fn logins_come_back_and_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        let store = Store::open(&dir).unwrap();
        store.save(&kept()).unwrap();
        store.save(&Kept { refresh: Some("secret \"2\"".into()), ..kept() }).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(name(kept().id)))), (0o700, 0o600));
        let all = Store::open(&dir).unwrap().load().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((&all[0].key, all[0].subject.as_str()), (&kept().key, "alice"));
        assert_eq!((&all[0].who, all[0].expires_at), (&kept().who, WallUs(7)));
        assert_eq!(all[0].refresh.as_ref().unwrap().expose_secret(), "secret \"2\"");
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
        let text = fs::read_to_string(dir.path().join(name(kept().id))).unwrap();
        for (name, text) in [
            ("a.json", text.as_str()),
            ("b.half", ""),
            ("c.json", "{}"),
            ("d.json", &text.replace("\"version\":2", "\"version\":3")),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(dir.path().join(name), private).unwrap();
        }
        fs::create_dir(dir.path().join("jobs")).unwrap();
        assert_eq!(store.load().unwrap().len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "and the directory of jobs");
    }
}
