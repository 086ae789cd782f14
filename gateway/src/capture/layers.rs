//! What is active of the layers that enforce capture. Some need more than every kernel has; none
//! of them is missing silently.
//!
//! - input: a pin directory
//! - output: [`Layer`]s
//! - bound: [`NAMES`]
//! - on failure: [`CaptureError`] when the pin directory cannot be read

use std::path::Path;

use super::{CaptureError, bridge, nft, pins, programs, watch};
use crate::clock::{Clock as _, SystemClock, WallUs};

/// Connect, sendmsg and getpeername hooks, and the hand-over of records.
pub const REDIRECT: &str = "redirect";
/// Packets of captured sockets, default deny.
pub const EGRESS: &str = "egress";
/// What captured processes may make, bind and set.
pub const SOCKET: &str = "socket";
/// Packets that captured processes write onto devices themselves.
pub const DEVICES: &str = "devices";
/// Security hooks.
pub const LSM: &str = "lsm";
/// Tracepoints: processes that leave, sockets from outside. They only tell.
pub const WATCH: &str = "watch";
/// Packets once more, by nftables.
pub const NFTABLES: &str = "nftables";
/// Process trees of jobs and logins, kept at fork and exit.
pub const ANCHORS: &str = "anchors";
/// Routes and refusals of `capture.bridges`; a layer only where there are any.
pub const BRIDGES: &str = "bridges";
/// All layers that every capture has.
pub const NAMES: [&str; 8] = [REDIRECT, EGRESS, SOCKET, DEVICES, LSM, WATCH, NFTABLES, ANCHORS];

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// One of [`NAMES`], or [`BRIDGES`].
    pub name: &'static str,
    /// Whether it works.
    pub state: LayerState,
}

/// Whether a layer works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// It does.
    Active,
    /// It does not, and why.
    Unavailable(String),
}

impl Layer {
    /// Whether it works.
    pub fn is_active(&self) -> bool {
        self.state == LayerState::Active
    }
}

/// The layers of an attached capture, as they are now.
///
/// # Errors
/// See [`pins::status`].
pub fn layers(pin_dir: &Path) -> Result<Vec<Layer>, CaptureError> {
    let attached = matches!(pins::status(pin_dir)?, pins::Status::Attached(_));
    let bridged = attached && !bridge::names(pin_dir).is_empty();
    Ok(NAMES
        .into_iter()
        .chain(bridged.then_some(BRIDGES))
        .map(|name| {
            let found =
                if attached { state(pin_dir, name) } else { Err("capture is not attached".into()) };
            let state = found.map_or_else(LayerState::Unavailable, |()| LayerState::Active);
            Layer { name, state }
        })
        .collect())
}

fn state(pin_dir: &Path, name: &'static str) -> Result<(), String> {
    if let Some(reason) = missing_reason(pin_dir, name) {
        return Err(reason);
    }
    match name {
        // nft answers root only.
        NFTABLES if !nix::unistd::geteuid().is_root() => checked(pin_dir, SystemClock.wall()),
        NFTABLES => nft::health(pin_dir),
        BRIDGES => bridge::health(pin_dir),
        DEVICES => {
            let listed = std::fs::read_dir(pin_dir).map_err(|error| error.to_string())?;
            let filters = listed
                .flatten()
                .filter(|entry| programs::is_device_pin(&entry.file_name().to_string_lossy()));
            if filters.count() > 0 { Ok(()) } else { Err("its links are gone".into()) }
        }
        _ => {
            let pins = match name {
                WATCH => watch::pins(),
                _ => programs::pins_of(name),
            };
            match pins.iter().find(|pin| pin_dir.join(pin).symlink_metadata().is_err()) {
                Some(pin) => Err(format!("the link {pin} is gone")),
                None => Ok(()),
            }
        }
    }
}

/// Why an optional layer could not be attached, if it could not.
pub(super) fn missing_reason(pin_dir: &Path, name: &str) -> Option<String> {
    pins::noted(pin_dir, &missing(name))
}

/// When `repair` last looked, if it did.
pub fn checked_at(pin_dir: &Path) -> Option<WallUs> {
    let noted = pins::noted(pin_dir, CHECKED)?;
    noted.split_once(' ')?.0.parse().ok().map(WallUs)
}

/// What `repair` found of the nft table, if it looked lately.
fn checked(pin_dir: &Path, now: WallUs) -> Result<(), String> {
    let noted = pins::noted(pin_dir, CHECKED).unwrap_or_default();
    let (at, verdict) = noted.split_once(' ').unwrap_or_default();
    let age = at.parse().map_or(i64::MAX, |at: i64| now.0.saturating_sub(at));
    match verdict {
        _ if age > MAX_CHECK_AGE_US => {
            Err("only root can ask nft, and nobody looked lately".into())
        }
        "ok" => Ok(()),
        reason => Err(reason.into()),
    }
}

/// Records what `repair` found of the nft table.
pub(super) fn note_checked(
    pin_dir: &Path,
    now: WallUs,
    table: &Result<(), String>,
) -> Result<(), CaptureError> {
    let reason = table.as_ref().err().map_or("ok", String::as_str);
    let short: String =
        reason.lines().next().unwrap_or_default().chars().take(MAX_REASON_CHARS).collect();
    pins::renote(pin_dir, CHECKED, format!("{} {short}", now.0))
}

/// Records whether an optional layer could be attached.
pub(super) fn note(
    pin_dir: &Path,
    name: &str,
    result: Result<(), String>,
) -> Result<(), CaptureError> {
    let note = missing(name);
    // An upgrade may find what was missing before.
    drop(std::fs::remove_file(pin_dir.join(&note)));
    match result {
        Ok(()) => Ok(()),
        Err(reason) => {
            // A path, and a bounded one: symbolic links have no room for a verifier's log.
            let line = reason.lines().next().unwrap_or_default().trim();
            let short: String = line.chars().take(MAX_REASON_CHARS).collect();
            let text = if short.is_empty() { "unknown".to_owned() } else { short };
            pins::note(pin_dir, &note, text)
        }
    }
}

/// The note of what was looked at last: a time and a verdict.
const CHECKED: &str = "checked";
/// A verdict counts as long as this, microseconds.
const MAX_CHECK_AGE_US: i64 = 30_000_000;
const MAX_REASON_CHARS: usize = 500;

fn missing(layer: &str) -> String {
    format!("no-{layer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_while_it_is_young() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(checked(tmp.path(), WallUs(5)).is_err(), "nobody looked");
        note_checked(tmp.path(), WallUs(5), &Ok(())).unwrap();
        assert_eq!(checked(tmp.path(), WallUs(6)), Ok(()));
        assert_eq!(checked_at(tmp.path()), Some(WallUs(5)));
        assert!(checked(tmp.path(), WallUs(6 + MAX_CHECK_AGE_US)).is_err());
        note_checked(tmp.path(), WallUs(7), &Err("changed\nfurther".into())).unwrap();
        assert_eq!(checked(tmp.path(), WallUs(8)), Err("changed".into()));
    }
}
