//! The App's credentials: a JWT that its key signs gets a token of the installation.
//!
//! - input: the key file, the installation
//! - output: a token that may read the installation's jobs, and nothing else
//! - bound: a key file of [`MAX_KEY_BYTES`]; one request at a time
//! - on failure: [`LookupError`]; the next look-up asks again

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::{GithubApp, LookupError, parse};
use crate::config::identity::GithubApp as Config;
use crate::identify::fetch::Request;
use crate::limits::MAX_TOKEN_BYTES;

const MAX_KEY_BYTES: u64 = 16 * 1024;
/// The API takes JWTs of at most ten minutes, from its own clock's past.
const JWT_BEFORE_S: i64 = 60;
const JWT_AFTER_S: i64 = 540;
/// A token is not used in its last minutes.
const SPARE: Duration = Duration::from_secs(5 * 60);

/// The key, and a token of the installation while there is one.
pub(super) struct Credential {
    key: RsaKeyPair,
    /// Held while one is asked for.
    token: tokio::sync::Mutex<Option<Token>>,
}

struct Token {
    token: SecretString,
    use_until_s: i64,
}

#[derive(Deserialize)]
struct Answer {
    token: String,
    expires_at: String,
}

impl Credential {
    pub(super) fn load(config: &Config) -> Result<Self, LookupError> {
        let failed = |what: String| LookupError::Key { path: config.key_file.clone(), what };
        let read = || -> std::io::Result<(u32, Zeroizing<Vec<u8>>)> {
            let file = std::fs::File::open(&config.key_file)?;
            let mode = file.metadata()?.mode();
            let mut bytes = Zeroizing::new(Vec::new());
            file.take(MAX_KEY_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok((mode, bytes))
        };
        let (mode, bytes) = read().map_err(|e| failed(e.to_string()))?;
        if mode & 0o007 != 0 {
            return Err(failed("everybody may read or write it".to_owned()));
        }
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_KEY_BYTES {
            return Err(failed("it is longer than 16 KiB".to_owned()));
        }
        let no_key = || failed("it has no RSA key in PEM".to_owned());
        let key = match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            _ => return Err(no_key()),
        };
        Ok(Self { key: key.map_err(|_opaque| no_key())?, token: tokio::sync::Mutex::default() })
    }

    /// A token of the installation.
    pub(super) async fn token(&self, app: &GithubApp) -> Result<SecretString, LookupError> {
        let mut held = self.token.lock().await;
        let now_s = app.clock.wall().0 / 1_000_000;
        if let Some(held) = held.as_ref().filter(|held| now_s < held.use_until_s) {
            return Ok(held.token.clone());
        }
        let path = format!("/app/installations/{}/access_tokens", app.config.installation);
        let body = json!({ "permissions": { "actions": "read", "metadata": "read" } });
        let request = Request::post(app.config.api.clone().below(&path), &body);
        let request = request.authorized("Bearer", &self.jwt(&app.config.id, now_s)?)?;
        let answer = Zeroizing::new(app.ask(request).await?.to_vec());
        let Answer { token, expires_at } = parse(&answer)?;
        let expires = OffsetDateTime::parse(&expires_at, &Rfc3339);
        let expires_s = expires.map_err(|_invalid| LookupError::Answer)?.unix_timestamp();
        let spare_s = i64::try_from(SPARE.as_secs()).unwrap_or_default();
        let token = SecretString::from(token);
        if token.expose_secret().len() > MAX_TOKEN_BYTES {
            return Err(LookupError::Answer);
        }
        let use_until_s = expires_s.saturating_sub(spare_s);
        *held = Some(Token { token: token.clone(), use_until_s });
        Ok(token)
    }

    /// It was refused.
    pub(super) async fn forget(&self) {
        *self.token.lock().await = None;
    }

    fn jwt(&self, id: &str, now_s: i64) -> Result<SecretString, LookupError> {
        let part = |value: serde_json::Value| B64.encode(value.to_string());
        let (from, to) = (now_s.saturating_sub(JWT_BEFORE_S), now_s.saturating_add(JWT_AFTER_S));
        let header = part(json!({ "alg": "RS256", "typ": "JWT" }));
        let signed = format!("{header}.{}", part(json!({ "iss": id, "iat": from, "exp": to })));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_opaque| LookupError::Credential)?;
        Ok(format!("{signed}.{}", B64.encode(signature)).into())
    }
}
