//! CI systems that put a token into the environment, under a name that they or the job chose.
//!
//! - input: all variables of a job
//! - output: a token, not verified, that claims to be of the issuer and for this gateway
//! - bound: the first 8 values that have the shape of a token; `limits::MAX_TOKEN_BYTES` each
//! - on failure: `None`

use secrecy::SecretString;
use serde_json::Value;

use super::Environment;
use crate::config::identity::{Issuer, Kind};
use crate::config::spiffe;
use crate::identify::oidc::token::{looks_like_one, parse};

/// A job has a handful of tokens; parsing more of them is work that somebody else chose for us.
const MAX_CANDIDATES: usize = 8;

/// The token that expires last, of those that say they are of this issuer and for this gateway.
pub fn token(environment: &Environment, issuer: &Issuer) -> Option<SecretString> {
    let candidates = environment.0.values().filter(|value| looks_like_one(value));
    let fitting = candidates.take(MAX_CANDIDATES).filter_map(|value| {
        let claims = parse(value).ok()?.claims;
        let ours = match claims.get("aud")? {
            Value::String(aud) => *aud == issuer.audience,
            Value::Array(all) => all.iter().any(|aud| *aud == issuer.audience.as_str()),
            _ => false,
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let vouches = match issuer.kind {
            Kind::Spiffe => text("sub")
                .and_then(spiffe::trust_domain)
                .is_some_and(|domain| issuer.issuer.strip_prefix("spiffe://") == Some(domain)),
            _ => text("iss") == Some(&issuer.issuer),
        };
        let own = ours && vouches;
        own.then(|| (claims.get("exp").and_then(Value::as_u64), value))
    });
    let (_, last) = fitting.max_by_key(|(expires, _)| *expires)?;
    Some(SecretString::from(last.as_str()))
}
