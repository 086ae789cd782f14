//! dockerd's side of the proxy: one connection for each request.
//!
//! - input: requests
//! - output: responses whose bodies stream
//! - bound: [`super::ASK_TIME`] and [`super::MAX_BODY_BYTES`] for what the proxy itself asks
//! - on failure: [`DockerError::Upstream`]

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::caller::{self, Caller, Job};
use super::{ASK_TIME, DockerError, MAX_BODY_BYTES, Site, refused};

/// A caller's own body, or one that was read and written again.
pub type Passed = Either<Incoming, Full<Bytes>>;

/// Connects to dockerd.
///
/// # Errors
/// [`DockerError::Upstream`]
pub async fn connect(site: &Site) -> Result<UnixStream, DockerError> {
    let path = &site.upstream;
    let failed = |what: String| DockerError::Upstream(format!("{}: {what}", path.display()));
    let connected = timeout(ASK_TIME, UnixStream::connect(path)).await;
    connected
        .map_err(|_elapsed| failed("does not accept".into()))?
        .map_err(|error| failed(error.to_string()))
}

/// Sends one request. Answers as soon as the head of the response is there, which may take as long as
/// a container runs.
///
/// # Errors
/// [`DockerError::Upstream`]
pub async fn send(
    site: &Site,
    request: Request<Passed>,
) -> Result<Response<Incoming>, DockerError> {
    let failed = |error: hyper::Error| DockerError::Upstream(error.to_string());
    let stream = TokioIo::new(connect(site).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
    // It ends with the response's body or with the tunnel; an error shows there, too.
    drop(tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to dockerd");
        }
    }));
    sender.send_request(request).await.map_err(failed)
}

/// Reads a body of JSON.
///
/// # Errors
/// When it is too large, too slow, or no JSON.
pub async fn json<B>(body: B) -> Result<Value, DockerError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let malformed = |what: String| DockerError::Malformed(what);
    let read = timeout(ASK_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    let read = read.map_err(|_elapsed| malformed("the body does not arrive".into()))?;
    let data = read.map_err(|error| {
        let large = error.downcast_ref::<LengthLimitError>().is_some();
        malformed(if large { "the body is too large".into() } else { error.to_string() })
    })?;
    serde_json::from_slice(&data.to_bytes()).map_err(|error| malformed(error.to_string()))
}

/// `GET` of something of dockerd's; `None` when it has no such thing.
async fn ask(site: &Site, path: &str) -> Result<Option<Value>, DockerError> {
    let request = Request::get(path).header(http::header::HOST, "docker");
    let request = request.body(Either::Right(Full::default()));
    let request = request.map_err(|error| DockerError::Malformed(error.to_string()))?;
    let response = timeout(ASK_TIME, send(site, request)).await;
    let response =
        response.map_err(|_elapsed| DockerError::Upstream("does not answer".into()))??;
    match response.status() {
        StatusCode::OK => json(response.into_body()).await.map(Some),
        StatusCode::NOT_FOUND => Ok(None),
        other => Err(DockerError::Upstream(format!("{path}: {other}"))),
    }
}

/// The full id of a container that belongs to a job: one whose cgroup the proxy has put below the
/// job's. Labels are not asked: an image can set them.
///
/// # Errors
/// [`DockerError::Refused`] for any other container, whether it exists or not.
pub async fn own_container(site: &Site, job: &Job, name: &str) -> Result<String, DockerError> {
    // A name becomes a part of a path.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let not_own = || refused(format!("container {name:?} is not one of job {:?}", job.name));
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(not_own());
    }
    let found = ask(site, &format!("/containers/{name}/json")).await?.ok_or_else(not_own)?;
    let text = |pointer| found.pointer(pointer).and_then(Value::as_str);
    match (text("/HostConfig/CgroupParent"), text("/Id")) {
        (Some(parent), Some(id)) if parent == job.parent => Ok(id.to_owned()),
        _ => Err(not_own()),
    }
}

/// Checks that an exec instance is one in a container of a job.
///
/// # Errors
/// [`DockerError::Refused`]
pub async fn own_exec(site: &Site, job: &Job, id: &str) -> Result<(), DockerError> {
    let not_own = || refused(format!("exec {id:?} is not one of job {:?}", job.name));
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(not_own());
    }
    let found = ask(site, &format!("/exec/{id}/json")).await?.ok_or_else(not_own)?;
    let container = found.get("ContainerID").and_then(Value::as_str).ok_or_else(not_own)?;
    own_container(site, job, container).await.map(drop)
}

/// Checks that dockerd itself is captured, for requests that make it connect.
///
/// # Errors
/// [`DockerError::Refused`] when it is not, or when nobody can tell: behind a socket of systemd.
pub async fn captured_dockerd(site: &Site) -> Result<(), DockerError> {
    let stream = connect(site).await?;
    match caller::of(&stream, &site.captured) {
        Ok(Caller { job: Some(_), .. }) => Ok(()),
        Ok(Caller { pid, job: None }) => Err(refused(format!(
            "dockerd would connect, and process {pid}, which made its socket, is not captured"
        ))),
        Err(error) => Err(refused(format!("dockerd would connect, and {error}"))),
    }
}
