//! What stands for a secret in the record: the same for the same secret, and nothing of it.
//!
//! - input: an organisation's key, a secret
//! - output: [`Fingerprint`]; [`ScopeKey`], which placeholders are made with
//! - bound: a key has at least [`MIN_KEY_BYTES`]
//! - on failure: [`WeakKey`]
//!
//! Without the key nobody can try values against a fingerprint. Who has the key can; it lies with the
//! gateway and the people who may ask where a secret was seen.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const MIN_KEY_BYTES: usize = 32;
/// 128 bits: no two secrets of an organisation meet by chance.
const FINGERPRINT_BYTES: usize = 16;

/// An organisation's key.
pub struct Key(Zeroizing<Vec<u8>>);

/// The key is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint key has at least {MIN_KEY_BYTES} bytes")]
pub struct WeakKey;

/// A scope's key.
pub struct ScopeKey(Zeroizing<[u8; 32]>);

/// Keyed hash of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// The text is not a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 32 lower-case hexadecimal digits")]
pub struct NoFingerprint;

impl Key {
    /// A key of these bytes.
    ///
    /// # Errors
    /// [`WeakKey`]
    pub fn new(bytes: Vec<u8>) -> Result<Self, WeakKey> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < MIN_KEY_BYTES { Err(WeakKey) } else { Ok(Self(bytes)) }
    }

    /// Of a secret.
    pub fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        let full = keyed(&self.0, &[b"weir fingerprint 1\0", secret]);
        let mut out = [0; FINGERPRINT_BYTES];
        out.iter_mut().zip(full.iter()).for_each(|(to, from)| *to = *from);
        Fingerprint(out)
    }

    /// Of the scope with this name.
    pub fn scope(&self, name: &[u8]) -> ScopeKey {
        ScopeKey(Zeroizing::new(keyed(&self.0, &[b"weir scope 1\0", name])))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl fmt::Debug for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopeKey")
    }
}

impl ScopeKey {
    /// Bits for a secret; `purpose` and `round` make others of the same secret.
    pub(crate) fn bits(&self, purpose: &[u8], round: u8, secret: &[u8]) -> [u8; 32] {
        keyed(&*self.0, &[purpose, &[0, round], secret])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let mut out = [0; FINGERPRINT_BYTES];
        let plain = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !plain || text.len() != 2 * FINGERPRINT_BYTES {
            return Err(NoFingerprint);
        }
        for (to, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_not_text| NoFingerprint)?;
            *to = u8::from_str_radix(pair, 16).map_err(|_not_hex| NoFingerprint)?;
        }
        Ok(Self(out))
    }
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length (RFC 2104): the error cannot happen, and would match nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_the_published_one() {
        // RFC 4231, test case 2
        let mac = keyed(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let text: String = mac.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_fingerprint_depends_on_key_and_secret_only() {
        let key = |byte| Key::new(vec![byte; 32]).unwrap();
        let one = key(1).fingerprint(b"secret");
        assert_eq!(one, key(1).fingerprint(b"secret"));
        assert_ne!(one, key(1).fingerprint(b"secres"));
        assert_ne!(one, key(2).fingerprint(b"secret"));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(one.to_string().len(), 32);
        assert_eq!(Key::new(vec![1; 31]).unwrap_err(), WeakKey);
    }

    #[test]
    fn other_texts_are_no_fingerprints() {
        for text in ["", "ab", &"g".repeat(32), &"A".repeat(32), &"é".repeat(16), &"a".repeat(33)]
        {
            assert_eq!(text.parse::<Fingerprint>(), Err(NoFingerprint), "{text}");
        }
    }
}
