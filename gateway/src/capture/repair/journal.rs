//! What was repaired, told to whoever may read the pin directory: the gateway records it.
//!
//! - input: entries of `repair`
//! - output: notes `repair-0` to `repair-31` of the pin directory, and [`Entry`]s again
//! - bound: the last [`MAX_ENTRIES`]; `count` tells how many there were
//! - on failure: [`CaptureError::Io`]; what does not parse is left out

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::capture::{CaptureError, pins};
use crate::clock::WallUs;

/// Entries that are kept.
pub const MAX_ENTRIES: usize = 32;
/// A note is a path for the kernel: at most 4095 bytes.
const MAX_DETAIL_CHARS: usize = 500;

/// One finding and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 for the first one since the pins were made, and so on.
    pub count: u64,
    /// When everything was last seen right, if it was looked at before.
    pub last_ok: Option<WallUs>,
    /// When it was found.
    pub found: WallUs,
    /// When it was put right, or given up. Differs between any two entries.
    pub done: WallUs,
    /// The layer that did not work.
    pub layer: String,
    /// Whether it was put right.
    pub repaired: bool,
    /// Whether something could leave meanwhile.
    pub opened: bool,
    /// What was found, in words.
    pub detail: String,
}

/// One line, which [`FromStr`] reads: whoever may read the notes can pass them on.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.detail.lines().next().unwrap_or_default();
        let detail: String = line.chars().take(MAX_DETAIL_CHARS).collect();
        write!(
            f,
            "1 {} {} {} {} {} {} {} {detail}",
            self.count,
            self.last_ok.unwrap_or_default().0,
            self.found.0,
            self.done.0,
            self.layer,
            u8::from(self.repaired),
            u8::from(self.opened),
        )
    }
}

/// It is no line of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntry;

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(text: &str) -> Result<Self, NoEntry> {
        let mut fields = text.splitn(9, ' ');
        if fields.next() != Some("1") {
            return Err(NoEntry);
        }
        let mut number =
            || fields.next().and_then(|field| field.parse::<i64>().ok()).ok_or(NoEntry);
        let (count, last_ok, found, done) = (number()?, number()?, number()?, number()?);
        let mut text = || fields.next().map(str::to_owned).ok_or(NoEntry);
        Ok(Self {
            count: u64::try_from(count).map_err(|_negative| NoEntry)?,
            last_ok: (last_ok != 0).then_some(WallUs(last_ok)),
            found: WallUs(found),
            done: WallUs(done),
            layer: text()?,
            repaired: text()? == "1",
            opened: text()? == "1",
            detail: text()?,
        })
    }
}

/// What is noted, oldest first.
pub fn read(pin_dir: &Path) -> Vec<Entry> {
    let slot = |slot| pins::noted(pin_dir, &name(slot))?.parse().ok();
    let mut all: Vec<Entry> = (0..MAX_ENTRIES).filter_map(slot).collect();
    all.sort_by_key(|entry| entry.count);
    all
}

/// Notes `new` behind `before`, which may have been lost with the directory. Without a directory
/// nothing is noted: it was not possible to make one.
pub(super) fn append(
    pin_dir: &Path,
    before: Vec<Entry>,
    new: Vec<Entry>,
) -> Result<(), CaptureError> {
    if !pin_dir.exists() {
        return Ok(());
    }
    let lost = read(pin_dir) != before;
    let (mut count, mut done) =
        before.last().map_or((0, WallUs(0)), |last| (last.count, last.done));
    let rewritten = if lost { before } else { Vec::new() };
    let numbered = new.into_iter().map(|mut entry| {
        count += 1;
        // The gateway tells entries apart by this.
        done = WallUs(entry.done.0.max(done.0.saturating_add(1)));
        entry.count = count;
        entry.done = done;
        entry
    });
    let all: Vec<Entry> = rewritten.into_iter().chain(numbered).collect();
    for entry in all {
        let slot = usize::try_from(entry.count).unwrap_or(0) % MAX_ENTRIES;
        pins::renote(pin_dir, &name(slot), entry.to_string())?;
    }
    Ok(())
}

fn name(slot: usize) -> String {
    format!("repair-{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(detail: &str) -> Entry {
        Entry {
            count: 0,
            last_ok: None,
            found: WallUs(10),
            done: WallUs(11),
            layer: "egress".into(),
            repaired: true,
            opened: true,
            detail: detail.into(),
        }
    }

    #[test]
    fn entries_come_back_numbered_and_in_order() {
        let tmp = tempfile::tempdir().unwrap();
        append(tmp.path(), Vec::new(), vec![entry("a b"), entry("c")]).unwrap();
        let first = read(tmp.path());
        assert_eq!(
            first.iter().map(|e| (e.count, e.done.0)).collect::<Vec<_>>(),
            [(1, 11), (2, 12)]
        );
        assert_eq!(first[0].detail, "a b");
        for _ in 0..40 {
            append(tmp.path(), read(tmp.path()), vec![entry("d")]).unwrap();
        }
        let last = read(tmp.path());
        assert_eq!((last.len(), last[0].count, last[31].count), (MAX_ENTRIES, 11, 42));
    }

    #[test]
    fn a_directory_that_was_made_again_gets_the_earlier_entries_back() {
        let tmp = tempfile::tempdir().unwrap();
        let old = tempfile::tempdir().unwrap();
        append(old.path(), Vec::new(), vec![entry("before")]).unwrap();
        append(tmp.path(), read(old.path()), vec![entry("after")]).unwrap();
        let details: Vec<String> = read(tmp.path()).into_iter().map(|e| e.detail).collect();
        assert_eq!(details, ["before", "after"]);
    }

    #[test]
    fn nonsense_is_no_entry() {
        for text in
            ["", "1", "2 1 0 1 1 egress 1 1 x", "1 a 0 1 1 egress 1 1 x", "1 1 0 1 1 egress"]
        {
            assert_eq!(text.parse::<Entry>(), Err(NoEntry), "{text:?}");
        }
        let long = Entry { detail: "ä".repeat(9000), ..entry("") };
        assert!(long.to_string().len() < 2000);
        let back: Entry = long.to_string().parse().unwrap();
        assert_eq!(back.detail.chars().count(), MAX_DETAIL_CHARS);
    }
}
