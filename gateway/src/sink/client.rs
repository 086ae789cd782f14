//! Connects to ClickHouse: the embedded store on its unix socket, or a server by URL.
//!
//! - input: `[store]`
//! - output: the official client, for the writer or for reading
//! - bound: the password file is at most 4 KiB; idle connections close after two seconds
//! - on failure: [`SinkError::Config`]; nothing is sent here, so an absent server shows later

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clickhouse::{Client, Compression};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use super::SinkError;
use crate::config;
use crate::store::{ANALYST, WRITER};

const IDLE: Duration = Duration::from_secs(2);
const MAX_PASSWORD_BYTES: u64 = 4096;

/// A client that may write.
///
/// # Errors
/// [`SinkError::Config`].
pub fn connect(config: &config::Store) -> Result<Client, SinkError> {
    match &config.url {
        None => Ok(embedded(config, WRITER)),
        Some(url) => server(config, url),
    }
}

/// A client that may only read.
///
/// # Errors
/// [`SinkError::Config`].
pub fn connect_reader(config: &config::Store) -> Result<Client, SinkError> {
    match &config.url {
        None => Ok(embedded(config, ANALYST)),
        // The same user, but the server refuses it everything that is not reading.
        Some(url) => Ok(server(config, url)?.with_setting("readonly", "1")),
    }
}

fn embedded(config: &config::Store, user: &str) -> Client {
    let http = legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .build(UnixConnector(config.socket.clone()));
    Client::with_http_client(http)
        .with_url("http://localhost")
        .with_user(user)
        .with_database(&config.database)
        // The bytes do not leave the host.
        .with_compression(Compression::None)
}

fn server(config: &config::Store, url: &str) -> Result<Client, SinkError> {
    if url.starts_with("https://") {
        return Err(SinkError::Config(
            "store.url: https:// is not supported yet: use http:// to a TLS-terminating proxy on \
             this host, or to a server on a trusted network"
                .to_owned(),
        ));
    }
    let client = Client::default()
        .with_url(url)
        .with_user(&config.user)
        .with_database(&config.database)
        .with_compression(if is_loopback(url) { Compression::None } else { Compression::Lz4 });
    match &config.password_file {
        Some(path) => Ok(client.with_password(password(path)?)),
        None => Ok(client),
    }
}

/// Bytes that do not leave the host are not worth compressing.
fn is_loopback(url: &str) -> bool {
    let uri = url.parse::<hyper::Uri>();
    let host = uri.as_ref().ok().and_then(hyper::Uri::host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn password(path: &Path) -> Result<String, SinkError> {
    let failed = |e: &dyn std::fmt::Display| {
        SinkError::Config(format!("store.password_file: reading {}: {e}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut text = String::new();
    file.take(MAX_PASSWORD_BYTES).read_to_string(&mut text).map_err(|e| failed(&e))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.contains(char::is_control) {
        return Err(failed(&"a password has no control characters"));
    }
    Ok(text.to_owned())
}

/// Connects to one unix socket, whatever the request's authority.
#[derive(Clone)]
struct UnixConnector(PathBuf);

impl tower_service::Service<hyper::Uri> for UnixConnector {
    type Response = UnixIo;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<UnixIo>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: hyper::Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move {
            let stream = UnixStream::connect(&path).await.map_err(|e| {
                std::io::Error::new(e.kind(), format!("connecting to {}: {e}", path.display()))
            })?;
            Ok(UnixIo(TokioIo::new(stream)))
        })
    }
}

struct UnixIo(TokioIo<UnixStream>);

impl Connection for UnixIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for UnixIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for UnixIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn https_is_refused_in_words() {
        let mut config = Config::parse("").unwrap().store;
        config.url = Some("https://clickhouse.example:8443".to_owned());
        let said = connect(&config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("store.url") && said.contains("not supported yet"), "{said}");
    }

    #[test]
    fn loopback_is_told_from_the_network() {
        for url in ["http://127.0.0.1:8123", "http://localhost", "http://[::1]:8123/"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://192.0.2.1:8123", "http://localhost.example", "http://[fe80::1]", "", "x"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn a_password_file_must_exist_and_be_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let said = password(&path).unwrap_err().to_string();
        assert!(said.contains("store.password_file"), "{said}");
        std::fs::write(&path, "secret\n").unwrap();
        assert_eq!(password(&path).unwrap(), "secret");
        std::fs::write(&path, "sec\nret\n").unwrap();
        let said = password(&path).unwrap_err().to_string();
        assert!(!said.contains("sec\n"), "{said}");
    }

    #[tokio::test]
    async fn an_absent_store_is_worth_waiting_for() {
        let mut config = Config::parse("").unwrap().store;
        config.socket = "/nonexistent/store.sock".into();
        let client = connect(&config).unwrap();
        let error = client.query_raw("SELECT 1").execute().await.unwrap_err();
        assert!(SinkError::from_client("asking", &error).retryable());
    }
}
