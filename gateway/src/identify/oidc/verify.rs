//! Verifies tokens of configured issuers.
//!
//! - input: a token and the anchor that presents it
//! - output: [`VerifiedToken`], which nothing else makes
//! - bound: `limits::MAX_TOKEN_BYTES`; one answer of the provider to wait for
//! - on failure: [`TokenError`]

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::crypto::aws_lc;
use secrecy::{ExposeSecret as _, SecretString};

use super::TokenError;
use super::checks::{self, Standard};
use super::claims::{self, Identity};
use super::token::{self, Header, Parts};
pub use super::typed::{Claim, Claims};
use crate::clock::{SharedClock, WallUs};
use crate::config::identity::{Algorithm, Issuer, KeyLocation, Kind};
use crate::config::spiffe;
use crate::config::url::HttpUrl;
use crate::identify::binding::{Anchor, AnchorId, Bindings, Presented, Remembered};
use crate::identify::fetch::Fetcher;
use crate::identify::jwks::{Key, KeyError, KeyFile, KeySet, Keys, Provider};

/// What a provider said about whoever presented a token, and the token was meant for this gateway.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    issuer: Arc<Issuer>,
    standard: Standard,
    claims: Claims,
    identity: Identity,
}

impl VerifiedToken {
    /// The configured issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// What issues its tokens.
    pub fn kind(&self) -> Kind {
        self.issuer.kind
    }

    /// `sub`. Vendors change its form; policy is better written on [`Identity::ids`].
    pub fn subject(&self) -> &str {
        &self.standard.subject
    }

    /// `aud`.
    pub fn audience(&self) -> &str {
        &self.issuer.audience
    }

    /// All claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// `iat`.
    pub fn issued_at(&self) -> WallUs {
        self.standard.issued_at
    }

    /// `exp`. Nothing extends it.
    pub fn expires_at(&self) -> WallUs {
        self.standard.expires_at
    }

