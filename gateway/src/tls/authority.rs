//! The issuing CA of this host: made at first start, kept in `tls.ca_dir`.
//!
//! - input: a directory
//! - output: [`Authority`], which signs leaves
//! - bound: two small files
//! - on failure: [`TlsError::Authority`]; weir does not start with half a CA
//!
//! One CA per host and none for a fleet: a stolen key is worth one machine. Rotation, sealing and
//! name constraints come with the host-wide trust installation.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::TlsError;
use crate::clock::WallUs;

/// An issuing CA, ready to sign.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

const CERT_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
const LIFETIME: Duration = Duration::days(3650);

impl Authority {
    /// Loads the CA of a directory, or makes it when neither file is there.
    ///
    /// # Errors
    /// When only one of the files is there, does not parse, or cannot be written.
    pub fn load_or_create(dir: &Path, name: &str, now: WallUs) -> Result<Self, TlsError> {
        let (cert, key) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        match (cert.exists(), key.exists()) {
            (true, true) => Self::load(dir),
            (false, false) => {
                let made = Self::generate(name, now)?;
                made.save(dir)?;
                Ok(made)
            }
            _ => Err(failed(
                format!("loading ca from {}", dir.display()),
                format!("only one of {CERT_FILE} and {KEY_FILE} is there; restore or remove both"),
            )),
        }
    }

    /// Loads an existing CA.
    ///
    /// # Errors
    /// When a file is missing or does not parse.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let read = |file: &str| {
            let path = dir.join(file);
            fs::read_to_string(&path).map_err(|e| failed(format!("reading {}", path.display()), e))
        };
        Self::from_pem(&read(CERT_FILE)?, &read(KEY_FILE)?)
    }

    /// Parses certificate and key.
    ///
    /// # Errors
    /// When either does not parse.
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(key).map_err(|e| failed("parsing ca key", e))?;
        let issuer =
            Issuer::from_ca_cert_pem(cert, key).map_err(|e| failed("parsing ca certificate", e))?;
        Ok(Self { issuer, pem: cert.to_owned() })
    }

    /// Makes a new CA in memory.
    ///
    /// # Errors
    /// When the system's random numbers fail.
    pub fn generate(name: &str, now: WallUs) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(|e| failed("generating ca key", e))?;
        let mut params = CertificateParams::default();
        let mut dn = DistinguishedName::new();
        dn.push(DnType::CommonName, format!("weir interception CA {name}"));
        dn.push(DnType::OrganizationName, "weir");
        params.distinguished_name = dn;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = at(now)? - Duration::days(1);
        params.not_after = at(now)? + LIFETIME;
        let cert = params.self_signed(&key).map_err(|e| failed("signing ca certificate", e))?;
        Self::from_pem(&cert.pem(), &key.serialize_pem())
    }

    /// The certificate, for trust stores.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs with the CA key.
    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn save(&self, dir: &Path) -> Result<(), TlsError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(|e| failed(format!("creating {}", dir.display()), e))?;
        write_new(&dir.join(KEY_FILE), &self.issuer.key().serialize_pem(), 0o600)?;
        write_new(&dir.join(CERT_FILE), &self.pem, 0o644)
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| failed(format!("writing {}", path.display()), e))
}

/// Wall time for a certificate.
pub(super) fn at(now: WallUs) -> Result<OffsetDateTime, TlsError> {
    OffsetDateTime::from_unix_timestamp(now.0.div_euclid(1_000_000))
        .map_err(|e| failed("reading the clock", e))
}

pub(super) fn failed(action: impl Into<String>, detail: impl ToString) -> TlsError {
    TlsError::Authority { action: action.into(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: WallUs = WallUs(1_800_000_000_000_000);

    #[test]
    fn a_ca_is_made_once_and_loaded_again() {
        let dir = tempfile::tempdir().expect("dir");
        let ca_dir = dir.path().join("ca");
        let made = Authority::load_or_create(&ca_dir, "h", NOW).expect("made");
        let again = Authority::load_or_create(&ca_dir, "h", NOW).expect("loaded");
        assert_eq!(made.pem(), again.pem());
        let mode = fs::metadata(ca_dir.join(KEY_FILE)).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn half_a_ca_is_refused_and_not_overwritten() {
        let dir = tempfile::tempdir().expect("dir");
        Authority::load_or_create(dir.path(), "h", NOW).expect("made");
        fs::remove_file(dir.path().join(KEY_FILE)).expect("removed");
        let error = Authority::load_or_create(dir.path(), "h", NOW).expect_err("half a ca");
        assert!(error.to_string().contains("only one of"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Authority::from_pem("x", "y").is_err());
    }
}
