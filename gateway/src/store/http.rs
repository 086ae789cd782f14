//! Serves ClickHouse's HTTP interface on a connection.
//!
//! - input: HTTP/1.1 requests on a unix socket
//! - output: answers in the form that the official client reads
//! - bound: [`MAX_HEAD_BYTES`], [`MAX_QUERY_BYTES`], [`READ_TIMEOUT`]; inserts stream
//! - on failure: an answer with `X-ClickHouse-Exception-Code`, or the connection is closed

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::ffi::EngineError;
use super::pool::{Feed, InsertJob, Job, Piece, QueryJob, Senders};
use super::request::{self, Request};
use super::{ANALYST, WRITER};

/// Bytes of a request head.
const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Header fields of a request.
const MAX_HEADERS: usize = 64;
/// Bytes of a statement with its parameters.
const MAX_QUERY_BYTES: usize = 4 * 1024 * 1024;
/// For a request head, and for a statement.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Pieces of an insert between the socket and the engine.
const INSERT_QUEUE: usize = 4;
/// Pieces of an answer between the engine and the socket.
const ANSWER_QUEUE: usize = 4;
/// Characters of an error in the middle of an answer: the client finds it only in one read.
const MAX_LATE_ERROR: usize = 2000;
/// Marks an error in the middle of an answer.
const EXCEPTION_TAG: &str = "weirstoreerrtag0";

/// What all connections share.
pub(super) struct Service {
    senders: Senders,
}

impl Service {
    /// A service that runs statements through `senders`.
    pub(super) fn new(senders: Senders) -> Self {
        Self { senders }
    }
}

/// Serves one client until it leaves.
///
/// When `stopped` closes, the request that is running is the last.
pub(super) async fn connection(
    stream: UnixStream,
    service: Arc<Service>,
    mut stopped: watch::Receiver<()>,
) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let answer = hyper::service::service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(handle(request, &service).await) }
    });
    let mut serving = std::pin::pin!(server.serve_connection(TokioIo::new(stream), answer));
    let result = tokio::select! {
        result = &mut serving => result,
        _closed = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}

async fn handle(request: hyper::Request<Incoming>, service: &Service) -> Response<Answer> {
    match route(request, service).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    }
}

async fn route(
    request: hyper::Request<Incoming>,
    service: &Service,
) -> Result<Response<Answer>, EngineError> {
    let (head, body) = request.into_parts();
    match (head.uri.path(), &head.method) {
        ("/ping", _) => return Ok(Response::new(Answer::text("Ok.\n"))),
        ("/", &(Method::GET | Method::POST)) => {}
        _ => {
            let what = "only POST and GET on / are served, and /ping";
            return Err(EngineError::new(48, "NOT_IMPLEMENTED", what));
        }
    }
    // GET never writes, as with a ClickHouse server.
    let writer = user(&head.headers)? && head.method == Method::POST;
    let parsed = Request::parse(head.uri.query().unwrap_or_default())?;
    if head.headers.contains_key(hyper::header::CONTENT_ENCODING) {
        let what = "compressed requests are not served by the embedded store";
        return Err(EngineError::new(48, "NOT_IMPLEMENTED", what));
    }
    if parsed.insert().is_some() && head.method == Method::POST {
        if !writer {
            let what = "this user may not insert";
            return Err(EngineError::new(497, "ACCESS_DENIED", what));
        }
        return insert(&parsed, body, service).await;
    }
    let content_type = head.headers.get(hyper::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let parsed = statement(parsed, content_type, body).await?;
    query(parsed, writer, service).await
}

/// Whether the request's user may write. Access to the socket is what authenticates; the name
/// only chooses between the two roles.
fn user(headers: &hyper::HeaderMap) -> Result<bool, EngineError> {
    let name = headers.get("x-clickhouse-user").map(|v| v.to_str().unwrap_or_default());
    match name {
        Some(WRITER) => Ok(true),
        None | Some(ANALYST) => Ok(false),
        Some(_) => {
            let what = format!("unknown user: the embedded store has {WRITER} and {ANALYST}");
            Err(EngineError::new(516, "AUTHENTICATION_FAILED", what))
        }
    }
}

/// Completes a request with the statement in its body.
async fn statement(
    mut parsed: Request,
    content_type: &str,
    body: Incoming,
) -> Result<Request, EngineError> {
    let whole = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_QUERY_BYTES).collect());
    let body = match whole.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let what = format!("a statement is larger than {MAX_QUERY_BYTES} bytes");
            return Err(EngineError::new(229, "QUERY_IS_TOO_LARGE", what));
        }
        Ok(Err(e)) => {
            let what = format!("reading the statement: {e}");
            return Err(EngineError::new(210, "NETWORK_ERROR", what));
        }
        Err(_elapsed) => {
            return Err(EngineError::new(209, "SOCKET_TIMEOUT", "reading the statement"));
        }
    };
    let body = std::str::from_utf8(&body)
        .map_err(|_invalid| EngineError::new(36, "BAD_ARGUMENTS", "the statement is not UTF-8"))?;
    match request::boundary(content_type) {
        Some(boundary) => parsed.add_multipart(boundary, body)?,
        None if parsed.query.is_empty() => body.clone_into(&mut parsed.query),
        None if !body.is_empty() => {
            parsed.query.push('\n');
            parsed.query.push_str(body);
        }
        None => {}
    }
    if parsed.query.trim().is_empty() {
        return Err(EngineError::new(62, "SYNTAX_ERROR", "empty statement"));
    }
    Ok(parsed)
}

