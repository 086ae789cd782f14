//! Tells when a layer of capture did not work: what `capture::repair` noted, and what is seen here.
//!
//! - input: the journal of repairs and the layers, at every heartbeat
//! - output: gap rows of the cause `bypass`, counters
//! - bound: the entries of the journal, one row for a layer that stops working
//! - on failure: what was not recorded is told at the next heartbeat; what was recorded just before a
//!   crash may be told once more

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::capture::layers::LayerState;
use crate::capture::repair::journal::Entry;
use crate::capture::repair::look::Look;
use crate::clock::WallUs;
use crate::record::row::GapRow;

/// In the column `gaps.cause`.
pub(super) const CAUSE: u8 = 4;
/// Beside the segments of the spool: what this host's gateway has told.
const FILE: &str = "repairs-told";

/// What was told already.
#[derive(Debug)]
pub(super) struct Bypass {
    path: PathBuf,
    /// [`Entry::done`] of the last entry that was told, and what of it the file says.
    told: WallUs,
    saved: WallUs,
    count: u64,
    active: BTreeMap<&'static str, bool>,
}

impl Bypass {
    /// Goes on where an earlier gateway on this spool stopped.
    pub(super) fn open(spool_dir: &Path) -> Self {
        let path = spool_dir.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let told = WallUs(text.trim().parse().unwrap_or_default());
        Self { path, told, saved: told, count: 0, active: BTreeMap::new() }
    }

    /// `layer_NAME`: 1 where a layer that enforces capture is active; how much was repaired, and how
    /// long ago somebody looked.
    pub(super) fn counters(look: &Look, now: WallUs) -> Vec<(String, u64)> {
        let layers = look.layers.iter();
        let mut all: Vec<(String, u64)> =
            layers.map(|one| (format!("layer_{}", one.name), u64::from(one.is_active()))).collect();
        if let Some(last) = look.entries.last() {
            all.push(("capture_repairs".into(), last.count));
        }
        if let Some(checked) = look.checked {
            let age = now.0.saturating_sub(checked.0) / 1_000_000;
            all.push(("capture_check_age_s".into(), u64::try_from(age).unwrap_or(0)));
        }
        all
    }

    /// What has to be told, oldest first. Told only after [`Self::told`].
    pub(super) fn news(
        &mut self,
        look: Look,
        now: WallUs,
    ) -> Vec<(Option<WallUs>, WallUs, String)> {
        self.save();
        let mut news = Vec::new();
        let new: Vec<Entry> =
            look.entries.into_iter().filter(|entry| entry.done > self.told).collect();
        if let Some(first) = new.first()
            && self.count != 0
            && first.count > self.count + 1
        {
            let missing = first.count - self.count - 1;
            news.push((
                None,
                first.found,
                format!("{missing} repairs that nobody can tell of any more"),
            ));
        }
        self.count = new.last().map_or(self.count, |last| last.count);
        for entry in new.into_iter().filter(|entry| entry.opened) {
            news.push((Some(entry.done), entry.last_ok.unwrap_or(entry.found), text(&entry)));
        }
        for layer in look.layers {
            let before = self.active.insert(layer.name, layer.is_active());
            if let (Some(true), LayerState::Unavailable(reason)) = (before, layer.state) {
                let text = format!("layer {} is not known to work any more: {reason}", layer.name);
                news.push((None, now, text));
            }
        }
        news
    }

    /// That an entry was recorded.
    pub(super) fn told(&mut self, done: WallUs) {
        self.told = self.told.max(done);
    }

    /// One heartbeat late, when the rows are on disk.
    fn save(&mut self) {
        if self.told == self.saved {
            return;
        }
        let fresh = self.path.with_extension("tmp-told");
        let saved = std::fs::write(&fresh, format!("{}\n", self.told.0))
            .and_then(|()| std::fs::rename(&fresh, &self.path));
        match saved {
            Ok(()) => self.saved = self.told,
            Err(error) => tracing::warn!(%error, "keeping what was told of repairs"),
        }
    }
}

