//! The account that the gateway runs under.
//!
//! - input: `gateway.user`, the user database
//! - output: [`Account`]
//! - bound: [`NUMBERS`] numbers tried
//! - on failure: an error that names the user

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Group, Uid, User, fchown, fchownat};

use super::CliError;
use crate::config::Config;

/// Whose number a gateway has when nobody is named and this user does not exist.
const DEFAULT: &str = "weir";
/// Numbers for hosts without that user: of the range that systemd keeps for services without one
/// (`DynamicUser=`), so that no package and no login has them.
const NUMBERS: std::ops::Range<u32> = 64_800..64_816;
/// Where systemd notes those it has given away.
const GIVEN_AWAY: &str = "/run/systemd/dynamic-uid";
/// Entries of one directory that change their owner, and how deep.
const MAX_ENTRIES: usize = 1_000_000;
const MAX_DEPTH: usize = 4;

/// Numbers to run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Account {
    /// The configured user, which must exist; else the user `weir`; else a number of its own.
    ///
    /// # Errors
    /// When there is no such user.
    pub(super) fn of(config: &Config) -> Result<Self, CliError> {
        let named = |name: &str| User::from_name(name).ok().flatten();
        let from = |user: User| Self { uid: user.uid, gid: user.gid };
        match config.gateway.user.as_deref() {
            Some(name) => named(name).map(from).ok_or_else(|| {
                let text = format!("gateway.user: no user {name:?}; make it, or leave the key out");
                CliError::Failed(text)
            }),
            None => match named(DEFAULT) {
                Some(user) => Ok(from(user)),
                None => Self::numbered(),
            },
        }
    }

    fn numbered() -> Result<Self, CliError> {
        let is_free = |number: &u32| {
            matches!(User::from_uid(Uid::from_raw(*number)), Ok(None))
                && matches!(Group::from_gid(Gid::from_raw(*number)), Ok(None))
                && !Path::new(GIVEN_AWAY).join(number.to_string()).exists()
        };
        let number = NUMBERS.clone().find(is_free).ok_or_else(|| {
            CliError::Failed(format!("no user {DEFAULT:?} and no free number in {NUMBERS:?}"))
        })?;
        Ok(Self { uid: Uid::from_raw(number), gid: Gid::from_raw(number) })
    }

    /// Makes a directory that belongs to the account, with all that is in it. Its parents are made
    /// for everybody to pass.
    ///
    /// # Errors
    /// With the path.
    pub(super) fn own(self, dir: &Path, mode: u32) -> Result<(), CliError> {
        let failed = |e: &dyn std::fmt::Display| {
            CliError::Failed(format!("preparing {} for the gateway: {e}", dir.display()))
        };
        let parents = dir.parent().unwrap_or(dir);
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(parents).map_err(|e| failed(&e))?;
        builder.mode(mode).create(dir).map_err(|e| failed(&e))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = open(dir, flags, Mode::empty()).map_err(|e| failed(&e))?;
        let owner = nix::sys::stat::fstat(&top).map_err(|e| failed(&e))?.st_uid;
        // What is the account's already is left alone: it could lay traps in it.
        if owner == self.uid.as_raw() {
            return Ok(());
        }
        let mut left = MAX_ENTRIES;
        self.take(&top, MAX_DEPTH, &mut left).map_err(|e| failed(&e))
    }

    /// Changes the owner of everything below a directory, then its own. Follows no link, and
    /// leaves files with a second name, which may be somebody else's.
    fn take(self, dir: &OwnedFd, depth: usize, left: &mut usize) -> std::io::Result<()> {
        let mut listing = nix::dir::Dir::from_fd(dir.try_clone()?)?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            *left = left.checked_sub(1).ok_or_else(|| std::io::Error::other("too many files"))?;
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match nix::fcntl::openat(dir, name, flags, Mode::empty()) {
                Ok(inner) if depth > 0 => self.take(&inner, depth - 1, left)?,
                Ok(_too_deep) => return Err(std::io::Error::other("too many levels")),
                Err(_no_directory) => {
                    let found = nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                    if found.st_nlink == 1 {
                        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                        fchownat(dir, name, Some(self.uid), Some(self.gid), flags)?;
                    }
                }
            }
        }
        Ok(fchown(dir, Some(self.uid), Some(self.gid))?)
    }

    /// Makes a socket file the account's. Its directory must not be.
    ///
    /// # Errors
    /// With the path.
    pub(super) fn own_socket(self, path: &Path) -> Result<(), CliError> {
        std::os::unix::fs::lchown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
            .map_err(|e| CliError::Failed(format!("giving {} to the gateway: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn with_user(user: Option<&str>) -> Config {
        let mut config = Config::parse("").unwrap();
        config.gateway.user = user.map(str::to_owned);
        config
    }

    #[test]
    fn a_named_user_must_exist_and_without_a_name_there_is_a_number() {
        let root = Account::of(&with_user(Some("root"))).unwrap();
        assert!(root.uid.is_root());
        let error = Account::of(&with_user(Some("nobody-of-that-name"))).unwrap_err();
        assert!(error.to_string().contains("nobody-of-that-name"), "{error}");
        let account = Account::of(&with_user(None)).unwrap();
        assert!(!account.uid.is_root(), "{account:?}");
    }

    #[test]
    fn what_is_taken_over_stops_at_links_and_second_names() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (dir.path().join("spool"), dir.path().join("other"));
        std::fs::create_dir_all(mine.join("slot-1")).unwrap();
        std::fs::write(&other, "").unwrap();
        std::fs::write(mine.join("slot-1/file"), "").unwrap();
        std::fs::hard_link(&other, mine.join("second")).unwrap();
        std::os::unix::fs::symlink(&other, mine.join("link")).unwrap();
        let account = Account { uid: Uid::from_raw(64_801), gid: Gid::from_raw(64_801) };
        account.own(&mine, 0o700).unwrap();
        let owner = |path: &Path| std::fs::symlink_metadata(path).unwrap().uid();
        assert_eq!((owner(&mine), owner(&mine.join("slot-1/file"))), (64_801, 64_801));
        assert_eq!(owner(&other), 0);
        // Later files of somebody else in it are none of ours.
        std::fs::write(mine.join("late"), "").unwrap();
        account.own(&mine, 0o700).unwrap();
        assert_eq!(owner(&mine.join("late")), 0);
    }
}
