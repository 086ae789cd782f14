//! One request to an identity provider: no proxy, no redirect, no cookie, no connection kept.
//!
//! - input: [`Request`]
//! - output: the body of a 200 or 201 answer; for login flows, any answer but a redirect
//! - bound: `limits::PROVIDER_TIMEOUT` for all of it, `limits::MAX_PROVIDER_ANSWER_BYTES` or what the
//!   request allows
//! - on failure: [`FetchError`]; nothing is sent twice
//!
//! The gateway's own cgroup is not captured, so that this traffic does not come back to it.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::url::HttpUrl;
use crate::error::{Fault, Faulty};
use crate::limits::{MAX_HEAD_BYTES, MAX_PROVIDER_ANSWER_BYTES, PROVIDER_TIMEOUT};

/// Why a provider's answer could not be had. Hosts are those of the configuration or of a provider's
/// metadata; nothing of a request or an answer is repeated.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Name resolution, TCP connect or TLS handshake.
    #[error("connecting to {host}: {source}")]
    Connect {
        /// Whom.
        host: String,
        /// The operating system's or the TLS library's answer.
        source: io::Error,
    },
    /// It took too long.
    #[error("asking {0}: no answer in time")]
    Timeout(String),
    /// Not HTTP, or broken off.
    #[error("asking {host}: {source}")]
    Http {
        /// Whom.
        host: String,
        /// What hyper says.
        source: hyper::Error,
    },
    /// It wants us to ask somewhere else.
    #[error("asking {0}: redirects are not followed")]
    Redirect(String),
    /// Another status.
    #[error("asking {host}: status {status}")]
    Status {
        /// Whom.
        host: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The answer is too long.
    #[error("asking {0}: the answer is too long")]
    TooLarge(String),
    /// The request cannot be made.
    #[error("asking {host}: {what}")]
    Request {
        /// Whom.
        host: String,
        /// Why not.
        what: &'static str,
    },
}

impl Faulty for FetchError {
    fn fault(&self) -> Fault {
        match self {
            Self::Request { .. } => Fault::Internal,
            _ => Fault::Upstream,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "provider_connect",
            Self::Timeout(_) => "provider_timeout",
            Self::Http { .. } => "provider_http",
            Self::Redirect(_) => "provider_redirect",
            Self::Status { .. } => "provider_status",
            Self::TooLarge(_) => "provider_too_large",
            Self::Request { .. } => "provider_request",
        }
    }
}

/// What to ask.
pub struct Request {
    method: Method,
    url: HttpUrl,
    fields: HeaderMap,
    body: Bytes,
    most: usize,
}

impl Request {
    /// `GET`.
    pub fn get(url: HttpUrl) -> Self {
        Self {
            method: Method::GET,
            url,
            fields: HeaderMap::new(),
            body: Bytes::new(),
            most: MAX_PROVIDER_ANSWER_BYTES,
        }
    }

    /// `POST` with JSON.
    pub fn post(url: HttpUrl, json: &serde_json::Value) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self {
            method: Method::POST,
            url,
            fields,
            body: json.to_string().into(),
            most: MAX_PROVIDER_ANSWER_BYTES,
        }
    }

    /// `POST` with a form (RFC 6749 appendix B). The values are often secrets.
    pub fn form(url: HttpUrl, values: &[(&str, &str)]) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            values.iter().map(|(name, value)| encode(name) + "=" + &encode(value)).collect();
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Self {
            method: Method::POST,
            url,
            fields,
            body: pairs.join("&").into(),
            most: MAX_PROVIDER_ANSWER_BYTES,
        }
    }

    /// A request that another library made, for this URL.
    pub fn made(url: HttpUrl, made: http::Request<Vec<u8>>) -> Self {
        let (head, body) = made.into_parts();
        Self {
            method: head.method,
            url,
            fields: head.headers,
            body: body.into(),
            most: MAX_PROVIDER_ANSWER_BYTES,
        }
    }

    /// Adds `Authorization: SCHEME TOKEN`.
    ///
    /// # Errors
    /// [`FetchError::Request`] when the token has bytes that no header field has.
    pub fn authorized(mut self, scheme: &str, token: &SecretString) -> Result<Self, FetchError> {
        let value = HeaderValue::from_str(&format!("{scheme} {}", token.expose_secret()));
        let mut value = value.map_err(|_invalid| FetchError::Request {
            host: self.url.host().to_owned(),
            what: "the credential does not fit into a header field",
        })?;
        value.set_sensitive(true);
        self.fields.insert(AUTHORIZATION, value);
        Ok(self)
    }

    /// Allows an answer of another length.
    #[must_use]
    pub fn answer_at_most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// Adds a header field.
    #[must_use]
    pub fn field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.insert(name, value);
        self
    }
}