    /// `jti`, where the provider gives one.
    pub fn jti(&self) -> Option<&str> {
        self.standard.jti.as_deref()
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Verifies tokens. One for the gateway; all threads share it.
#[derive(Debug)]
pub struct Verifier {
    /// By `iss`, byte for byte.
    issuers: HashMap<String, Trusted>,
    bindings: Bindings,
    clock: SharedClock,
}

#[derive(Debug)]
struct Trusted {
    issuer: Arc<Issuer>,
    keys: Keys,
}

impl Verifier {
    /// Trusts configured issuers. Reads key files; other keys are fetched when the first token needs
    /// them.
    ///
    /// # Errors
    /// When a key file cannot be read or has no usable key.
    pub fn start(
        issuers: &[Issuer],
        fetcher: &Arc<Fetcher>,
        clock: &SharedClock,
    ) -> Result<Self, KeyError> {
        let mut all = Vec::new();
        for issuer in issuers {
            let issuer = Arc::new(issuer.clone());
            let keys = match &issuer.keys {
                KeyLocation::File(path) if issuer.kind == Kind::Spiffe => {
                    Keys::from_source(Arc::new(KeyFile::open(path)?), Arc::clone(clock))
                }
                KeyLocation::File(path) => Keys::fixed(KeySet::load(path)?, Arc::clone(clock)),
                KeyLocation::Discovery => provider(&issuer, None, fetcher, clock),
                KeyLocation::Url(url) => provider(&issuer, Some(url), fetcher, clock),
            };
            all.push((issuer, keys));
        }
        Ok(Self::new(all, Arc::clone(clock)))
    }

    /// Trusts these issuers, with these keys, and nobody else.
    pub fn new(issuers: Vec<(Arc<Issuer>, Keys)>, clock: SharedClock) -> Self {
        let issuers = issuers
            .into_iter()
            .map(|(issuer, keys)| (issuer.issuer.clone(), Trusted { issuer, keys }))
            .collect();
        Self { issuers, bindings: Bindings::default(), clock }
    }

    /// Verifies a token and binds it to the anchor that presents it.
    ///
    /// # Errors
    /// See [`TokenError`]. After [`TokenError::SecondAnchor`] and [`TokenError::Replayed`] the caller
    /// raises an alarm.
    ///
    /// # Cancel safety
    /// Nothing is bound by a call that is dropped. Dropped while keys are fetched, it has used up one
    /// attempt, and the next one is `limits::KEYS_RETRY` away: run it in a task of its own.
    pub async fn verify(
        &self,
        token: &SecretString,
        anchor: &Anchor,
    ) -> Result<VerifiedToken, TokenError> {
        let text = token.expose_secret();
        let parts = token::parse(text)?;
        let Trusted { issuer, keys } = self.trusted(&parts)?;
        let (algorithm, kid) = header(&parts.header, issuer)?;
        let key = keys.key(kid, algorithm).await?;
        signature(&parts, &key, algorithm)?;

        let now = self.clock.wall();
        let standard = checks::standard(&parts.claims, issuer, now, anchor.started)?;
        let claims = Claims::new(&parts.claims)?;
        required(&claims, issuer)?;
        let identity = claims::identity(issuer, &standard.subject, standard.expires_at, &claims)?;
        self.bindings.bind(
            &Presented {
                issuer: &issuer.issuer,
                // A token without a name of its own is told by its text.
                token: standard.jti.as_deref().unwrap_or(text),
                job: claims::job(issuer.kind, &claims),
                forget_at: WallUs(
                    standard.expires_at.0.saturating_add(checks::micros(issuer.clock_skew)),
                ),
            },
            anchor.id,
            now,
        )?;
        Ok(VerifiedToken { issuer: Arc::clone(issuer), standard, claims, identity })
    }

    /// Whoever vouches for a token if its signature is theirs: by `iss`, and for JWT-SVIDs, which need
    /// none, by the trust domain of `sub`.
    fn trusted(&self, parts: &Parts<'_>) -> Result<&Trusted, TokenError> {
        let text = |name: &str| parts.claims.get(name).and_then(serde_json::Value::as_str);
        let domain = text("sub").and_then(spiffe::trust_domain);
        let domain = domain.map(|domain| format!("spiffe://{domain}"));
        let named = text("iss").and_then(|iss| self.issuers.get(iss));
        let trusted = named.or_else(|| self.issuers.get(domain.as_ref()?));
        let missing = text("iss").map_or(TokenError::Claim("iss"), |_| TokenError::Issuer);
        let trusted = trusted.ok_or(missing)?;
        let issuer = &trusted.issuer;
        if issuer.kind == Kind::Spiffe && domain.as_ref() != Some(&issuer.issuer) {
            return Err(TokenError::SpiffeId);
        }
        Ok(trusted)
    }

    /// No token is accepted from this anchor any more.
    pub fn anchor_ended(&self, anchor: AnchorId) {
        self.bindings.end(anchor, self.clock.wall());
    }

    /// What an anchor presented, to be kept over a restart.
    pub fn presented(&self, anchor: AnchorId) -> Remembered {
        self.bindings.of(anchor)
    }

    /// What an anchor presented before a restart.
    pub fn remember(&self, anchor: AnchorId, kept: &Remembered) {
        self.bindings.remember(anchor, kept, self.clock.wall());
    }

    /// Fetches the keys of issuers whose keys are `limits::KEYS_REFRESH` old, one issuer after the
    /// other, and says how long to wait before the next call. Failures are logged: old keys stay in
    /// use.
    ///
    /// # Cancel safety
    /// As [`Verifier::verify`].
    pub async fn refresh_keys(&self) -> std::time::Duration {
        let mut wait = crate::limits::KEYS_REFRESH;
        for Trusted { issuer, keys } in self.issuers.values() {
            if let Err(error) = keys.refresh_if_due().await {
                tracing::warn!(issuer = %issuer.name, %error, "keys of an issuer not refreshed");
            }
            wait = wait.min(keys.due_in());
        }
        wait.max(crate::limits::KEYS_RETRY)
    }
}

fn provider(
    issuer: &Arc<Issuer>,
    url: Option<&HttpUrl>,
    fetcher: &Arc<Fetcher>,
    clock: &SharedClock,
) -> Keys {
    let source = Provider::new(Arc::clone(issuer), url.cloned(), Arc::clone(fetcher));
    Keys::from_source(Arc::new(source), Arc::clone(clock))
}

/// Checks what a token says about itself before anything is verified or fetched.
fn header<'a>(header: &'a Header, issuer: &Issuer) -> Result<(Algorithm, &'a str), TokenError> {
    let algorithm = match header.alg.as_deref() {
        None => return Err(TokenError::Unsigned),
        Some(name) if name.eq_ignore_ascii_case("none") => return Err(TokenError::Unsigned),
        Some("HS256" | "HS384" | "HS512") => return Err(TokenError::Symmetric),
        Some(name) => Algorithm::parse(name).ok_or(TokenError::Algorithm)?,
    };
    if !issuer.algorithms.contains(&algorithm) {
        return Err(TokenError::Algorithm);
    }
    // JWT-SVID section 2.3 allows both.
    let is_known = |typ: &String| {
        let is_jose = issuer.kind == Kind::Spiffe && typ == "JOSE";
        is_jose || typ.eq_ignore_ascii_case("JWT")
    };
    if header.typ.as_ref().is_some_and(|typ| !is_known(typ)) {
        return Err(TokenError::Type);
    }
    if header.critical {
        return Err(TokenError::Critical);
    }
    let kid = header.kid.as_deref().filter(|kid| !kid.is_empty());
    Ok((algorithm, kid.ok_or(TokenError::NoKeyId)?))
}

fn signature(parts: &Parts<'_>, key: &Key, algorithm: Algorithm) -> Result<(), TokenError> {
    use jsonwebtoken::Algorithm as Jwa;
    let jwa = match algorithm {
        Algorithm::Rs256 => Jwa::RS256,
        Algorithm::Rs384 => Jwa::RS384,
        Algorithm::Rs512 => Jwa::RS512,
        Algorithm::Ps256 => Jwa::PS256,
        Algorithm::Ps384 => Jwa::PS384,
        Algorithm::Ps512 => Jwa::PS512,
        Algorithm::Es256 => Jwa::ES256,
        Algorithm::Es384 => Jwa::ES384,
        Algorithm::EdDsa => Jwa::EdDSA,
    };
    // Named, not the process default: that one panics when another crate brings a second provider.
    let verifier = (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&jwa, key.decoding());
    let verifier = verifier.map_err(|_family| TokenError::KeyAlgorithm)?;
    verifier
        .verify(parts.signed.as_bytes(), &parts.signature)
        .map_err(|_opaque| TokenError::Signature)
}

fn required(claims: &Claims, issuer: &Issuer) -> Result<(), TokenError> {
    for (name, values) in &issuer.claims {
        let claim = claims.claim(name);
        if !claim.is_some_and(|claim| values.iter().any(|value| claim.has(value))) {
            return Err(TokenError::Required(name.clone()));
        }
    }
    let rerun = claims.claim("oidc.circleci.com/ssh-rerun");
    // Absent is no: old tokens. Anything but false is yes.
    let entered = rerun.is_some_and(|rerun| !rerun.has("false"));
    if issuer.kind == Kind::Circleci && entered && !issuer.danger_allow_ssh_rerun {
        return Err(TokenError::SshRerun);
    }
    Ok(())
}

mod looked_up;
#[cfg(test)]
mod tests;
