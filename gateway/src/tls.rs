//! TLS on both sides: termination towards the client, verified connections towards upstream.
//!
//! - input: a parsed ClientHello and the protocol that upstream chose
//! - output: a decrypted downstream stream
//! - bound: `limits::MAX_CACHED_LEAVES` leaves; handshakes share the flow's deadline
//! - on failure: [`TlsError`]; the client gets a fatal alert, never a certificate that hides an
//!   upstream failure

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::error::{Fault, Faulty};

pub mod authority;
pub mod mint;
pub mod resolver;
pub mod upstream;

use mint::Mint;
use resolver::{Fixed, ResolveBySni};

/// The application protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    H1,
    /// HTTP/2
    H2,
}

impl Protocol {
    /// The ALPN identifier.
    pub const fn alpn(self) -> &'static str {
        match self {
            Self::H1 => "http/1.1",
            Self::H2 => "h2",
        }
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// CA or key files, or certificate generation.
    #[error("{action}: {detail}")]
    Authority {
        /// What was attempted.
        action: String,
        /// What went wrong.
        detail: String,
    },
    /// The downstream handshake failed.
    #[error("handshake with client: {0}")]
    Downstream(std::io::Error),
    /// The client refused our certificate.
    #[error("client does not trust the issuing CA: {0}")]
    Untrusted(std::io::Error),
    /// The upstream certificate does not verify.
    #[error("upstream certificate: {0}")]
    UpstreamCertificate(String),
    /// The upstream handshake failed otherwise.
    #[error("handshake with upstream: {0}")]
    Upstream(std::io::Error),
    /// A name that cannot be a server name.
    #[error("not a server name: {0}")]
    Name(String),
}

impl Faulty for TlsError {
    fn fault(&self) -> Fault {
        match self {
            Self::Authority { .. } => Fault::Internal,
            Self::Downstream(_) | Self::Untrusted(_) | Self::Name(_) => Fault::Downstream,
            Self::UpstreamCertificate(_) | Self::Upstream(_) => Fault::Upstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Authority { .. } => "certificate_authority",
            Self::Downstream(_) => "client_handshake",
            Self::Untrusted(_) => "client_distrusts_ca",
            Self::UpstreamCertificate(_) => "upstream_certificate",
            Self::Upstream(_) => "upstream_handshake",
            Self::Name(_) => "bad_server_name",
        }
    }
}

/// Terminates downstream TLS.
#[derive(Debug)]
pub struct Terminator {
    mint: Arc<Mint>,
    h1: Arc<ServerConfig>,
    h2: Arc<ServerConfig>,
}

impl Terminator {
    /// Builds the two server configurations.
    ///
    /// # Errors
    /// [`TlsError::Authority`] when the TLS provider refuses its own defaults.
    pub fn new(mint: Arc<Mint>) -> Result<Self, TlsError> {
        let config = |protocol| {
            server_config(Arc::new(ResolveBySni(Arc::clone(&mint))), protocol).map(Arc::new)
        };
        Ok(Self { h1: config(Protocol::H1)?, h2: config(Protocol::H2)?, mint })
    }

    /// The certificates in use.
    pub fn mint(&self) -> &Arc<Mint> {
        &self.mint
    }

    /// Finishes the handshake that `hello` began, speaking `protocol` only.
    ///
    /// A client without SNI gets a certificate for the address that it asked for.
    ///
    /// # Errors
    /// [`TlsError::Downstream`], or [`TlsError::Untrusted`] when the client's alert says so.
    pub async fn accept<IO>(
        &self,
        hello: rustls::server::Accepted,
        io: IO,
        protocol: Protocol,
        orig_ip: IpAddr,
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = if hello.client_hello().server_name().is_none() {
            let key = self.mint.leaf(&orig_ip.to_string())?;
            Arc::new(server_config(Arc::new(Fixed(key)), protocol)?)
        } else {
            match protocol {
                Protocol::H1 => Arc::clone(&self.h1),
                Protocol::H2 => Arc::clone(&self.h2),
            }
        };
        let start = tokio_rustls::StartHandshake::from_parts(hello, io);
        start.into_stream(config).await.map_err(classify_downstream)
    }
}

fn server_config(
    resolver: Arc<dyn rustls::server::ResolvesServerCert>,
    protocol: Protocol,
) -> Result<ServerConfig, TlsError> {
    let failed = |e: rustls::Error| TlsError::Authority {
        action: "configuring downstream tls".into(),
        detail: e.to_string(),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![protocol.alpn().as_bytes().to_vec()];
    // Early data stays refused (the default): it can be replayed. One ticket instead of two: a
    // resumed handshake costs this side as much as a full one with P-256.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(failed)?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// Tells a client that does not trust our CA from one that failed otherwise.
fn classify_downstream(error: std::io::Error) -> TlsError {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(
            Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown,
        )) => TlsError::Untrusted(error),
        _ => TlsError::Downstream(error),
    }
}

/// A fatal alert to a client whose handshake has not been answered yet (RFC 8446 section 6.2),
/// as a plaintext record.
pub fn fatal_alert(alert: rustls::AlertDescription) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, u8::from(alert)]
}