async fn query(
    parsed: Request,
    writer: bool,
    service: &Service,
) -> Result<Response<Answer>, EngineError> {
    let (head, started) = oneshot::channel();
    let (out, pieces) = mpsc::channel(ANSWER_QUEUE);
    let Request { database, format, query, params, .. } = parsed;
    if !writer {
        // The embedded engine keeps no query log: this line is the audit of what was read.
        let shown: String = query.chars().take(300).collect();
        tracing::info!(statement = shown, "analyst statement");
    }
    let shown = format.clone();
    let job = QueryJob { database, sql: query, format, params, head, out };
    service.senders.submit(writer, Job::Query(job))?;
    started.await.map_err(|_gone| ending())??;
    let mut response = Response::new(Answer::Pieces(pieces));
    let headers = response.headers_mut();
    if let Ok(format) = hyper::header::HeaderValue::from_str(&shown) {
        headers.insert("x-clickhouse-format", format);
    }
    headers.insert(
        "x-clickhouse-exception-tag",
        hyper::header::HeaderValue::from_static(EXCEPTION_TAG),
    );
    headers.insert("x-clickhouse-timezone", hyper::header::HeaderValue::from_static("UTC"));
    Ok(response)
}

async fn insert(
    parsed: &Request,
    mut body: Incoming,
    service: &Service,
) -> Result<Response<Answer>, EngineError> {
    let head = parsed.insert().ok_or_else(ending)?;
    let (feed, data) = mpsc::channel(INSERT_QUEUE);
    let (done, mut result) = oneshot::channel();
    let job = InsertJob {
        database: parsed.database.clone(),
        sql: head.sql,
        format: head.format,
        data,
        done,
    };
    service.senders.submit(true, Job::Insert(job))?;
    let rows = loop {
        tokio::select! {
            // The engine may refuse before all data came: answer then, not after the upload.
            early = &mut result => break early.map_err(|_gone| ending())??,
            frame = body.frame() => {
                let piece = match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(piece) => Feed::Data(piece),
                        Err(_trailers) => continue,
                    },
                    Some(Err(e)) => {
                        let what = format!("the client broke off the insert: {e}");
                        return Err(EngineError::new(210, "NETWORK_ERROR", what));
                    }
                    None => Feed::End,
                };
                let ended = matches!(piece, Feed::End);
                if feed.send(piece).await.is_err() || ended {
                    break result.await.map_err(|_gone| ending())??;
                }
            }
        }
    };
    let mut response = Response::new(Answer::text(""));
    let summary = format!("{{\"written_rows\":\"{rows}\",\"result_rows\":\"{rows}\"}}");
    if let Ok(summary) = hyper::header::HeaderValue::from_str(&summary) {
        response.headers_mut().insert("x-clickhouse-summary", summary);
    }
    Ok(response)
}

fn ending() -> EngineError {
    EngineError::new(236, "ABORTED", "the store is ending")
}

fn refusal(error: &EngineError) -> Response<Answer> {
    let status = match error.code {
        36 | 47 | 48 | 62 | 115 => StatusCode::BAD_REQUEST,
        60 | 81 => StatusCode::NOT_FOUND,
        164 | 497 | 516 => StatusCode::FORBIDDEN,
        229 => StatusCode::PAYLOAD_TOO_LARGE,
        159 | 202 | 236 | 241 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Answer::text(format!("{}\n", error.text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("x-clickhouse-exception-code", hyper::header::HeaderValue::from(error.code));
    response
}

/// The body of an answer.
enum Answer {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Piece>),
}

impl Answer {
    fn text(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Pieces(pieces) => std::task::ready!(pieces.poll_recv(cx)),
        };
        Poll::Ready(piece.map(|piece| match piece {
            Piece::Data(bytes) => Ok(Frame::data(bytes)),
            Piece::Failed(error) => Ok(Frame::data(late_error(&error))),
            Piece::Broken => Err(std::io::Error::other("the statement failed midway")),
        }))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Pieces(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// `WriteBufferFromHTTPServerResponse::cancelWithException` of ClickHouse 25.11 and later.
fn late_error(error: &EngineError) -> Bytes {
    let text: String = error.text.chars().take(MAX_LATE_ERROR).collect();
    let len = text.len() + 1;
    let tag = EXCEPTION_TAG;
    format!("\r\n__exception__\r\n{tag}\r\n{text}\n{len} {tag}\r\n__exception__\r\n").into()
}
