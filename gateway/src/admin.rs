//! Health and metrics on a unix socket.
//!
//! - input: `GET /health`, `GET /metrics`
//! - output: text
//! - bound: 16 connections at a time, 5 s each
//! - on failure: the connection is closed; the gateway goes on
//!
//! The listener may be one of an older gateway, and go on to a newer one: whoever ends it last
//! removes its file.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const MAX_CONNECTIONS: usize = 16;
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// What a path answers.
#[derive(Debug)]
pub enum Answer {
    /// 200 with this text.
    Ok(String),
    /// 503 with this text: alive, but not able to do its work.
    Unhealthy(String),
    /// 404
    NotFound,
}

/// Serves until `stop`. `answer` maps a path to a text.
///
/// # Errors
/// When the runtime does not take the socket.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    stop: &CancellationToken,
    answer: impl Fn(&str) -> Answer + 'static,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (answer, places) = (Rc::new(answer), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            () = stop.cancelled() => return Ok(()),
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let answer = Rc::clone(&answer);
            tokio::task::spawn_local(async move {
                // A scraper that hangs or breaks off concerns nobody else.
                drop(tokio::time::timeout(CONNECTION_TIME, talk(stream, answer)).await);
                drop(place);
            });
        }
    }
}

/// Makes the socket. A file that nobody listens on any more is replaced.
///
/// # Errors
/// `AddrInUse` when somebody listens; as of `bind(2)`.
pub fn listen(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn talk(stream: UnixStream, answer: Rc<impl Fn(&str) -> Answer + 'static>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (status, text) = match answer(request.uri().path()) {
            Answer::Ok(text) => (StatusCode::OK, text),
            Answer::Unhealthy(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Answer::NotFound => (StatusCode::NOT_FOUND, String::new()),
        };
        async move {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}
