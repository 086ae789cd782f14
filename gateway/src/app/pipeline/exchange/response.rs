//! An answer on its way down: what the client gets of it, and when.
//!
//! - input: upstream's response, and who looks for secrets in it
//! - output: the client's response
//! - bound: a body that is judged as a whole: see [`whole`]; a stream holds back what
//!   `weir_inspect::stream` says
//! - on failure: [`ExchangeError`], or a body that breaks off

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use hyper::body::Incoming;
use weir_inspect::stream::Stream;

use super::super::HttpFlow;
use super::upstream::Lease;
use super::whole::{self, WholeError};
use super::{AnswerError, ExchangeError};
use crate::forward::ForwardError;
use crate::http::body::{BodyError, Filtered, Live, Observed, ResponseBody, Whole};
use crate::http::{framing, head};
use crate::inspect::body;
use crate::inspect::judge::{Direction, Side};
use crate::inspect::refused::Refused;
use crate::inspect::transform::{Passing, Watcher};
use crate::record::exchange::OpenExchange;
use crate::tls::Protocol;

/// What was asked.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
}

/// Passes upstream's response on.
pub(super) async fn relay(
    http: &HttpFlow,
    exchange: &OpenExchange,
    lease: Rc<Lease>,
    side: &Side,
    asked: &Asked,
    response: Response<Incoming>,
) -> Result<Response<ResponseBody>, ExchangeError> {
    let (mut parts, incoming) = response.into_parts();
    head::strip_hop_by_hop(&mut parts.headers, false);
    parts.version = match http.downstream {
        Protocol::H1 => Version::HTTP_11,
        Protocol::H2 => Version::HTTP_2,
    };
    let live = Live(incoming);
    let ended = exchange.clone();
    let release = move || lease.release(&ended);
    let treatment = if side.changes() { treatment(&parts, asked) } else { Treatment::Pass };
    let body = match treatment {
        Treatment::Pass => {
            let observer = exchange.observer(Direction::Response, release);
            ResponseBody::Live(Observed::new(live, observer))
        }
        Treatment::Bodiless => {
            // The length and the tag would be those of another body.
            if asked.method == Method::HEAD {
                parts.headers.remove(CONTENT_LENGTH);
            }
            framing::weaken(&mut parts.headers);
            let observer = exchange.observer(Direction::Response, release);
            ResponseBody::Live(Observed::new(live, observer))
        }
        Treatment::Partial => return Err(AnswerError::Partial.into()),
        Treatment::Stream(framing) => {
            framing::changed(&mut parts.headers, None);
            framing::weaken(&mut parts.headers);
            let counted = Observed::new(live, exchange.counter(Direction::Response, release));
            let judged = Passing::judged(side.clone(), framing, Recording(exchange.clone()));
            let filtered = Filtered::new(counted, Box::new(judged));
            ResponseBody::Filtered(Observed::new(filtered, exchange.delivery()))
        }
        Treatment::Whole => {
            let counted = Observed::new(live, exchange.counter(Direction::Response, release));
            let budget = &http.flow.worker.shared.inspect_budget;
            let read = whole::read(counted, side.max_body_bytes(), budget).await;
            let read = read.map_err(unread)?;
            let judged = body::answer(side, &parts.headers, read.data).await;
            let answered = judged.map_err(|stopped| {
                exchange.keep(Direction::Response, &stopped.data);
                AnswerError::Refused(stopped.why)
            })?;
            let data = match (answered.original, answered.changed) {
                (_, Some((client, recorded))) => {
                    parts.headers.remove(CONTENT_ENCODING);
                    let length = read.trailers.is_none().then_some(client.len() as u64);
                    framing::changed(&mut parts.headers, length);
                    framing::weaken(&mut parts.headers);
                    exchange.decoded(Direction::Response);
                    exchange.keep(Direction::Response, &recorded);
                    client
                }
                (original, None) => {
                    let original = original.unwrap_or_default();
                    exchange.keep(Direction::Response, &original);
                    original
                }
            };
            let whole = Whole::new(read.lease.attach(data), read.trailers);
            ResponseBody::Whole(Observed::new(whole, exchange.delivery()))
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// What becomes of an answer on a route where secrets are replaced.
enum Treatment {
    /// It passes; what is recorded of it is masked.
    Pass,
    Bodiless,
    /// A part of a body cannot be judged, and nobody asked for one.
    Partial,
    Stream(fn() -> Stream),
    Whole,
}

fn treatment(parts: &Parts, asked: &Asked) -> Treatment {
    if framing::is_bodiless(&asked.method, parts.status) {
        return Treatment::Bodiless;
    }
    if parts.status == StatusCode::PARTIAL_CONTENT {
        return Treatment::Partial;
    }
    let content_type = essence(&parts.headers);
    if is_binary(&content_type) {
        return Treatment::Pass;
    }
    if is_encoded(&parts.headers) {
        return Treatment::Whole;
    }
    let is_measured = parts.headers.contains_key(CONTENT_LENGTH);
    match content_type.as_str() {
        "text/event-stream" => Treatment::Stream(Stream::sse),
        "application/vnd.amazon.eventstream" => Treatment::Stream(Stream::event_stream),
        // Bodies of a known length come at once: they are judged in all their views.
        _ if is_measured => Treatment::Whole,
        "application/x-ndjson"
        | "application/jsonl"
        | "application/json-seq"
        | "application/x-json-stream" => Treatment::Stream(Stream::json_lines),
        "application/json" if asked.path.ends_with(":streamGenerateContent") => {
            Treatment::Stream(Stream::json_array)
        }
        "text/plain" => Treatment::Stream(Stream::text),
        _ => Treatment::Whole,
    }
}

fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        !value.as_bytes().is_empty() && !value.as_bytes().eq_ignore_ascii_case(b"identity")
    })
}

/// What carries no text that somebody reads as it is. Replacing bytes would only break it.
fn is_binary(content_type: &str) -> bool {
    let top = content_type.split('/').next().unwrap_or_default();
    matches!(top, "image" | "audio" | "video" | "font") && content_type != "image/svg+xml"
        || matches!(
            content_type,
            "application/octet-stream"
                | "application/zip"
                | "application/gzip"
                | "application/x-gzip"
                | "application/x-tar"
                | "application/pdf"
                | "application/wasm"
                | "application/grpc"
                | "application/x-protobuf"
                | "application/protobuf"
        )
}

fn unread(error: WholeError) -> ExchangeError {
    match error {
        WholeError::Broken(BodyError::Peer(error)) => ForwardError::Http(error).into(),
        other => AnswerError::Whole(other).into(),
    }
}

/// Keeps what was judged; notes a refusal in the row before the broken body does.
struct Recording(OpenExchange);

impl Watcher for Recording {
    fn judged(&self, bytes: &Bytes) {
        self.0.keep(Direction::Response, bytes);
    }

    fn refused(&self, why: &Refused) {
        self.0.failed(why);
    }
}
