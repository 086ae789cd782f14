//! What a start does with the files of an earlier one: seals what was open, sets aside what cannot
//! be read.
//!
//! - input: a spool directory that nobody writes to
//! - output: [`Recovered`], and a directory with sealed segments only
//! - bound: one segment in memory at a time
//! - on failure: an unreadable file moves to `quarantine/`; only a disk that refuses to be written
//!   stops the start

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::SpoolError;
use super::fs::SpoolFs;
use super::segment::{self, End, Footer, MAX_FILE_BYTES, MIN_HEADER_BYTES, Scan, Sha256};
use super::state::{Loaded, State, remove_if_there};

/// Directory of segments that could not be read.
pub const QUARANTINE: &str = "quarantine";
const OPEN: &str = "open";
const SEALED: &str = "seg";
const TEMP: &str = "tmp";

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Open segments of earlier starts, oldest first.
    pub segments: Vec<RecoveredSegment>,
    /// Open segments that could not be read at all.
    pub quarantined: Vec<Quarantined>,
    /// Starts that did not end in order; their latest records may be missing.
    pub crashed: Vec<Crash>,
}

/// An open segment that is now sealed, or deleted because it held no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Who wrote it.
    pub boot_id: Uuid,
    /// Its number.
    pub number: u64,
    /// Its last intact record; the one before its first when there is none.
    pub last_seq: u64,
    /// Its intact records.
    pub records: u64,
    /// Bytes behind them that were cut off.
    pub cut_bytes: u64,
}

/// A segment that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number.
    pub number: u64,
    /// Why.
    pub reason: String,
}

/// A start that did not end in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Which; nil when not even that is known.
    pub boot_id: Uuid,
    /// Its last record in the spool, when one is left to tell.
    pub last_seq: Option<u64>,
}

/// Where a writer continues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) next_number: u64,
    pub(super) prev: Sha256,
}

pub(super) fn open_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{OPEN}"))
}

pub(super) fn sealed_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{SEALED}"))
}

/// Numbers and lengths of the sealed segments, oldest first.
pub(super) fn sealed_numbers(
    fs: &dyn SpoolFs,
    dir: &Path,
) -> Result<BTreeMap<u64, u64>, SpoolError> {
    numbers(fs, dir, SEALED)
}

/// Numbers and lengths of the open segments, oldest first.
pub(super) fn open_numbers(fs: &dyn SpoolFs, dir: &Path) -> Result<BTreeMap<u64, u64>, SpoolError> {
    numbers(fs, dir, OPEN)
}

fn numbers(fs: &dyn SpoolFs, dir: &Path, kind: &str) -> Result<BTreeMap<u64, u64>, SpoolError> {
    let files = fs.list(dir).map_err(SpoolError::io("listing", dir))?;
    let number = |name: &str| {
        let (stem, extension) = name.split_once('.')?;
        let digits = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
        (digits && extension == kind).then(|| stem.parse().ok())?
    };
    Ok(files.iter().filter_map(|(name, len)| Some((number(name.to_str()?)?, *len))).collect())
}

/// Brings the directory in order. The caller holds the lock.
pub(super) fn recover(
    fs: &dyn SpoolFs,
    dir: &Path,
    jump_to: u64,
) -> Result<(Recovered, Position), SpoolError> {
    let mut recovered = Recovered::default();
    // the unfinished copy of a segment whose original is still there
    for number in numbers(fs, dir, TEMP)?.into_keys() {
        remove_if_there(fs, &temp_path(dir, number))?;
    }
    let open = numbers(fs, dir, OPEN)?;
    let sealed = numbers(fs, dir, SEALED)?;
    let aside = numbers(fs, &dir.join(QUARANTINE), SEALED)?;
    let all = open.keys().chain(sealed.keys()).chain(aside.keys());
    let mut next_number = all.max().map_or(1, |n| n.saturating_add(1));
    let mut known = BTreeMap::<Uuid, Option<u64>>::new();
    let mut prev = [0; 32];

    for number in open.into_keys() {
        let boot = recover_one(fs, dir, number, sealed.contains_key(&number), &mut recovered)?;
        if let Some((boot_id, last_seq)) = boot {
            let last = known.entry(boot_id).or_default();
            *last = (*last).max(Some(last_seq));
        }
    }
    let state = State::load(fs, dir);
    match &state {
        Loaded::Known(state) => {
            next_number = next_number.max(state.next_number);
            if state.clean {
                prev = state.prev;
            } else {
                known.entry(state.boot_id).or_default();
            }
        }
        Loaded::Unreadable => next_number = next_number.max(jump_to),
        Loaded::Missing => {}
    }
    // the newest sealed segment knows the hash to continue from, and perhaps the last record
    if let Some(number) = numbers(fs, dir, SEALED)?.into_keys().next_back()
        && let Ok(bytes) = fs.read(&sealed_path(dir, number), MAX_FILE_BYTES)
        && let Ok(scan) = segment::scan(&bytes, |_| {})
    {
        if let End::Sealed(footer) | End::Trailing(footer, _) = scan.end {
            prev = footer.sha256;
        }
        if state == Loaded::Unreadable {
            known.entry(scan.header.boot_id).or_default();
        }
        if let Some(last) = known.get_mut(&scan.header.boot_id) {
            *last = (*last).max(Some(scan.last_seq));
        }
    } else if state == Loaded::Unreadable && known.is_empty() {
        known.insert(Uuid::nil(), None);
    }
    recovered.crashed =
        known.into_iter().map(|(boot_id, last_seq)| Crash { boot_id, last_seq }).collect();
    Ok((recovered, Position { next_number, prev }))
}

