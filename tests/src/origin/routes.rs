//! The endpoints of an origin.
//!
//! - input: a request
//! - output: a response; every body is streamed unless noted
//! - bound: `/sink` and `/echo` hold one frame; `/gzip` at most 16 MiB
//! - on failure: 400 for a parameter that is no number, 404 for an unknown path
//!
//! | path | answer |
//! |---|---|
//! | `GET /bytes/N?chunked=1&chunk=K&gap_ms=G` | N bytes of the pattern |
//! | `POST /echo` | the request body with its content type, trailers included |
//! | `POST /sink` | JSON: bytes and SHA-256 of the request body, its trailers |
//! | `GET /sse?events=N&gap_ms=K&size=S` | events with `seq` and `sent_ns` |
//! | `GET /gzip?size=N` | N bytes of text, gzip-encoded |
//! | `GET /status/N` | that status, empty unless `?size=N` |
//! | `/headers` | JSON: method, URI, version and header fields of the request |
//! | `GET /trailers` | chunked body, trailers `x-sum` and `x-end` (HTTP/1: with `te: trailers`) |
//! | `GET /cookies` | two `set-cookie` fields |
//! | `GET /delay/MS` | 200 after that time |
//! | `GET /hang` | never answers |
//! | `GET /abort/N?of=M` | announces M bytes, breaks after N |
//! | `POST /refuse-body` | 417 without reading the body, so no 100 is sent |
//! | `POST /early` | 200 before the body is read, which then is read to its end |
//! | `/upgrade` | 101 to `echo`, which returns every byte |
//! | `/ws` | WebSocket that echoes messages |
//! | `/git/…` | `git http-backend` |
//! | `POST /v1/chat/completions` | a language model: see [`super::llm`] |

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::body::{Events, Frames, Pattern};
use super::{Context, git, llm, upgrade};
use crate::client::{Body, empty, full};

const DEFAULT_CHUNK: u64 = 64 * 1024;
const MAX_GZIP: usize = 16 << 20;

pub(super) async fn route(
    context: Arc<Context>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let head_only = request.method() == Method::HEAD;
    let mut response =
        answer(&context, peer, request).await.unwrap_or_else(|status| plain(status, ""));
    if let (true, Some(length)) = (head_only, response.body().size_hint().exact()) {
        // hyper would send the body in HTTP/2
        response.headers_mut().insert("content-length", length.into());
        *response.body_mut() = empty();
    }
    Ok(response)
}

async fn answer(
    context: &Context,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, StatusCode> {
    let uri = request.uri().clone();
    let mut path = uri.path().trim_start_matches('/').splitn(2, '/');
    let (first, rest) = (path.next().unwrap_or(""), path.next().unwrap_or(""));
    Ok(match first {
        "" => plain(StatusCode::OK, "origin\n"),
        "bytes" => bytes(&uri, number(rest)?)?,
        "echo" => echo(request),
        "v1" if rest == "chat/completions" => llm::chat(context, request).await,
        "sink" => sink(request).await,
        "sse" => sse(&uri)?,
        "gzip" => gzip(parameter(&uri, "size")?.unwrap_or(4096)),
        "status" => status(&uri, rest)?,
        "headers" => json_response(&head(&request)),
        "trailers" => trailers(),
        "cookies" => cookies(),
        "delay" => {
            tokio::time::sleep(Duration::from_millis(number(rest)?)).await;
            plain(StatusCode::OK, "late\n")
        }
        "hang" => std::future::pending().await,
        "abort" => abort(&uri, number(rest)?)?,
        "refuse-body" => plain(StatusCode::EXPECTATION_FAILED, "no body wanted\n"),
        "early" => early(request),
        "upgrade" => upgrade::echo(request)?,
        "ws" => upgrade::websocket(request)?,
        "git" => {
            let root = context.git_root.as_deref().ok_or(StatusCode::NOT_FOUND)?;
            git::serve(root, peer, request).await
        }
        _ => plain(StatusCode::NOT_FOUND, "no such endpoint\n"),
    })
}

fn number<T: FromStr>(text: &str) -> Result<T, StatusCode> {
    text.parse().or(Err(StatusCode::BAD_REQUEST))
}

fn parameter<T: FromStr>(uri: &Uri, key: &str) -> Result<Option<T>, StatusCode> {
    let mut pairs = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| number(value)).transpose()
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    response
}

