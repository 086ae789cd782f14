//! Connections and requests of the proxy.
//!
//! - input: a listening socket
//! - output: answers of dockerd, or refusals in its JSON shape
//! - bound: [`MAX_CONNECTIONS`]; heads within [`HEAD_TIME`]; tunnels last as long as both ends
//! - on failure: the request is refused, or its connection closed; others go on

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::caller::{self, Caller, Job};
use super::route::{self, Action};
use super::upstream::{self, Passed};
use super::{DockerError, HEAD_TIME, MAX_CONNECTIONS, Site, create, query, refused};

/// One connection of a captured caller.
struct Connection {
    site: Rc<Site>,
    pid: u32,
    job: Job,
    /// Held until the connection and its tunnel have ended.
    place: Arc<OwnedSemaphorePermit>,
}

/// Serves until the future is dropped. Runs on a `LocalSet`.
pub async fn serve(listener: UnixListener, site: Site) -> Infallible {
    let (site, places) = (Rc::new(site), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = Rc::clone(&site);
                drop(tokio::task::spawn_local(connection(stream, site, Arc::new(place))));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting");
                // Out of descriptors, most likely: some are closed in a moment.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, site: Rc<Site>, place: Arc<OwnedSemaphorePermit>) {
    match caller::of(&stream, &site.captured) {
        Ok(Caller { pid, job: Some(job) }) => {
            let of = Rc::new(Connection { site, pid, job, place });
            talk(stream, move |request| {
                let of = Rc::clone(&of);
                async move { of.answer(request).await }
            })
            .await;
        }
        Ok(Caller { job: None, .. }) => pass(stream, &site).await,
        Err(error) => {
            tracing::warn!(%error, "refused");
            talk(stream, |_| async { rejection(&error) }).await;
        }
    }
}

/// A caller that is not captured gets dockerd itself.
async fn pass(mut stream: UnixStream, site: &Site) {
    let Ok(mut to) = upstream::connect(site).await else { return };
    // Either end may break off; both are closed then.
    drop(copy_bidirectional(&mut stream, &mut to).await);
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

async fn talk<F: Future<Output = Answer>>(
    stream: UnixStream,
    answer: impl Fn(Request<Incoming>) -> F,
) {
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).half_close(true);
    let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection of a caller");
    }
}