fn recover_one(
    fs: &dyn SpoolFs,
    dir: &Path,
    number: u64,
    taken: bool,
    recovered: &mut Recovered,
) -> Result<Option<(Uuid, u64)>, SpoolError> {
    let path = open_path(dir, number);
    let mut aside = |reason: String| {
        quarantine(fs, dir, &path, number, &reason)?;
        recovered.quarantined.push(Quarantined { number, reason });
        Ok(None)
    };
    if taken {
        return aside("a sealed segment has the same number".to_owned());
    }
    let bytes = match fs.read(&path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) => return aside(format!("reading it: {e}")),
    };
    if bytes.len() < MIN_HEADER_BYTES {
        // cut short before the first record could be written
        remove_durably(fs, dir, &path)?;
        return Ok(None);
    }
    let scan = match segment::scan(&bytes, |_| {}) {
        Ok(scan) if scan.header.number == number => scan,
        Ok(_) => return aside("its header names another segment".to_owned()),
        Err(damage) => return aside(damage.to_string()),
    };
    let kept = finish(fs, dir, number, &bytes, &scan, How::InPlace)?;
    let cut = bytes.len().saturating_sub(kept.map_or(scan.intact, |_| end_of_intact(&scan)));
    recovered.segments.push(RecoveredSegment {
        boot_id: scan.header.boot_id,
        number,
        last_seq: scan.last_seq,
        records: scan.records,
        cut_bytes: u64::try_from(cut).unwrap_or(u64::MAX),
    });
    Ok(Some((scan.header.boot_id, scan.last_seq)))
}

/// How [`finish`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Cuts the file and appends: the process that wrote it is gone.
    InPlace,
    /// Writes a new file: after a failed write the old one's unsynced pages cannot be trusted to
    /// reach the disk.
    Copy,
}

/// Turns the intact part of an open segment into a sealed one. Without a record in it the file is
/// deleted.
pub(super) fn finish(
    fs: &dyn SpoolFs,
    dir: &Path,
    number: u64,
    bytes: &[u8],
    scan: &Scan,
    how: How,
) -> Result<Option<Footer>, SpoolError> {
    let path = open_path(dir, number);
    if scan.records == 0 {
        remove_durably(fs, dir, &path)?;
        return Ok(None);
    }
    let intact = bytes.get(..scan.intact).unwrap_or_default();
    let footer = Footer {
        records: scan.records,
        first_seq: scan.header.first_seq,
        last_seq: scan.last_seq,
        sha256: segment::sha256(intact),
    };
    let (_, _, seed) = segment::Header::decode(intact)
        .map_err(|damage| SpoolError::Damaged { path: path.clone(), damage })?;
    let mut tail = Vec::new();
    footer.encode(seed, &mut tail)?;
    let io = |doing| SpoolError::io(doing, &path);
    if how == How::Copy {
        let temp = temp_path(dir, number);
        remove_if_there(fs, &temp)?;
        let mut file = fs.create(&temp).map_err(io("copying"))?;
        file.write_all(intact).map_err(io("copying"))?;
        file.write_all(&tail).map_err(io("copying"))?;
        file.sync().map_err(io("syncing the copy of"))?;
        fs.rename(&temp, &path).map_err(io("replacing"))?;
    } else {
        let mut file = fs.append(&path).map_err(io("opening"))?;
        if end_of_intact(scan) == scan.intact {
            file.set_len(scan.intact.try_into().unwrap_or(u64::MAX)).map_err(io("cutting"))?;
            file.write_all(&tail).map_err(io("sealing"))?;
        } else {
            let len = end_of_intact(scan).try_into().unwrap_or(u64::MAX);
            file.set_len(len).map_err(io("cutting"))?;
        }
        file.sync().map_err(io("syncing"))?;
    }
    fs.rename(&path, &sealed_path(dir, number)).map_err(io("renaming"))?;
    fs.sync_dir(dir).map_err(SpoolError::io("syncing directory", dir))?;
    Ok(Some(footer))
}

fn remove_durably(fs: &dyn SpoolFs, dir: &Path, path: &Path) -> Result<(), SpoolError> {
    remove_if_there(fs, path)?;
    fs.sync_dir(dir).map_err(SpoolError::io("syncing directory", dir))
}

/// Where the usable bytes of a file end: behind its footer if it has one.
fn end_of_intact(scan: &Scan) -> usize {
    match scan.end {
        End::Sealed(_) | End::Trailing(..) => scan.intact.saturating_add(segment::FOOTER_BYTES),
        End::Cut(_) => scan.intact,
    }
}

fn temp_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{TEMP}"))
}

/// Moves a segment out of the way and writes beside it why.
pub(super) fn quarantine(
    fs: &dyn SpoolFs,
    dir: &Path,
    path: &Path,
    number: u64,
    reason: &str,
) -> Result<(), SpoolError> {
    let aside = dir.join(QUARANTINE);
    fs.create_dir_all(&aside).map_err(SpoolError::io("making", &aside))?;
    let note = aside.join(format!("{number:020}.reason"));
    remove_if_there(fs, &note)?;
    let mut file = fs.create(&note).map_err(SpoolError::io("creating", &note))?;
    file.write_all(format!("{reason}\n").as_bytes()).map_err(SpoolError::io("writing", &note))?;
    // an earlier segment of that number stays: the later one gets another name
    let mut to = sealed_path(&aside, number);
    if numbers(fs, &aside, SEALED)?.contains_key(&number) {
        to = aside.join(format!("{number:020}.second"));
    }
    fs.rename(path, &to).map_err(SpoolError::io("setting aside", path))?;
    fs.sync_dir(&aside).map_err(SpoolError::io("syncing directory", &aside))?;
    fs.sync_dir(dir).map_err(SpoolError::io("syncing directory", dir))
}