pub(super) fn typed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response
}

pub(super) fn json_response(value: &Value) -> Response<Body> {
    typed("application/json", full(value.to_string()))
}

fn bytes(uri: &Uri, length: u64) -> Result<Response<Body>, StatusCode> {
    let chunked = parameter::<u8>(uri, "chunked")? == Some(1);
    let chunk = parameter(uri, "chunk")?.unwrap_or(DEFAULT_CHUNK);
    let gap = Duration::from_millis(parameter(uri, "gap_ms")?.unwrap_or(0));
    let body = Pattern::new(length, chunk, !chunked).gap(gap);
    Ok(typed("application/octet-stream", body.boxed()))
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.map_err(io::Error::other).boxed());
    for name in ["content-type", "content-encoding", "trailer"] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn sink(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let (mut digest, mut length, mut trailers) = (Sha256::new(), 0_u64, Value::Null);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return plain(StatusCode::BAD_REQUEST, "broken body\n") };
        match frame.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                digest.update(&data);
            }
            Err(frame) => trailers = frame.trailers_ref().map_or(Value::Null, fields),
        }
    }
    let sha256 = hex::encode(digest.finalize());
    json_response(&json!({"bytes": length, "sha256": sha256, "trailers": trailers}))
}

fn sse(uri: &Uri) -> Result<Response<Body>, StatusCode> {
    let count = parameter(uri, "events")?.unwrap_or(10);
    let gap = Duration::from_millis(parameter(uri, "gap_ms")?.unwrap_or(10));
    let events = Events::new(count, gap, parameter(uri, "size")?.unwrap_or(0));
    Ok(typed("text/event-stream", events.boxed()))
}

/// The text that `/gzip?size=N` encodes.
pub fn gzip_text(size: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog\n".iter().copied().cycle().take(size).collect()
}

/// `data` as one gzip member.
pub fn gzip_encode(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).expect("write to memory");
    encoder.finish().expect("write to memory")
}

/// What one gzip member is made of.
pub fn gunzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(data).read_to_end(&mut out).expect("gzip");
    out
}

fn gzip(size: usize) -> Response<Body> {
    let encoded = gzip_encode(&gzip_text(size.min(MAX_GZIP)));
    let mut response = typed("text/plain", full(encoded));
    response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    response
}

fn status(uri: &Uri, code: &str) -> Result<Response<Body>, StatusCode> {
    let mut response = match parameter::<u64>(uri, "size")? {
        Some(size) => Response::new(Pattern::new(size, DEFAULT_CHUNK, true).boxed()),
        None => Response::new(empty()),
    };
    *response.status_mut() =
        StatusCode::from_u16(number(code)?).or(Err(StatusCode::BAD_REQUEST))?;
    Ok(response)
}

fn fields(headers: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())));
        out.insert(name.to_string(), values.collect());
    }
    Value::Object(out)
}

fn head<B>(request: &Request<B>) -> Value {
    json!({
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": fields(request.headers()),
    })
}

fn trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("10"));
    trailers.insert("x-end", HeaderValue::from_static("yes"));
    let body = Frames::new([Bytes::from("01234"), Bytes::from("56789")], Some(trailers));
    let mut response = typed("text/plain", body.boxed());
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum, x-end"));
    response
}

fn cookies() -> Response<Body> {
    let mut response = plain(StatusCode::OK, "cookies\n");
    response.headers_mut().append("set-cookie", HeaderValue::from_static("a=1; Path=/"));
    response.headers_mut().append("set-cookie", HeaderValue::from_static("b=2; Path=/"));
    response
}

fn abort(uri: &Uri, position: u64) -> Result<Response<Body>, StatusCode> {
    let length = parameter(uri, "of")?.unwrap_or(position * 2 + 1024);
    let body = Pattern::new(length, 1024, true).abort_at(position).gap(Duration::from_millis(1));
    Ok(typed("application/octet-stream", body.boxed()))
}

fn early(request: Request<Incoming>) -> Response<Body> {
    let wanted = request.method() != Method::GET;
    let mut body = request.into_body();
    tokio::spawn(async move { while wanted && matches!(body.frame().await, Some(Ok(_))) {} });
    plain(StatusCode::OK, "early\n")
}
