//! TLS towards the real destination, verified against the system's roots and configured ones.
//!
//! - input: a connected socket, the server name, the protocols that the client offered
//! - output: an encrypted stream and the protocol that upstream chose
//! - bound: 1024 remembered sessions per worker; the caller's deadline
//! - on failure: [`TlsError::UpstreamCertificate`] or [`TlsError::Upstream`]; there is no way to
//!   accept a certificate that does not verify

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::failed;
use super::{Protocol, TlsError};

const REMEMBERED_SESSIONS: usize = 1024;

/// Connects with verification.
#[derive(Clone)]
pub struct Upstream {
    h1: TlsConnector,
    h2: TlsConnector,
}

impl Upstream {
    /// Loads the roots: the system's, then every PEM file in `extra`.
    ///
    /// # Errors
    /// When a configured file cannot be read, or there is no root at all.
    pub fn new(extra: &[PathBuf]) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(extra)?);
        Ok(Self {
            h1: connector(&roots, &[Protocol::H1])?,
            h2: connector(&roots, &[Protocol::H2, Protocol::H1])?,
        })
    }

    /// Handshakes as `name`; `h2` offers HTTP/2 as well.
    ///
    /// # Errors
    /// See the module's header.
    pub async fn connect(
        &self,
        socket: TcpStream,
        name: &str,
        h2: bool,
    ) -> Result<(TlsStream<TcpStream>, Protocol), TlsError> {
        let name = server_name(name)?;
        let connector = if h2 { &self.h2 } else { &self.h1 };
        let stream = connector.connect(name, socket).await.map_err(classify_upstream)?;
        let chosen = stream.get_ref().1.alpn_protocol();
        let protocol = if chosen == Some(b"h2") { Protocol::H2 } else { Protocol::H1 };
        Ok((stream, protocol))
    }
}

/// What this gateway trusts: the system's roots, then every PEM file in `extra`.
///
/// # Errors
/// When a configured file cannot be read, or there is no root at all.
pub fn roots(extra: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "system root not loaded");
    }
    roots.add_parsable_certificates(system.certs);
    for path in extra {
        let action = || format!("loading roots from {}", path.display());
        let certs = CertificateDer::pem_file_iter(path).map_err(|e| failed(action(), e))?;
        for cert in certs {
            let cert = cert.map_err(|e| failed(action(), e))?;
            roots.add(cert).map_err(|e| failed(action(), e))?;
        }
    }
    if roots.is_empty() {
        return Err(failed("loading trusted roots", "the system has none and none is configured"));
    }
    Ok(roots)
}

fn connector(roots: &Arc<RootCertStore>, offer: &[Protocol]) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| failed("configuring upstream tls", e))?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = offer.iter().map(|p| p.alpn().as_bytes().to_vec()).collect();
    config.resumption = rustls::client::Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(name.to_owned())
            .map_err(|e| TlsError::Name(format!("{name}: {e}"))),
    }
}

fn classify_upstream(error: std::io::Error) -> TlsError {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            TlsError::UpstreamCertificate(why.to_string())
        }
        _ => TlsError::Upstream(error),
    }
}
