//! The claims that every token must pass: audience, party, times (RFC 7519 section 4.1).
//!
//! - input: the claims of a token whose signature verified, the issuer, the time
//! - output: [`Standard`]
//! - bound: none
//! - on failure: the [`TokenError`] of the first check that fails

use serde_json::{Map, Value};

use super::TokenError;
use crate::clock::WallUs;
use crate::config::identity::Issuer;

/// Registered claims, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) subject: String,
    pub(super) issued_at: WallUs,
    pub(super) expires_at: WallUs,
    pub(super) jti: Option<String>,
}

/// Checks all of them. `started` is when the anchor began.
pub(super) fn standard(
    claims: &Map<String, Value>,
    issuer: &Issuer,
    now: WallUs,
    started: WallUs,
) -> Result<Standard, TokenError> {
    audience(claims.get("aud"), &issuer.audience)?;
    match claims.get("azp") {
        None => {}
        Some(Value::String(party)) if *party == issuer.audience => {}
        Some(_) => return Err(TokenError::AuthorizedParty),
    }
    let expires_at = time(claims, "exp")?.ok_or(TokenError::Claim("exp"))?;
    let issued_at = time(claims, "iat")?.ok_or(TokenError::Claim("iat"))?;
    let skew = micros(issuer.clock_skew);
    if now.0 >= expires_at.0.saturating_add(skew) {
        return Err(TokenError::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|nbf| nbf.0 > now.0.saturating_add(skew)) {
        return Err(TokenError::NotYetValid);
    }
    if issued_at.0 > now.0.saturating_add(skew) {
        return Err(TokenError::IssuedInFuture);
    }
    let lifetime = expires_at.0.saturating_sub(issued_at.0);
    if lifetime <= 0 || lifetime > micros(issuer.max_lifetime) {
        return Err(TokenError::Lifetime);
    }
    let oldest = started.0.saturating_sub(skew).saturating_sub(micros(issuer.max_age_at_start));
    if issued_at.0 < oldest {
        return Err(TokenError::Stale);
    }
    let text = |name| match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Claim(name)),
    };
    let subject = text("sub")?.ok_or(TokenError::Claim("sub"))?;
    Ok(Standard { subject, issued_at, expires_at, jti: text("jti")? })
}

/// One audience, or a list that names nobody else: another one could present the token here.
fn audience(claim: Option<&Value>, wanted: &str) -> Result<(), TokenError> {
    match claim {
        Some(Value::String(aud)) if aud == wanted => Ok(()),
        Some(Value::String(_)) => Err(TokenError::Audience),
        Some(Value::Array(all)) if all.iter().any(|aud| aud.as_str() == Some(wanted)) => {
            let only = all.iter().all(|aud| aud.as_str() == Some(wanted));
            if only { Ok(()) } else { Err(TokenError::SharedAudience) }
        }
        Some(Value::Array(_)) => Err(TokenError::Audience),
        _ => Err(TokenError::Claim("aud")),
    }
}

/// A NumericDate: seconds, perhaps with a fraction, from 1970 to the year 9999.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<WallUs>, TokenError> {
    const LAST_S: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|s| (0.0..=LAST_S).contains(s));
    let seconds = seconds.ok_or(TokenError::Claim(name))?;
    let since = std::time::Duration::try_from_secs_f64(seconds);
    let since = since.map_err(|_range| TokenError::Claim(name))?;
    Ok(Some(WallUs(micros(since))))
}

pub(super) fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::error::Faulty as _;
    use serde_json::json;

    const NOW_S: i64 = 1_800_000_000;

    fn issuer() -> Issuer {
        let text = "[[identity.issuer]]\nname = \"x\"\nissuer = \"https://x.example\"\n\
                    kind = \"generic\"\naudience = \"weir\"\n";
        Config::parse(text).unwrap().identity.issuers.remove(0)
    }

    /// The outcome with some claims changed; `null` removes one.
    fn outcome(changes: Value) -> &'static str {
        let mut claims = json!({
            "sub": "s", "aud": "weir", "iat": NOW_S - 10, "nbf": NOW_S - 10, "exp": NOW_S + 300,
            "jti": "1",
        });
        let all = claims.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => all.remove(name),
                value => all.insert(name.clone(), value.clone()),
            };
        }
        let (now, started) = (WallUs(NOW_S * 1_000_000), WallUs((NOW_S - 60) * 1_000_000));
        standard(all, &issuer(), now, started).err().map_or("ok", |e| e.outcome())
    }

    #[test]
    fn each_claim_has_its_own_refusal() {
        for (changes, expected) in [
            (json!({}), "ok"),
            (json!({"nbf": null, "jti": null}), "ok"),
            (json!({"aud": ["weir"]}), "ok"),
            (json!({"aud": ["weir", "weir"]}), "ok"),
            (json!({"aud": "Weir"}), "token_audience"),
            (json!({"aud": []}), "token_audience"),
            (json!({"aud": ["other"]}), "token_audience"),
            (json!({"aud": ["weir", "other"]}), "token_shared_audience"),
            (json!({"aud": ["weir", 7]}), "token_shared_audience"),
            (json!({"aud": null}), "token_claim"),
            (json!({"aud": {"weir": 1}}), "token_claim"),
            (json!({"azp": "weir"}), "ok"),
            (json!({"azp": "other"}), "token_authorized_party"),
            (json!({"azp": ["weir"]}), "token_authorized_party"),
            (json!({"exp": null}), "token_claim"),
            (json!({"exp": "1900000000"}), "token_claim"),
            (json!({"exp": -1}), "token_claim"),
            (json!({"exp": 1e300}), "token_claim"),
            (json!({"exp": NOW_S - 59, "iat": NOW_S - 90}), "ok"),
            (json!({"exp": NOW_S - 60, "iat": NOW_S - 90}), "token_expired"),
            (json!({"nbf": NOW_S + 60}), "ok"),
            (json!({"nbf": NOW_S + 61}), "token_not_yet_valid"),
            (json!({"nbf": "soon"}), "token_claim"),
            (json!({"iat": null}), "token_claim"),
            (json!({"iat": NOW_S + 60}), "ok"),
            (json!({"iat": NOW_S + 61}), "token_issued_in_future"),
            (json!({"iat": NOW_S - 120}), "ok"),
            (json!({"iat": NOW_S - 121}), "token_stale"),
            (json!({"exp": NOW_S + 3590}), "ok"),
            (json!({"exp": NOW_S + 3591}), "token_lifetime"),
            (json!({"exp": NOW_S - 10}), "token_lifetime"),
            (json!({"iat": NOW_S + 20, "exp": NOW_S + 10}), "token_lifetime"),
            (json!({"sub": null}), "token_claim"),
            (json!({"sub": ""}), "token_claim"),
            (json!({"jti": 5}), "token_claim"),
        ] {
            let shown = changes.to_string();
            assert_eq!(outcome(changes), expected, "{shown}");
        }
    }
}
