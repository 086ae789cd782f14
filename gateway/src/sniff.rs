//! First bytes of a flow: TLS, HTTP or something else. Nothing is answered yet.
//!
//! - input: an accepted socket
//! - output: [`Sniffed`], with every byte that was read
//! - bound: `limits::MAX_CLIENT_HELLO_BYTES`, `limits::MAX_SNIFF_BYTES`; one deadline
//! - on failure: [`SniffError`]; a malformed ClientHello comes with the alert to send

use bytes::{Bytes, BytesMut};
use rustls::server::{Accepted as Hello, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

use crate::error::{Fault, Faulty};
use crate::limits;

/// What a flow speaks.
pub enum Sniffed {
    /// A complete ClientHello.
    Tls(Box<ClientHello>),
    /// A request line, or the HTTP/2 preface.
    Http {
        /// HTTP/2 with prior knowledge (RFC 9113 section 3.3).
        h2: bool,
        /// Bytes read so far.
        read: Bytes,
    },
    /// Anything else, and a client that waits for the server to speak.
    Opaque {
        /// Bytes read so far.
        read: Bytes,
    },
}

/// A parsed ClientHello and the bytes that it came in.
pub struct ClientHello {
    /// rustls' state, ready to continue the handshake.
    pub accepted: Hello,
    /// Lower-case server name (RFC 6066 section 3), if there is one.
    pub sni: Option<String>,
    /// Offered protocols (RFC 7301).
    pub offers: Offers,
    /// Every byte read, for flows that pass through undecrypted.
    pub read: Bytes,
    /// Bytes that rustls did not take: they come after the ClientHello.
    pub rest: Bytes,
}

/// Which of the protocols that weir speaks a client offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// `h2`
    pub h2: bool,
    /// `http/1.1`, or no ALPN at all.
    pub h1: bool,
    /// Something else, such as `postgresql`.
    pub other: bool,
}

/// Why a flow could not be classified.
#[derive(Debug, thiserror::Error)]
pub enum SniffError {
    /// The client closed before it sent anything.
    #[error("client closed before its first byte")]
    Empty,
    /// The client closed in the middle of its ClientHello.
    #[error("client closed inside its ClientHello")]
    Truncated,
    /// The ClientHello does not parse.
    #[error("reading ClientHello: {error}")]
    Hello {
        /// What rustls said.
        error: rustls::Error,
        /// The alert record that rustls wants sent, if any.
        alert: Vec<u8>,
    },
    /// The ClientHello is larger than the limit.
    #[error("ClientHello larger than {} bytes", limits::MAX_CLIENT_HELLO_BYTES)]
    HelloTooLarge,
    /// The deadline passed.
    #[error("client did not finish its first message in time")]
    Timeout,
    /// The socket failed.
    #[error("reading first bytes: {0}")]
    Io(#[from] std::io::Error),
}

impl Faulty for SniffError {
    fn fault(&self) -> Fault {
        Fault::Downstream
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Empty => "client_sent_nothing",
            Self::Truncated => "truncated_client_hello",
            Self::Hello { .. } => "malformed_client_hello",
            Self::HelloTooLarge => "client_hello_too_large",
            Self::Timeout => "client_stalled",
            Self::Io(_) => "client_reset",
        }
    }
}

/// How long a client may stay silent before its flow counts as one in which the server speaks
/// first (SSH, SMTP, MySQL). Only used where such flows may be forwarded.
const SERVER_FIRST: std::time::Duration = std::time::Duration::from_millis(500);

/// TLS record type `handshake`, RFC 8446 section 5.1.
const TLS_HANDSHAKE: u8 = 22;
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is taken for HTTP; registered ones have at most 17 letters.
const MAX_METHOD_BYTES: usize = 20;

/// Classifies a flow.
///
/// `server_first` allows a silent client to count as opaque after half a second.
///
/// # Errors
/// See [`SniffError`].
pub async fn sniff(
    io: &mut (impl AsyncRead + Unpin),
    deadline: Instant,
    server_first: bool,
) -> Result<Sniffed, SniffError> {
    let mut buf = BytesMut::with_capacity(2048);
    let silent_until =
        if server_first { deadline.min(Instant::now() + SERVER_FIRST) } else { deadline };
    match timeout_at(silent_until, io.read_buf(&mut buf)).await {
        Ok(Ok(0)) => return Err(SniffError::Empty),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) if server_first => return Ok(Sniffed::Opaque { read: Bytes::new() }),
        Err(_) => return Err(SniffError::Timeout),
    }
    if buf.first() == Some(&TLS_HANDSHAKE) {
        return timeout_at(deadline, client_hello(io, buf))
            .await
            .unwrap_or(Err(SniffError::Timeout))
            .map(|hello| Sniffed::Tls(Box::new(hello)));
    }
    timeout_at(deadline, plain(io, buf)).await.unwrap_or(Err(SniffError::Timeout))
}

async fn client_hello(
    io: &mut (impl AsyncRead + Unpin),
    mut buf: BytesMut,
) -> Result<ClientHello, SniffError> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        while let Some(mut unread) = buf.get(fed..).filter(|rest| !rest.is_empty()) {
            let before = unread.len();
            acceptor.read_tls(&mut unread)?;
            fed += before - unread.len();
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(parsed(accepted, buf.freeze(), fed)),
                Ok(None) if before == unread.len() => return Err(SniffError::HelloTooLarge),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write(&mut bytes)?;
                    return Err(SniffError::Hello { error, alert: bytes });
                }
            }
        }
        if buf.len() > limits::MAX_CLIENT_HELLO_BYTES {
            return Err(SniffError::HelloTooLarge);
        }
        if io.read_buf(&mut buf).await? == 0 {
            return Err(SniffError::Truncated);
        }
    }
}