fn text(entry: &Entry) -> String {
    let until = if entry.repaired { "repaired" } else { "and still is" };
    let seconds = |from: WallUs| {
        let us = entry.done.0.saturating_sub(from.0).max(0);
        format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1000)
    };
    let off = match entry.last_ok {
        Some(last_ok) => format!("for at most {}", seconds(last_ok)),
        None => format!("for an unknown time and {}", seconds(entry.found)),
    };
    format!("layer {} was off {off}, {until}: {}", entry.layer, entry.detail)
}

/// The row: which records are missing, and how many, nobody knows.
pub(super) fn gap(ts: WallUs, detail: String) -> GapRow {
    GapRow {
        ts: ts.0,
        cause: CAUSE,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records: 0,
        bytes: 0,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::layers::{self, Layer};

    fn entry(count: u64, done: i64) -> Entry {
        Entry {
            count,
            last_ok: Some(WallUs(done - 1_500_000)),
            found: WallUs(done - 500_000),
            done: WallUs(done),
            layer: "egress".into(),
            repaired: true,
            opened: true,
            detail: "the pin weir_egress was gone".into(),
        }
    }

    fn seen(entries: &[Entry]) -> Look {
        Look { entries: entries.to_vec(), ..Look::default() }
    }

    /// Tells everything, and answers what.
    fn tell(bypass: &mut Bypass, look: Look) -> Vec<String> {
        let news = bypass.news(look, WallUs(0));
        news.into_iter()
            .map(|(done, _, text)| {
                bypass.told(done.unwrap_or_default());
                text
            })
            .collect()
    }

    #[test]
    fn each_repair_is_told_once_over_restarts() {
        let tmp = tempfile::tempdir().unwrap();
        let mut one = Bypass::open(tmp.path());
        let all = [entry(1, 10_000_000), entry(2, 20_000_000)];
        let told = tell(&mut one, seen(&all[..1]));
        assert_eq!(
            told,
            ["layer egress was off for at most 1.500 s, repaired: the pin weir_egress was gone"]
        );
        assert_eq!(tell(&mut one, seen(&all[..1])), Vec::<String>::new());
        assert_eq!(tell(&mut one, seen(&all)).len(), 1);
        assert_eq!(tell(&mut one, seen(&all)).len(), 0, "and kept");
        let mut next = Bypass::open(tmp.path());
        assert_eq!(tell(&mut next, seen(&all)).len(), 0, "a restart");
    }

    #[test]
    fn what_was_not_recorded_is_told_again_and_what_was_overwritten_is_counted() {
        let tmp = tempfile::tempdir().unwrap();
        let mut bypass = Bypass::open(tmp.path());
        let all = [entry(1, 10_000_000)];
        assert_eq!(bypass.news(seen(&all), WallUs(0)).len(), 1);
        assert_eq!(tell(&mut bypass, seen(&all)).len(), 1, "no permit at the first time");
        let told = tell(&mut bypass, seen(&[entry(5, 50_000_000)]));
        assert!(told[0].starts_with("3 repairs"), "{told:?}");
        let silent = Entry { opened: false, ..entry(6, 60_000_000) };
        assert_eq!(tell(&mut bypass, seen(&[silent])), Vec::<String>::new());
    }

    #[test]
    fn a_layer_that_stops_is_told_once() {
        let tmp = tempfile::tempdir().unwrap();
        let mut bypass = Bypass::open(tmp.path());
        let with = |state: LayerState| Look {
            layers: vec![Layer { name: layers::EGRESS, state }],
            ..Look::default()
        };
        let off = || with(LayerState::Unavailable("gone".into()));
        assert_eq!(tell(&mut bypass, off()).len(), 0, "never seen working");
        assert_eq!(tell(&mut bypass, with(LayerState::Active)).len(), 0);
        assert_eq!(tell(&mut bypass, off()), ["layer egress is not known to work any more: gone"]);
        assert_eq!(tell(&mut bypass, off()).len(), 0);
        let look = with(LayerState::Active);
        let expected = [("layer_egress".to_owned(), 1)];
        assert_eq!(Bypass::counters(&look, WallUs(0)), expected);
    }
}
