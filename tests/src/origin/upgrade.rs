//! Connections that leave HTTP: `Upgrade: echo` and an echoing WebSocket.
//!
//! - input: an upgrade request
//! - output: 101, then every byte or message back
//! - bound: WebSocket messages of one frame, at most 1 MiB
//! - on failure: the connection closes

use std::io;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client::{Body, empty};

const MAX_MESSAGE: u64 = 1 << 20;
/// RFC 6455 section 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Switches to `echo`: every byte comes back until the client shuts down its side.
pub(super) fn echo(request: Request<Incoming>) -> Result<Response<Body>, StatusCode> {
    let upgrading = switch(&request, "echo")?;
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
            drop(writer.shutdown().await);
        }
    });
    Ok(upgrading)
}

/// Switches to a WebSocket that echoes text, binary and ping frames.
pub(super) fn websocket(request: Request<Incoming>) -> Result<Response<Body>, StatusCode> {
    let key = request.headers().get("sec-websocket-key").ok_or(StatusCode::BAD_REQUEST)?;
    let key = key.to_str().or(Err(StatusCode::BAD_REQUEST))?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WEBSOCKET_GUID}").as_bytes());
    let accept = HeaderValue::from_str(&STANDARD.encode(hash)).or(Err(StatusCode::BAD_REQUEST))?;
    let mut upgrading = switch(&request, "websocket")?;
    upgrading.headers_mut().insert("sec-websocket-accept", accept);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        drop(echo_frames(TokioIo::new(upgraded)).await);
    });
    Ok(upgrading)
}

fn switch<B>(request: &Request<B>, protocol: &'static str) -> Result<Response<Body>, StatusCode> {
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(protocol)) {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}

async fn echo_frames<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 || length > MAX_MESSAGE {
            return Err(io::Error::other("client frame without mask, or too long"));
        }
        let mask = stream.read_u32().await?.to_be_bytes();
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        // A ping (9) is answered with a pong (10), everything else with itself.
        let reply = if first & 0x0f == 9 { 0x8a } else { first };
        stream.write_all(&frame(reply, &payload)).await?;
        stream.flush().await?;
        if first & 0x0f == 8 {
            return stream.shutdown().await;
        }
    }
}

/// One frame from the server: not masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => out.push(length),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}
