//! Public keys of issuers.
//!
//! - input: a key set (RFC 7517), a key id and an algorithm
//! - output: [`Key`]
//! - bound: `limits::MAX_PROVIDER_ANSWER_BYTES`, `limits::MAX_ISSUER_KEYS`
//! - on failure: [`KeyError`]; keys that are not for signatures, or not understood, are left out

use std::path::{Path, PathBuf};

use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::config::identity::Algorithm;
use crate::error::{Fault, Faulty};
use crate::identify::fetch::FetchError;
use crate::identify::oidc::TokenError;
use crate::identify::oidc::token::Strict;
use crate::limits::{MAX_ISSUER_KEYS, MAX_PROVIDER_ANSWER_BYTES};

mod cache;
mod file;
mod provider;

pub use cache::{KeySource, Keys, SetFuture};
pub use file::KeyFile;
pub use provider::Provider;

/// Why the keys of an issuer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The provider did not answer as it should.
    #[error("fetching keys: {0}")]
    Fetch(#[from] FetchError),
    /// Its metadata lacks something.
    #[error("reading a provider's metadata: {0}")]
    Metadata(&'static str),
    /// Its metadata is that of another issuer (OpenID Connect Discovery 1.0 section 4.3).
    #[error("reading a provider's metadata: it is that of another issuer")]
    OtherIssuer,
    /// Not a key set, too many keys, or none that is of use.
    #[error("reading keys: {0}")]
    Set(&'static str),
    /// A key file cannot be read.
    #[error("reading keys from {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// There are no keys that may still be used, and the last attempt to fetch some was just now.
    #[error("the keys of its issuer cannot be had")]
    Unavailable,
}

impl Faulty for KeyError {
    fn fault(&self) -> Fault {
        match self {
            Self::File { .. } => Fault::Internal,
            _ => Fault::Upstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.outcome(),
            Self::Metadata(_) => "issuer_metadata",
            Self::OtherIssuer => "issuer_other_metadata",
            Self::Set(_) => "issuer_keys",
            Self::File { .. } => "issuer_key_file",
            Self::Unavailable => "issuer_keys_unavailable",
        }
    }
}

/// A public key and what it is for.
#[derive(Clone, Debug)]
pub struct Key {
    kid: String,
    family: Family,
    /// `alg`, where the provider says so.
    algorithm: Option<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Key {
    /// For `jsonwebtoken`.
    pub fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        family(algorithm) == self.family && self.algorithm.is_none_or(|own| own == algorithm)
    }
}

/// The usable keys of an issuer.
#[derive(Clone, Debug)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a key set.
    ///
    /// # Errors
    /// [`KeyError::Set`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let set = serde_json::from_slice::<Strict>(bytes);
        let Ok(Strict(Value::Object(set))) = set else {
            return Err(KeyError::Set("it is not a json object"));
        };
        let Some(Value::Array(keys)) = set.get("keys") else {
            return Err(KeyError::Set("it has no list of keys"));
        };
        if keys.len() > MAX_ISSUER_KEYS {
            return Err(KeyError::Set("there are too many"));
        }
        let keys: Vec<Key> = keys.iter().filter_map(|key| usable(key.as_object()?)).collect();
        if keys.is_empty() {
            return Err(KeyError::Set("there is none for signatures with a key id"));
        }
        Ok(Self(keys))
    }

    /// Reads a key set from a file of at most `limits::MAX_PROVIDER_ANSWER_BYTES`.
    ///
    /// # Errors
    /// [`KeyError::File`], [`KeyError::Set`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        use std::io::Read as _;
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let most = u64::try_from(MAX_PROVIDER_ANSWER_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > MAX_PROVIDER_ANSWER_BYTES {
            return Err(KeyError::Set("the file is larger than 100 KiB"));
        }
        Self::parse(&bytes)
    }

    /// The key of that name for that algorithm; none if the name is unknown.
    fn find(&self, kid: &str, algorithm: Algorithm) -> Option<Result<&Key, TokenError>> {
        let mut named = self.0.iter().filter(|key| key.kid == kid).peekable();
        named.peek()?;
        Some(named.find(|key| key.fits(algorithm)).ok_or(TokenError::KeyAlgorithm))
    }
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => Family::Rsa,
        Algorithm::Es256 => Family::P256,
        Algorithm::Es384 => Family::P384,
        Algorithm::EdDsa => Family::Ed25519,
    }
}

/// A key for signatures, or none. Unknown fields are allowed (RFC 7517 section 4).
fn usable(jwk: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    // The second is that of SPIFFE bundles, beside keys of certificates.
    if jwk.get("use").is_some_and(|usage| usage != "sig" && usage != "jwt-svid") {
        return None;
    }
    if let Some(operations) = jwk.get("key_ops") {
        operations.as_array()?.iter().find(|operation| *operation == "verify")?;
    }
    let kid = text("kid").filter(|kid| !kid.is_empty())?.to_owned();
    let algorithm = match jwk.get("alg") {
        None => None,
        Some(name) => Some(Algorithm::parse(name.as_str()?)?),
    };
    let (own, decoding) = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let (n, e) = (decode(text("n")?)?, decode(text("e")?)?);
            // 2048 to 8192 bits, which is also what the library verifies with.
            if !(256..=1024).contains(&n.len()) || !(1..=8).contains(&e.len()) {
                return None;
            }
            (Family::Rsa, DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some("P-256")) => (Family::P256, point(text("x")?, text("y")?, 32)?),
        ("EC", Some("P-384")) => (Family::P384, point(text("x")?, text("y")?, 48)?),
        ("OKP", Some("Ed25519")) => {
            let x = decode(text("x")?).filter(|x| x.len() == 32)?;
            (Family::Ed25519, DecodingKey::from_ed_der(&x))
        }
        _ => return None,
    };
    if algorithm.is_some_and(|algorithm| family(algorithm) != own) {
        return None;
    }
    Some(Key { kid, family: own, algorithm, decoding })
}

/// An uncompressed point (SEC 1 section 2.3.3).
fn point(x: &str, y: &str, bytes: usize) -> Option<DecodingKey> {
    let (x, y) = (decode(x)?, decode(y)?);
    if x.len() != bytes || y.len() != bytes {
        return None;
    }
    Some(DecodingKey::from_ec_der(&[&[4], x.as_slice(), y.as_slice()].concat()))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests;
