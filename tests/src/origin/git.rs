//! Git over HTTP: `git http-backend` as a CGI program.
//!
//! - input: requests below `/git/`, with chunked or gzip bodies as git sends them
//! - output: what the program prints, streamed
//! - bound: CGI header of 64 KiB; bodies are copied piece by piece
//! - on failure: 500 with nothing of the program's error

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use super::routes::plain;
use crate::client::Body;

const MAX_HEAD: usize = 64 * 1024;

/// Makes an empty bare repository `ROOT/NAME` that accepts pushes over HTTP.
///
/// # Errors
/// git is missing or fails.
pub fn create_repository(root: &Path, name: &str) -> Result<()> {
    let path = root.join(name);
    let init = ["init", "--quiet", "--bare", "--initial-branch=main"];
    let config = ["config", "http.receivepack", "true"];
    for (directory, arguments) in [(root, &init[..]), (path.as_path(), &config[..])] {
        let mut command = std::process::Command::new("git");
        command.current_dir(directory).args(arguments);
        if arguments[0] == "init" {
            command.arg(&path);
        }
        let status = command.status().context("run git")?;
        if !status.success() {
            bail!("git {} in {} ended with {status}", arguments[0], directory.display());
        }
    }
    Ok(())
}

pub(super) async fn serve(
    root: &Path,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    match backend(root, peer, request).await {
        Ok(response) => response,
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend failed\n"),
    }
}

fn command(root: &Path, peer: SocketAddr, request: &Request<Incoming>) -> Command {
    let uri = request.uri();
    let path = uri.path().strip_prefix("/git").unwrap_or(uri.path());
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", path)
        .env("QUERY_STRING", uri.query().unwrap_or(""))
        .env("REMOTE_ADDR", peer.ip().to_string())
        .env("GATEWAY_INTERFACE", "CGI/1.1");
    let fields = [
        ("content-type", "CONTENT_TYPE"),
        ("content-length", "CONTENT_LENGTH"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ];
    for (field, variable) in fields {
        if let Some(value) = request.headers().get(field).and_then(|value| value.to_str().ok()) {
            command.env(variable, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn backend(
    root: &Path,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let mut child = command(root, peer, &request).spawn().context("start git http-backend")?;
    let mut stdin = child.stdin.take().context("take the program's input")?;
    let mut stdout = child.stdout.take().context("take the program's output")?;
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            // The program may stop reading when it has what it needs.
            if stdin.write_all(&data).await.is_err() {
                break;
            }
        }
    });
    let (mut response, rest) = head(&mut stdout).await?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(copy(child, stdout, rest, sender));
    *response.body_mut() = StreamBody::new(Receiver(receiver)).boxed();
    Ok(response)
}

/// Reads the CGI header; returns the response head and the first bytes of the body.
async fn head(stdout: &mut ChildStdout) -> Result<(Response<Body>, Bytes)> {
    let mut buffer = BytesMut::new();
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > MAX_HEAD || stdout.read_buf(&mut buffer).await? == 0 {
            bail!("git http-backend printed no header");
        }
    };
    let text = buffer.split_to(end + 4);
    let mut response = Response::new(crate::client::empty());
    for line in std::str::from_utf8(&text)?.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or("500");
            *response.status_mut() = StatusCode::from_bytes(code.as_bytes())?;
        } else {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            response.headers_mut().append(name, HeaderValue::from_str(value)?);
        }
    }
    Ok((response, buffer.freeze()))
}

type Piece = io::Result<Frame<Bytes>>;

async fn copy(mut child: Child, mut stdout: ChildStdout, rest: Bytes, to: mpsc::Sender<Piece>) {
    let mut next = rest;
    loop {
        if !next.is_empty() && to.send(Ok(Frame::data(next))).await.is_err() {
            return;
        }
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => next = buffer.freeze(),
            Err(error) => return drop(to.send(Err(error)).await),
        }
    }
    if !child.wait().await.is_ok_and(|status| status.success()) {
        drop(to.send(Err(io::Error::other("git http-backend failed"))).await);
    }
}

struct Receiver(mpsc::Receiver<Piece>);

impl futures_core::Stream for Receiver {
    type Item = Piece;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        self.0.poll_recv(context)
    }
}