/// Not the body: it may hold a refresh token.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.url.host();
        f.debug_struct("Request").field("method", &self.method).field("host", &host).finish()
    }
}

/// Asks identity providers.
#[derive(Clone)]
pub struct Fetcher {
    tls: TlsConnector,
}

impl Fetcher {
    /// Verifies servers against these roots.
    ///
    /// # Errors
    /// When the TLS provider refuses its own defaults.
    pub fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, request: Request) -> Result<Bytes, FetchError> {
        let host = request.url.host().to_owned();
        let answer = self.exchange(request).await?;
        let status = answer.status();
        if status != StatusCode::OK && status != StatusCode::CREATED {
            return Err(FetchError::Status { host, status });
        }
        Ok(answer.into_body())
    }

    /// Sends a request and reads the answer, whatever its status: OAuth says in the body of a 400
    /// what it wants.
    ///
    /// # Errors
    /// See [`FetchError`]; never `Status`.
    pub async fn exchange(&self, request: Request) -> Result<http::Response<Bytes>, FetchError> {
        let host = request.url.host().to_owned();
        let asked = tokio::time::timeout(PROVIDER_TIMEOUT, self.ask(request, &host)).await;
        asked.unwrap_or(Err(FetchError::Timeout(host)))
    }

    async fn ask(&self, request: Request, host: &str) -> Result<http::Response<Bytes>, FetchError> {
        let failed = |source| FetchError::Connect { host: host.to_owned(), source };
        let socket = TcpStream::connect((host, request.url.port())).await.map_err(failed)?;
        if !request.url.is_https() {
            return exchange(socket, request, host).await;
        }
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(|_invalid| {
                FetchError::Request { host: host.to_owned(), what: "it is not a server name" }
            })?,
        };
        exchange(self.tls.connect(name, socket).await.map_err(failed)?, request, host).await
    }
}

async fn exchange<IO>(
    io: IO,
    request: Request,
    host: &str,
) -> Result<http::Response<Bytes>, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| FetchError::Http { host: host.to_owned(), source };
    let handshake = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let (head, most) = (head(&request, host)?, request.most);
    let mut answer = pin!(async move {
        let response = sender.send_request(head).await.map_err(failed)?;
        body(response, host, most).await
    });
    // The connection drives the exchange, and may end before the last bytes were taken from it.
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        ended = connection => ended.map_err(failed)?,
    }
    answer.await
}

fn head(request: &Request, host: &str) -> Result<http::Request<Full<Bytes>>, FetchError> {
    let wrong = || FetchError::Request { host: host.to_owned(), what: "it is not a valid request" };
    let authority = HeaderValue::from_str(request.url.authority());
    let mut head = http::Request::new(Full::new(request.body.clone()));
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = request.url.target().parse().map_err(|_invalid| wrong())?;
    *head.headers_mut() = request.fields.clone();
    let fields = head.headers_mut();
    fields.insert(HOST, authority.map_err(|_invalid| wrong())?);
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    fields
        .insert(USER_AGENT, HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION"))));
    if request.method != Method::GET {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    }
    Ok(head)
}

async fn body(
    response: http::Response<hyper::body::Incoming>,
    host: &str,
    most: usize,
) -> Result<http::Response<Bytes>, FetchError> {
    if response.status().is_redirection() {
        return Err(FetchError::Redirect(host.to_owned()));
    }
    let (head, mut body) = response.into_parts();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| FetchError::Http { host: host.to_owned(), source })?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len().saturating_add(data.len()) > most {
            return Err(FetchError::TooLarge(host.to_owned()));
        }
        all.extend_from_slice(&data);
    }
    Ok(http::Response::from_parts(head, all.freeze()))
}
