//! What the spool remembers when it holds no segment: the `state` file.
//!
//! - input: the writer's position, at start, every [`BLOCK`] segments and at a clean end
//! - output: [`State`]
//! - bound: 4 KiB
//! - on failure: an unreadable state reads as [`Loaded::Unreadable`]; numbers then jump ahead

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::SpoolError;
use super::fs::SpoolFs;
use super::segment::Sha256;

/// Segment numbers that one state file reserves, so that it is not rewritten for each.
pub(super) const BLOCK: u64 = 1024;

const FILE: &str = "state";
const TEMP: &str = "state.tmp";
const TITLE: &str = "weir-spool-state 1";
const MAX_BYTES: u64 = 4096;

/// The content of the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Every number used so far is below this one.
    pub(super) next_number: u64,
    /// The last start of the gateway.
    pub(super) boot_id: Uuid,
    /// Its last record number; only with `clean`.
    pub(super) last_seq: u64,
    /// Hash of the last sealed segment; only with `clean`.
    pub(super) prev: Sha256,
    /// Whether it ended in order.
    pub(super) clean: bool,
}

/// What a start finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// No file: a new spool.
    Missing,
    /// A file that nobody wrote like this.
    Unreadable,
    /// The state.
    Known(State),
}

impl Loaded {
    /// Whether the last start had this boot id.
    pub(super) fn is_of(&self, boot_id: Uuid) -> bool {
        matches!(self, Self::Known(state) if state.boot_id == boot_id)
    }
}

impl State {
    fn text(&self) -> String {
        let body = format!(
            "{TITLE}\nnext_number {}\nboot_id {}\nlast_seq {}\nprev {}\nclean {}\n",
            self.next_number,
            self.boot_id,
            self.last_seq,
            hex::encode(self.prev),
            self.clean
        );
        let crc = crc32c::crc32c(body.as_bytes());
        format!("{body}crc32c {crc:08x}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, crc) = text.split_once("crc32c ")?;
        if u32::from_str_radix(crc.trim_end(), 16).ok()? != crc32c::crc32c(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let state = Self {
            next_number: value("next_number")?.parse().ok()?,
            boot_id: value("boot_id")?.parse().ok()?,
            last_seq: value("last_seq")?.parse().ok()?,
            prev: hex::decode(value("prev")?).ok()?.try_into().ok()?,
            clean: value("clean")?.parse().ok()?,
        };
        (state.text() == text).then_some(state)
    }

    pub(super) fn load(fs: &dyn SpoolFs, dir: &Path) -> Loaded {
        match fs.read(&dir.join(FILE), MAX_BYTES) {
            Ok(bytes) => {
                let state = String::from_utf8(bytes).ok().and_then(|text| Self::parse(&text));
                state.map_or(Loaded::Unreadable, Loaded::Known)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Loaded::Missing,
            Err(_) => Loaded::Unreadable,
        }
    }

    pub(super) fn store(&self, fs: &dyn SpoolFs, dir: &Path) -> Result<(), SpoolError> {
        let temp = dir.join(TEMP);
        let io = |doing| SpoolError::io(doing, &temp);
        remove_if_there(fs, &temp)?;
        let mut file = fs.create(&temp).map_err(io("creating"))?;
        file.write_all(self.text().as_bytes()).map_err(io("writing"))?;
        file.sync().map_err(io("syncing"))?;
        fs.rename(&temp, &dir.join(FILE)).map_err(io("renaming"))?;
        fs.sync_dir(dir).map_err(SpoolError::io("syncing directory", dir))
    }
}

/// Deletes a file that may be missing.
pub(super) fn remove_if_there(fs: &dyn SpoolFs, path: &Path) -> Result<(), SpoolError> {
    match fs.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("removing", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_its_text_and_any_changed_byte_is_noticed() {
        let state = State {
            next_number: 7,
            boot_id: Uuid::from_u128(9),
            last_seq: 3,
            prev: [5; 32],
            clean: true,
        };
        let text = state.text();
        assert_eq!(State::parse(&text), Some(state));
        for i in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[i] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(State::parse(&changed), None, "byte {i}");
        }
    }
}
