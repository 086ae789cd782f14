//! Who a verified token speaks of, by the claims that stay the same when somebody renames
//! something.
//!
//! - input: the claims of a verified token
//! - output: [`Identity`]; the job that a token belongs to
//! - bound: `limits::MAX_IDENTITY_TEXT_BYTES` a text, `limits::MAX_IDENTITY_GROUPS` groups
//! - on failure: [`TokenError::Claim`], [`TokenError::TooLong`]; nothing is cut, since a cut name
//!   could be somebody else's
//!
//! Every text here comes from outside: repositories, branches and people are named by strangers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use self::shapes::{Shape, shape};
use super::TokenError;
use super::typed::{Claim, Claims};
use crate::clock::WallUs;
use crate::config::identity::{Issuer, Kind};
use crate::limits::{MAX_IDENTITY_GROUPS, MAX_IDENTITY_TEXT_BYTES};

mod shapes;

/// Who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it was established, such as `github_oidc`.
    pub method: &'static str,
    /// Name of the issuer in the configuration.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// For people to read; not for comparison.
    pub display: String,
    /// What the identity consists of, by the vendor's names of the claims.
    pub ids: BTreeMap<&'static str, String>,
    /// Groups of a person, or of a service.
    pub groups: Vec<String>,
    /// When the token expires.
    pub expires_at: WallUs,
}

/// The method of jobs that have no token.
pub(in crate::identify) const LOOKED_UP: &str = shapes::GITHUB_APP.method;

/// A method by its name.
pub(in crate::identify) fn method(name: &str) -> Option<&'static str> {
    shapes::ALL.iter().map(|shape| shape.method).find(|method| *method == name)
}

/// The identity of a verified token.
pub(super) fn identity(
    issuer: &Issuer,
    subject: &str,
    expires_at: WallUs,
    claims: &Claims,
) -> Result<Identity, TokenError> {
    shaped(shape(issuer.kind), issuer, subject, expires_at, claims)
}

/// The identity of a job that GitHub's API spoke of.
pub(super) fn looked_up(
    issuer: &Issuer,
    subject: &str,
    expires_at: WallUs,
    claims: &Claims,
) -> Result<Identity, TokenError> {
    shaped(&shapes::GITHUB_APP, issuer, subject, expires_at, claims)
}

fn shaped(
    shape: &Shape,
    issuer: &Issuer,
    subject: &str,
    expires_at: WallUs,
    claims: &Claims,
) -> Result<Identity, TokenError> {
    let mut ids = BTreeMap::new();
    for name in shape.needed {
        let value = value(claims, name)?.ok_or(TokenError::Claim(name))?;
        ids.insert(*name, value);
    }
    for name in shape.also {
        if let Some(value) = value(claims, name)? {
            ids.insert(*name, value);
        }
    }
    let first = |names: &[&str]| names.iter().find_map(|name| ids.get(name).cloned());
    let display = match (first(shape.shown.0), first(shape.shown.1)) {
        (Some(what), Some(run)) => format!("{what}#{run}"),
        (Some(what), None) => what,
        (None, _) => subject.to_owned(),
    };
    let groups = match claims.claim(&issuer.groups_claim) {
        Some(Claim::List(groups)) => groups.clone(),
        _ => Vec::new(),
    };
    if groups.len() > MAX_IDENTITY_GROUPS
        || groups.iter().any(|group| group.len() > MAX_IDENTITY_TEXT_BYTES)
    {
        return Err(TokenError::TooLong(Cow::Borrowed("groups")));
    }
    Ok(Identity {
        method: shape.method,
        issuer: issuer.name.clone(),
        subject: bounded("sub", subject)?,
        display,
        ids,
        groups,
        expires_at,
    })
}

/// What names the job of a token, where its kind has such claims and the token has all of them.
pub(super) fn job(kind: Kind, claims: &Claims) -> Option<Vec<&str>> {
    let names = shape(kind).job;
    let values: Option<Vec<&str>> = names.iter().map(|name| claims.text(name)).collect();
    values.filter(|values| !values.is_empty())
}

fn value(claims: &Claims, name: &'static str) -> Result<Option<String>, TokenError> {
    match claims.claim(name) {
        None => Ok(None),
        Some(Claim::Text(text)) => bounded(name, text).map(Some),
        Some(Claim::Flag(flag)) => Ok(Some(flag.to_string())),
        Some(Claim::List(all)) => bounded(name, &all.join(",")).map(Some),
    }
}

fn bounded(name: &'static str, text: &str) -> Result<String, TokenError> {
    if text.len() > MAX_IDENTITY_TEXT_BYTES {
        return Err(TokenError::TooLong(Cow::Borrowed(name)));
    }
    Ok(text.to_owned())
}