fn parsed(accepted: Hello, read: Bytes, fed: usize) -> ClientHello {
    let hello = accepted.client_hello();
    let sni = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let mut offers = Offers::default();
    match hello.alpn() {
        None => offers.h1 = true,
        Some(protocols) => {
            for protocol in protocols {
                match protocol {
                    b"h2" => offers.h2 = true,
                    b"http/1.1" | b"http/1.0" => offers.h1 = true,
                    _ => offers.other = true,
                }
            }
        }
    }
    let rest = read.slice(fed.min(read.len())..);
    ClientHello { accepted, sni, offers, read, rest }
}

async fn plain(
    io: &mut (impl AsyncRead + Unpin),
    mut buf: BytesMut,
) -> Result<Sniffed, SniffError> {
    loop {
        match classify_plain(&buf) {
            Plain::Http => return Ok(Sniffed::Http { h2: false, read: buf.freeze() }),
            Plain::H2 => return Ok(Sniffed::Http { h2: true, read: buf.freeze() }),
            Plain::Opaque => return Ok(Sniffed::Opaque { read: buf.freeze() }),
            Plain::More if buf.len() >= limits::MAX_SNIFF_BYTES => {
                return Ok(Sniffed::Opaque { read: buf.freeze() });
            }
            Plain::More => {}
        }
        if io.read_buf(&mut buf).await? == 0 {
            return Ok(Sniffed::Opaque { read: buf.freeze() });
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plain {
    Http,
    H2,
    Opaque,
    More,
}

/// A method token, one space, and a target that begins as RFC 9112 section 3.2 allows.
fn classify_plain(bytes: &[u8]) -> Plain {
    // RFC 9112 section 2.2: a server should ignore empty lines before the request line.
    let lead = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = bytes.get(lead..).unwrap_or_default();
    if lead == 0 && H2_PREFACE.starts_with(line) && line.len() > 3 {
        return if line.len() == H2_PREFACE.len() { Plain::H2 } else { Plain::More };
    }
    if lead == 0 && line.starts_with(H2_PREFACE) {
        return Plain::H2;
    }
    let method = line.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    match (line.get(method), line.get(method + 1)) {
        (None, _) if method <= MAX_METHOD_BYTES && lead <= MAX_METHOD_BYTES => Plain::More,
        (Some(b' '), None) if method > 0 => Plain::More,
        (Some(b' '), Some(target)) if (1..=MAX_METHOD_BYTES).contains(&method) => {
            if target.is_ascii_graphic() { Plain::Http } else { Plain::Opaque }
        }
        _ => Plain::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_request_line_is_http_even_byte_by_byte() {
        let (mut client, mut server) = tokio::io::duplex(1);
        let send = client.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let sniffed = tokio::select! {
            sniffed = sniff(&mut server, deadline(), false) => sniffed,
            sent = send => panic!("the reader must stop first: {sent:?}"),
        };
        assert!(matches!(sniffed, Ok(Sniffed::Http { h2: false, .. })));
    }

    #[tokio::test]
    async fn the_h2_preface_is_http2() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(H2_PREFACE).await.expect("write");
        let sniffed = sniff(&mut server, deadline(), false).await;
        assert!(matches!(sniffed, Ok(Sniffed::Http { h2: true, .. })));
    }

    #[tokio::test]
    async fn ssh_banner_is_opaque() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("write");
        let sniffed = sniff(&mut server, deadline(), false).await;
        assert!(matches!(sniffed, Ok(Sniffed::Opaque { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_refused_or_opaque_as_allowed() {
        let (_client, mut server) = tokio::io::duplex(64);
        let refused = sniff(&mut server, deadline(), false).await;
        assert!(matches!(refused, Err(SniffError::Timeout)));
        let opaque = sniff(&mut server, deadline(), true).await;
        assert!(matches!(opaque, Ok(Sniffed::Opaque { read }) if read.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_hello_meets_the_deadline() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("write");
        let refused = sniff(&mut server, deadline(), true).await;
        assert!(matches!(refused, Err(SniffError::Timeout)));
    }

    #[tokio::test]
    async fn tls_garbage_is_refused() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(&[22, 3, 1, 0, 5, 99, 0, 0, 1, 7]).await.expect("write");
        let refused = sniff(&mut server, deadline(), false).await;
        assert!(matches!(refused, Err(SniffError::Hello { .. })));
    }

    #[tokio::test]
    async fn a_closed_client_is_told_apart_from_a_truncated_hello() {
        let (client, mut server) = tokio::io::duplex(64);
        drop(client);
        assert!(matches!(sniff(&mut server, deadline(), false).await, Err(SniffError::Empty)));
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(&[22, 3, 1]).await.expect("write");
        drop(client);
        assert!(matches!(sniff(&mut server, deadline(), false).await, Err(SniffError::Truncated)));
    }

    proptest! {
        #[test]
        fn any_first_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 1..2000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
            runtime.block_on(async {
                let (mut client, mut server) = tokio::io::duplex(4096);
                client.write_all(&bytes).await.expect("write");
                drop(client);
                let tls = bytes.first() == Some(&22);
                let sniffed = sniff(&mut server, deadline(), false).await;
                assert!(!matches!(sniffed, Ok(Sniffed::Http { .. })) || !tls);
            });
        }
    }
}