/// As dockerd writes errors.
fn rejection(error: &DockerError) -> Answer {
    let status = match error {
        DockerError::Refused(_) => StatusCode::FORBIDDEN,
        DockerError::Malformed(_) => StatusCode::BAD_REQUEST,
        DockerError::Upstream(_) => StatusCode::BAD_GATEWAY,
    };
    let text = json!({ "message": format!("weir: {error}") }).to_string();
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

impl Connection {
    async fn answer(&self, mut request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let client = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let answered = match self.checked(request).await {
            Ok(request) => self.pass_on(request, client).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| {
            let (pid, job) = (self.pid, &self.job.name);
            tracing::warn!(%method, ?path, pid, ?job, %error, "not passed on");
            rejection(&error)
        })
    }

    async fn pass_on(
        &self,
        request: Request<Passed>,
        client: Option<OnUpgrade>,
    ) -> Result<Answer, DockerError> {
        let mut response = upstream::send(&self.site, request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client = client
                .ok_or_else(|| DockerError::Upstream("an upgrade nobody asked for".into()))?;
            let server = hyper::upgrade::on(&mut response);
            let place = Arc::clone(&self.place);
            drop(tokio::task::spawn_local(async move {
                tunnel(client, server).await;
                drop(place);
            }));
            let (head, _) = response.into_parts();
            return Ok(Response::from_parts(head, Either::Right(Full::default())));
        }
        // Framing is this connection's own.
        response.headers_mut().remove(TRANSFER_ENCODING);
        response.headers_mut().remove(CONNECTION);
        Ok(response.map(Either::Left))
    }

    /// Checks a request, and makes it the job's where it makes something.
    async fn checked(&self, request: Request<Incoming>) -> Result<Request<Passed>, DockerError> {
        let (mut head, body) = request.into_parts();
        sanitize(&mut head.headers)?;
        let path = head.uri.path().to_owned();
        let mut segments: Vec<String> =
            query::segments(&path)?.into_iter().map(str::to_owned).collect();
        let version = path.strip_prefix('/').and_then(|rest| rest.split('/').next());
        let version = version.filter(|first| segments.first().is_none_or(|own| own != first));
        let version = version.map_or(String::new(), |version| format!("/{version}"));
        let mut pairs = query::pairs(head.uri.query().unwrap_or_default())?;
        let borrowed: Vec<&str> = segments.iter().map(String::as_str).collect();
        let action = route::action(head.method.as_str(), &borrowed);
        let body = self.act(action, &mut segments, &mut pairs, body).await?;
        if let Either::Right(full) = &body {
            head.headers.remove(TRANSFER_ENCODING);
            let length = hyper::body::Body::size_hint(full).exact().unwrap_or(0);
            head.headers.insert(CONTENT_LENGTH, length.into());
        }
        if action == Action::Build {
            // A form in the body would go before the query.
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        }
        let mut target = format!("{version}/{}", segments.join("/"));
        if !pairs.is_empty() {
            target = format!("{target}?{}", query::written(&pairs));
        }
        let malformed = |error: http::uri::InvalidUri| DockerError::Malformed(error.to_string());
        head.uri = Uri::from(target.parse::<PathAndQuery>().map_err(malformed)?);
        Ok(Request::from_parts(head, body))
    }

    async fn act(
        &self,
        action: Action,
        segments: &mut [String],
        pairs: &mut Vec<(String, String)>,
        body: Incoming,
    ) -> Result<Passed, DockerError> {
        let (site, job) = (&*self.site, &self.job);
        match action {
            Action::Refuse(why) => return Err(refused(why)),
            Action::Pass => {}
            Action::Own | Action::Start | Action::Update | Action::ExecCreate => {
                if let Some(name) = segments.get_mut(1) {
                    // By its id from here on: a name could become another container's.
                    *name = upstream::own_container(site, job, name).await?;
                }
            }
            Action::Exec => {
                upstream::own_exec(site, job, segments.get(1).map_or("", String::as_str)).await?;
            }
            Action::Commit => {
                for name in query::values(pairs, "container") {
                    upstream::own_container(site, job, name).await?;
                }
            }
            Action::Network => upstream::captured_dockerd(site).await?,
            Action::ImageCreate if query::values(pairs, "fromSrc") == ["-"] => {}
            Action::ImageCreate => upstream::captured_dockerd(site).await?,
            Action::Build => self.build(pairs).await?,
            Action::Create | Action::VolumeCreate | Action::NetworkCreate => {}
        }
        let mut value = match action {
            Action::Start => return Ok(Either::Right(Full::default())),
            Action::Create
            | Action::Update
            | Action::ExecCreate
            | Action::VolumeCreate
            | Action::NetworkCreate => upstream::json(body).await?,
            _ => return Ok(Either::Left(body)),
        };
        let containers = match action {
            Action::Create => create::create(&mut value, job, self.pid, site)?,
            Action::Update => create::update(&mut value, site)?,
            Action::ExecCreate => create::exec(&mut value, site).map(|()| Vec::new())?,
            Action::VolumeCreate => create::volume(&mut value, site).map(|()| Vec::new())?,
            _ => create::network(&mut value, site).map(|()| Vec::new())?,
        };
        for name in containers {
            upstream::own_container(site, job, &name).await?;
        }
        Ok(Either::Right(Full::new(Bytes::from(value.to_string()))))
    }

    /// The steps of a build run in the job's cgroup. It may pull and fetch: dockerd connects then.
    async fn build(&self, pairs: &mut Vec<(String, String)>) -> Result<(), DockerError> {
        if query::values(pairs, "version").iter().any(|version| !matches!(*version, "" | "1")) {
            return Err(refused("BuildKit is not checked; set DOCKER_BUILDKIT=0"));
        }
        for mode in query::values(pairs, "networkmode") {
            create::build_network(mode)?;
        }
        upstream::captured_dockerd(&self.site).await?;
        pairs.retain(|(name, _)| name != "cgroupparent");
        pairs.push(("cgroupparent".into(), self.job.parent.clone()));
        Ok(())
    }
}

/// Removes what is this connection's own, and refuses a body that dockerd would read as a query.
fn sanitize(headers: &mut HeaderMap) -> Result<(), DockerError> {
    headers.remove(EXPECT);
    if !wants_upgrade(headers) {
        headers.remove(CONNECTION);
    }
    for kind in headers.get_all(CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default().trim().to_ascii_lowercase();
        if kind.starts_with("application/x-www-form-urlencoded") || kind.starts_with("multipart/") {
            return Err(refused("forms are not read"));
        }
    }
    Ok(())
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

async fn tunnel(client: OnUpgrade, server: OnUpgrade) {
    let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    // Whichever end breaks off, the container's own state tells what became of it.
    drop(copy_bidirectional(&mut client, &mut server).await);
}
