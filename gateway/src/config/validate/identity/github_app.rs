//! Checks the GitHub App of an issuer.
//!
//! - input: the keys `app_*` of [`raw::IdentityIssuer`]
//! - output: [`GithubApp`]; none without `app_id`
//! - bound: 64 runners
//! - on failure: every problem, each with the path of its key

use super::{MAX_TEXT_BYTES, MAX_VALUES, url};
use crate::config::identity::{GithubApp, Kind};
use crate::config::raw;
use crate::config::validate::Problems;

const API: &str = "https://api.github.com";

pub(super) fn checked(
    key: &str,
    kind: Kind,
    raw: &raw::IdentityIssuer,
    p: &mut Problems,
) -> Option<GithubApp> {
    let at = |name: &str| format!("{key}.{name}");
    let given = [
        ("app_id", raw.app_id.is_some()),
        ("app_key_file", raw.app_key_file.is_some()),
        ("app_installation", raw.app_installation.is_some()),
        ("app_runners", raw.app_runners.is_some()),
        ("app_api", raw.app_api.is_some()),
    ];
    let given = || given.iter().filter(|(_, given)| *given);
    if kind != Kind::Github {
        given().for_each(|(name, _)| p.add(&at(name), "is for kind = \"github\" only"));
        return None;
    }
    let Some(id) = &raw.app_id else {
        given().for_each(|(name, _)| p.add(&at(name), "needs app_id"));
        return None;
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || !id.chars().all(word) {
        p.add(&at("app_id"), "must be 1 to 64 letters, digits, -, _ and .");
    }
    for (name, given) in [
        ("app_key_file", raw.app_key_file.is_some()),
        ("app_installation", raw.app_installation.is_some()),
        ("app_runners", raw.app_runners.is_some()),
    ] {
        if !given {
            p.add(&at(name), "is required with app_id");
        }
    }
    let runners = raw.app_runners.clone().unwrap_or_default();
    if raw.app_runners.is_some() {
        p.count(&at("app_runners"), runners.len(), 1, MAX_VALUES);
    }
    let is_name = |name: &String| {
        let start = name.strip_suffix('*').unwrap_or(name);
        !start.is_empty() && name.len() <= MAX_TEXT_BYTES && !start.contains('*')
    };
    if !runners.iter().all(is_name) {
        p.add(&at("app_runners"), "must be names, or beginnings of names with * behind");
    }
    let api = raw.app_api.as_deref().unwrap_or(API);
    let api = url(&at("app_api"), api, raw.danger_allow_http, p);
    Some(GithubApp {
        id: id.clone(),
        key_file: raw.app_key_file.clone()?,
        installation: raw.app_installation?,
        runners,
        api: api?,
    })
}
