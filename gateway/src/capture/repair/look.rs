//! What can be seen of an attached capture: by whoever may look, and told to whoever may not.
//!
//! - input: a pin directory; or the text of another process that looked
//! - output: [`Look`], and its text
//! - bound: the layers, [`super::journal::MAX_ENTRIES`] entries
//! - on failure: nothing where nothing is attached; a line that does not parse is left out

use std::path::Path;

use super::journal::{self, Entry};
use crate::capture::layers::{self, Layer, LayerState};
use crate::clock::WallUs;

/// What can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The layers that enforce capture.
    pub layers: Vec<Layer>,
    /// What was repaired, oldest first.
    pub entries: Vec<Entry>,
    /// When somebody last compared everything.
    pub checked: Option<WallUs>,
}

impl Look {
    /// Looks. May run nft: not for a thread that serves.
    pub fn at(pin_dir: &Path) -> Self {
        Self {
            layers: layers::layers(pin_dir).unwrap_or_default(),
            entries: journal::read(pin_dir),
            checked: layers::checked_at(pin_dir),
        }
    }

    /// One line for each part.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        lines.extend(self.checked.map(|checked| format!("checked {}", checked.0)));
        for Layer { name, state } in &self.layers {
            lines.push(match state {
                LayerState::Active => format!("layer {name}"),
                LayerState::Unavailable(reason) => {
                    format!("layer {name} {}", reason.lines().next().unwrap_or_default())
                }
            });
        }
        lines.extend(self.entries.iter().map(|entry| format!("entry {entry}")));
        lines.join("\n")
    }

    /// The other way.
    pub fn parse(text: &str) -> Self {
        let mut look = Self::default();
        for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                "checked" => look.checked = rest.parse().ok().map(WallUs),
                "layer" => look.layers.extend(layer(rest)),
                "entry" => look.entries.extend(rest.parse::<Entry>().ok()),
                _ => {}
            }
        }
        look
    }
}

fn layer(text: &str) -> Option<Layer> {
    let (name, reason) = text.split_once(' ').map_or((text, None), |(n, r)| (n, Some(r)));
    let name = layers::NAMES.into_iter().chain([layers::BRIDGES]).find(|one| *one == name)?;
    let state = reason.map_or(LayerState::Active, |r| LayerState::Unavailable(r.to_owned()));
    Some(Layer { name, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_survives_its_text() {
        let entry = Entry {
            count: 3,
            last_ok: None,
            found: WallUs(5),
            done: WallUs(7),
            layer: layers::NFTABLES.into(),
            repaired: true,
            opened: true,
            detail: "somebody changed the table".into(),
        };
        let reason = LayerState::Unavailable("not asked for".into());
        let look = Look {
            layers: vec![
                Layer { name: layers::EGRESS, state: LayerState::Active },
                Layer { name: layers::BRIDGES, state: reason },
            ],
            entries: vec![entry],
            checked: Some(WallUs(9)),
        };
        assert_eq!(Look::parse(&look.text()), look);
        assert_eq!(Look::parse(&Look::default().text()), Look::default());
        assert_eq!(Look::parse("layer unknown\nentry 2\nnonsense"), Look::default());
    }
}
