//! What makes clients trust the issuing CA: a bundle file and environment variables.
//!
//! - input: the CA certificate, the system's roots
//! - output: `bundle.pem` beside the CA, and the variables that name it
//! - bound: one file
//! - on failure: an error with the path

use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::CliError;

/// System roots, configured roots and weir's CA in one file, below `tls.ca_dir`.
pub fn bundle_path(ca_dir: &Path) -> PathBuf {
    ca_dir.join("bundle.pem")
}

/// Writes the bundle, replacing an older one whole.
///
/// # Errors
/// When the file cannot be written.
pub fn write_bundle(ca_dir: &Path, ca_pem: &str, extra: &[PathBuf]) -> Result<(), CliError> {
    let mut text = String::new();
    for cert in rustls_native_certs::load_native_certs().certs {
        text.push_str(&pem_of(&cert));
    }
    for path in extra {
        text.push_str(&std::fs::read_to_string(path)?);
        text.push('\n');
    }
    text.push_str(ca_pem);
    let path = bundle_path(ca_dir);
    let new = path.with_extension("pem.new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}

/// A certificate in PEM (RFC 7468 section 5), lines of 64 characters.
pub fn pem_of(der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}

/// Variables that replace a client's trust store: they get the whole bundle.
const WITH_BUNDLE: [&str; 15] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "DENO_CERT",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
];

/// Environment variables that make clients with an own trust store use the bundle.
///
/// `NODE_OPTIONS` is never set: Node 20 refuses to start with an option it does not know.
pub fn variables(ca_dir: &Path) -> Vec<(&'static str, String)> {
    variables_of(&bundle_path(ca_dir), &ca_dir.join("ca.pem"))
}

/// The same, for files that are elsewhere: in a container.
pub fn variables_of(bundle: &Path, ca: &Path) -> Vec<(&'static str, String)> {
    let bundle = bundle.to_string_lossy().into_owned();
    let ca = ca.to_string_lossy().into_owned();
    let mut all: Vec<_> = WITH_BUNDLE.into_iter().map(|name| (name, bundle.clone())).collect();
    // These add to the client's store instead of replacing it.
    all.push(("NODE_EXTRA_CA_CERTS", ca.clone()));
    all.push(("CODEX_CA_CERTIFICATE", ca));
    all.push(("NODE_USE_SYSTEM_CA", "1".into()));
    all.push(("DENO_TLS_CA_STORE", "system,mozilla".into()));
    all
}
