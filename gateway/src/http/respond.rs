//! weir's own answers: the only place where a fault becomes an HTTP status.
//!
//! - input: a stage error and the id of the exchange
//! - output: a short text response
//! - bound: a few hundred bytes
//! - on failure: cannot fail
//!
//! Denials name the rule and the request id, never internals.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use uuid::Uuid;

use super::body::ResponseBody;
use crate::error::{Fault, Faulty};

/// The status of a failure.
pub fn status(error: &dyn Faulty) -> StatusCode {
    match (error.fault(), error.outcome()) {
        (_, "misdirected") => StatusCode::MISDIRECTED_REQUEST,
        (_, "connect_refused") => StatusCode::METHOD_NOT_ALLOWED,
        (_, "body_too_large") => StatusCode::PAYLOAD_TOO_LARGE,
        (_, "body_unreadable") => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Fault::Policy, "answer_refused") => StatusCode::BAD_GATEWAY,
        (Fault::Downstream, _) => StatusCode::BAD_REQUEST,
        (Fault::Policy, _) => StatusCode::FORBIDDEN,
        (Fault::Upstream, "upstream_timeout") => StatusCode::GATEWAY_TIMEOUT,
        (Fault::Upstream, _) => StatusCode::BAD_GATEWAY,
        (Fault::Capacity, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Fault::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A response that says what failed and how to find it in the record.
pub fn refuse(error: &dyn Faulty, rule: Option<&str>, id: Uuid) -> Response<ResponseBody> {
    explain(error, rule, None, id)
}

/// The same, with what whoever reads it can do about it.
pub fn explain(
    error: &dyn Faulty,
    rule: Option<&str>,
    hint: Option<&str>,
    id: Uuid,
) -> Response<ResponseBody> {
    let status = status(error);
    let what = match error.fault() {
        Fault::Internal => "internal failure".to_owned(),
        _ => error.to_string(),
    };
    let rule = rule.map(|rule| format!("rule: {rule}\n")).unwrap_or_default();
    let hint = hint.map(|hint| format!("weir: {hint}\n")).unwrap_or_default();
    let text = format!("weir: {what}\n{hint}{rule}request: {id}\n");
    let mut response = Response::new(ResponseBody::Own(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert("x-weir-request", id);
    }
    response
}
