//! Leaf certificates, minted inline at the ClientHello and cached.
//!
//! - input: a server name or address
//! - output: a certificate with its key, ready for rustls
//! - bound: `limits::MAX_CACHED_LEAVES`, spread over shards; a full shard starts over
//! - on failure: [`TlsError`]; the handshake ends with an alert
//!
//! All leaves share one P-256 key, made at start and never written: minting is then one
//! signature (about 20 µs), and a key per name would protect nothing that one key does not.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::sign::{CertifiedKey, SigningKey};

use super::TlsError;
use super::authority::{Authority, at, failed};
use crate::clock::SharedClock;
use crate::limits::MAX_CACHED_LEAVES;
use crate::telemetry::Metrics;

const SHARDS: usize = 16;

/// Mints and caches leaves.
pub struct Mint {
    authority: Authority,
    key: KeyPair,
    signing_key: Arc<dyn SigningKey>,
    lifetime: Duration,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<str>, Leaf>>; SHARDS],
}

struct Leaf {
    key: Arc<CertifiedKey>,
    /// Microseconds since the epoch.
    renew_at: i64,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").finish_non_exhaustive()
    }
}

impl Mint {
    /// Makes the shared leaf key.
    ///
    /// # Errors
    /// [`TlsError::Authority`] when the key cannot be made.
    pub fn new(
        authority: Authority,
        lifetime: Duration,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(|e| failed("generating leaf key", e))?;
        let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signing_key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)
            .map_err(|e| failed("loading leaf key", e))?;
        let shards = std::array::from_fn(|_| Mutex::default());
        let hasher = RandomState::new();
        Ok(Self { authority, key, signing_key, lifetime, clock, metrics, hasher, shards })
    }

    /// The CA that signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A leaf for a DNS name or an address, from the cache or new.
    ///
    /// # Errors
    /// [`TlsError::Name`] for what neither is, [`TlsError::Authority`] when signing fails.
    pub fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, TlsError> {
        let now = self.clock.wall();
        let shard = usize::try_from(self.hasher.hash_one(name)).unwrap_or_default() % SHARDS;
        let Some(shard) = self.shards.get(shard) else {
            return self.sign(name).map(|leaf| leaf.key);
        };
        let poisoned = |_| failed("minting a leaf", "an earlier mint panicked");
        if let Some(leaf) = shard.lock().map_err(poisoned)?.get(name)
            && now.0 < leaf.renew_at
        {
            return Ok(Arc::clone(&leaf.key));
        }
        // Signed outside the lock: two flows may mint the same name once, which is harmless.
        let leaf = self.sign(name)?;
        let key = Arc::clone(&leaf.key);
        let mut cache = shard.lock().map_err(poisoned)?;
        if cache.len() >= MAX_CACHED_LEAVES / SHARDS {
            cache.clear();
        }
        cache.insert(name.into(), leaf);
        Ok(key)
    }

    fn sign(&self, name: &str) -> Result<Leaf, TlsError> {
        let now = self.clock.wall();
        let lifetime_us = i64::try_from(self.lifetime.as_micros()).unwrap_or(i64::MAX);
        let san = match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => {
                SanType::DnsName(name.try_into().map_err(|_invalid| TlsError::Name(name.into()))?)
            }
        };
        let mut params = CertificateParams::default();
        let mut dn = DistinguishedName::new();
        // X.520 bounds a common name at 64 characters; the SAN is what clients compare.
        dn.push(DnType::CommonName, name.get(..64).unwrap_or(name));
        params.distinguished_name = dn;
        params.subject_alt_names = vec![san];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
        // An hour back for clients whose clock runs late.
        params.not_before = at(now)? - time::Duration::hours(1);
        params.not_after = at(now)? + self.lifetime;
        let cert = params
            .signed_by(&self.key, self.authority.issuer())
            .map_err(|e| failed("signing a leaf", e))?;
        self.metrics.leaves_minted_total.inc();
        let chain = vec![cert.der().clone()];
        Ok(Leaf {
            key: Arc::new(CertifiedKey::new(chain, Arc::clone(&self.signing_key))),
            renew_at: now.0.saturating_add(lifetime_us / 4 * 3),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, WallUs};
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    fn mint(clock: &Arc<FakeClock>) -> Mint {
        let authority = Authority::generate("test", WallUs(1_800_000_000_000_000)).expect("ca");
        let clock: SharedClock = Arc::<FakeClock>::clone(clock);
        Mint::new(authority, Duration::from_secs(86_400), clock, Arc::default()).expect("mint")
    }

    fn clock() -> Arc<FakeClock> {
        Arc::new(FakeClock::at(WallUs(1_800_000_000_000_000)))
    }

    #[test]
    fn a_leaf_is_minted_once_and_renewed_before_it_expires() {
        let clock = clock();
        let mint = mint(&clock);
        let first = mint.leaf("example.com").expect("leaf");
        assert!(Arc::ptr_eq(&first, &mint.leaf("example.com").expect("leaf")));
        clock.advance(Duration::from_secs(86_400 / 4 * 3 + 1));
        assert!(!Arc::ptr_eq(&first, &mint.leaf("example.com").expect("leaf")));
    }

    #[test]
    fn names_and_addresses_become_the_right_san() {
        let mint = mint(&clock());
        for (name, want) in [("a.example", "DNSName(\"a.example\")"), ("192.0.2.7", "IPAddress")] {
            let leaf = mint.leaf(name).expect("leaf");
            let der = leaf.cert.first().expect("certificate");
            let (_, cert) = X509Certificate::from_der(der).expect("der");
            let san = cert.subject_alternative_name().expect("san").expect("san");
            let shown = format!("{:?}", san.value.general_names);
            assert!(shown.contains(want), "{shown}");
            assert!(!cert.is_ca());
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let mint = mint(&clock());
        for i in 0..MAX_CACHED_LEAVES + 500 {
            mint.leaf(&format!("h{i}.example")).expect("leaf");
        }
        let cached: usize = mint.shards.iter().map(|s| s.lock().expect("shard").len()).sum();
        assert!(cached <= MAX_CACHED_LEAVES, "{cached}");
    }

    #[test]
    fn long_names_are_minted() {
        let name = format!("{}.{}.example", "a".repeat(63), "b".repeat(63));
        assert!(mint(&clock()).leaf(&name).is_ok());
    }
}
