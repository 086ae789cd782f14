//! What is active of the layers that enforce capture. Some need more than every kernel has; none
//! of them is missing silently.
//!
//! - input: a pin directory
//! - output: [`Layer`]s
//! - bound: [`NAMES`]
//! - on failure: [`CaptureError`] when the pin directory cannot be read

use std::path::Path;

use super::{CaptureError, nft, pins, programs};

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
/// Packets once more, by nftables.
pub const NFTABLES: &str = "nftables";
/// All layers.
pub const NAMES: [&str; 6] = [REDIRECT, EGRESS, SOCKET, DEVICES, LSM, NFTABLES];

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// One of [`NAMES`].
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
    Ok(NAMES
        .into_iter()
        .map(|name| {
            let found =
                if attached { state(pin_dir, name) } else { Err("capture is not attached".into()) };
            let state = found.map_or_else(LayerState::Unavailable, |()| LayerState::Active);
            Layer { name, state }
        })
        .collect())
}

fn state(pin_dir: &Path, name: &'static str) -> Result<(), String> {
    if let Ok(reason) = std::fs::read_link(pin_dir.join(missing(name))) {
        return Err(reason.to_string_lossy().into_owned());
    }
    match name {
        NFTABLES => nft::health(pin_dir),
        DEVICES => {
            let listed = std::fs::read_dir(pin_dir).map_err(|error| error.to_string())?;
            let filters = listed
                .flatten()
                .filter(|entry| programs::is_device_pin(&entry.file_name().to_string_lossy()));
            if filters.count() > 0 { Ok(()) } else { Err("its links are gone".into()) }
        }
        _ => {
            let pins = programs::pins_of(name);
            match pins.iter().find(|pin| pin_dir.join(pin).symlink_metadata().is_err()) {
                Some(pin) => Err(format!("the link {pin} is gone")),
                None => Ok(()),
            }
        }
    }
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

const MAX_REASON_CHARS: usize = 500;

fn missing(layer: &str) -> String {
    format!("no-{layer}")
}
