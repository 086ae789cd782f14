//! A certificate authority for tests, with the flawed leaves a gateway must refuse.
//!
//! - input: host names and a [`Flaw`]
//! - output: PEM, rustls server and client configurations
//! - bound: one key pair per authority and per leaf
//! - on failure: panics, since it is test set-up

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// An issuing CA with a P-256 key.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// What is wrong with a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing: valid for the names, from 2020 to 2090.
    None,
    /// Its validity ended in 2021.
    Expired,
    /// Its validity begins in 2089.
    NotYetValid,
    /// Signed by its own key.
    SelfSigned,
    /// Valid, but for `elsewhere.invalid`.
    WrongName,
    /// Signed by an authority that nobody trusts.
    UnknownCa,
}

/// A leaf certificate with its chain and key.
pub struct Leaf {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
    pem: String,
}

impl TestCa {
    /// Makes a self-signed CA whose common name is `name`.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let (der, pem) = (cert.der().clone(), cert.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }

    /// The CA certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA certificate as DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Writes the CA certificate to `dir/NAME.pem` and returns the path.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.pem"));
        std::fs::write(&path, &self.pem).expect("write the CA certificate");
        path
    }

    /// A root store that holds only this CA.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    /// A client configuration that trusts only this CA and offers `alpn`.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config =
            ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A leaf for `names` (DNS names or addresses) with a fresh P-256 key.
    pub fn leaf(&self, names: &[&str], flaw: Flaw) -> Leaf {
        let names: Vec<String> = match flaw {
            Flaw::WrongName => vec!["elsewhere.invalid".to_owned()],
            _ => names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let mut params = CertificateParams::new(names.clone()).unwrap();
        let first = names.first().map_or("weir test", String::as_str);
        params.distinguished_name.push(DnType::CommonName, first);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (first_year, last_year) = match flaw {
            Flaw::Expired => (2020, 2021),
            Flaw::NotYetValid => (2089, 2090),
            _ => (2020, 2090),
        };
        params.not_before = date_time_ymd(first_year, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            Flaw::UnknownCa => {
                params.signed_by(&key, &Self::new("weir test: unknown authority").issuer)
            }
            _ => params.signed_by(&key, &self.issuer),
        }
        .unwrap();
        let pem = format!("{}{}", cert.pem(), key.serialize_pem());
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Leaf { chain: vec![cert.der().clone()], key: der, pem }
    }

    /// A server configuration with a leaf for `names`, offering `alpn`.
    pub fn server_config(&self, names: &[&str], flaw: Flaw, alpn: &[&str]) -> Arc<ServerConfig> {
        self.leaf(names, flaw).server_config(alpn)
    }
}

impl Leaf {
    /// Certificate and key in one PEM text, as haproxy wants it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server configuration with this leaf, offering `alpn`.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
