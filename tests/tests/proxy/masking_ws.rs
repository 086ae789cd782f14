//! WebSockets where secrets are replaced: frame by frame, both ways.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use weir_gateway::config::Config;
use weir_gateway::config::inspect::{KnownValue, Mode};
use weir_tests::gateway::{DST, NAME};

use crate::masking::{nothing_recorded, route, token};
use crate::wire::{PATIENCE, https_origin_with, rest, say, until};

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const FIN: u8 = 0x80;

/// A frame of a client (RFC 6455 section 5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [7, 11, 13, 17];
    let mut out = vec![first, 0x80 | 126];
    out.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// A frame of a server: its first byte and payload.
async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let read = async {
        let (first, second) = (io.read_u8().await.unwrap(), io.read_u8().await.unwrap());
        assert_eq!(second & 0x80, 0, "a server's frame is not masked");
        let length = match second {
            126 => u64::from(io.read_u16().await.unwrap()),
            127 => io.read_u64().await.unwrap(),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        io.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a frame")
}

/// A whole message, of however many frames.
async fn read_message(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    loop {
        let (first, payload) = read_frame(io).await;
        text.extend(payload);
        if first & FIN != 0 {
            return String::from_utf8(text).unwrap();
        }
    }
}

async fn open(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let ask = format!(
        "GET /ws HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    say(io, &ask).await;
    until(io, "\r\n\r\n").await
}

#[tokio::test]
async fn messages_are_masked_on_their_way_up() {
    let (gateway, origin) = https_origin_with(&["http/1.1"], |config: &mut Config| {
        let mut route = route(Mode::Redact, Mode::Detect);
        route.restore = false;
        config.inspect.routes.insert(0, route);
    })
    .await;
    let mut client = gateway.tls(DST, NAME, gateway.trusting(&["http/1.1"])).await.unwrap();
    let answer = open(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(!origin.seen().heads()[0].headers.contains_key("sec-websocket-extensions"));
    let secret = token();
    let (first, second) = secret.split_at(11);
    client.write_all(&frame(TEXT, format!("my {first}").as_bytes())).await.unwrap();
    let tail = format!("{second} end");
    client.write_all(&frame(FIN | CONTINUATION, tail.as_bytes())).await.unwrap();
    // the origin says what it got
    let got = read_message(&mut client).await;
    assert!(got.starts_with("my ") && got.ends_with(" end"), "{got}");
    assert!(!got.contains(second) && got.contains("[masked:"), "{got}");
    client.write_all(&frame(FIN | TEXT, b"hello")).await.unwrap();
    assert_eq!(read_message(&mut client).await, "hello");
    client.write_all(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await.unwrap();
    assert_eq!(read_frame(&mut client).await.0, FIN | CLOSE);
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.is_empty());
    drop(client);
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &[&secret]);
    let row = recorded.exchange();
    assert_eq!((row.text("class"), row.text("outcome")), ("tunnel", "ok"));
}

#[tokio::test]
async fn placeholders_come_back_in_messages() {
    let (gateway, _origin) = https_origin_with(&["http/1.1"], |config: &mut Config| {
        config.inspect.routes.insert(0, route(Mode::Tokenise, Mode::Redact));
    })
    .await;
    let mut client = gateway.tls(DST, NAME, gateway.trusting(&["http/1.1"])).await.unwrap();
    open(&mut client).await;
    let text = format!("my {} end", token());
    for _ in 0..2 {
        client.write_all(&frame(FIN | TEXT, text.as_bytes())).await.unwrap();
        assert_eq!(read_message(&mut client).await, text);
    }
    drop(client);
    gateway.quiet().await;
    nothing_recorded(&gateway.shutdown().await, &[&token()]);
}

#[tokio::test]
async fn a_known_value_closes_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known");
    std::fs::write(&file, "correct horse battery staple 77").unwrap();
    let value = KnownValue { name: "the-operators".into(), file, hosts: Vec::new() };
    let (gateway, _origin) = https_origin_with(&["http/1.1"], |config: &mut Config| {
        config.inspect.known.push(value);
    })
    .await;
    let mut client = gateway.tls(DST, NAME, gateway.trusting(&["http/1.1"])).await.unwrap();
    open(&mut client).await;
    client.write_all(&frame(FIN | TEXT, b"hello")).await.unwrap();
    assert_eq!(read_message(&mut client).await, "hello");
    let text = b"a correct horse battery staple 77 b";
    client.write_all(&frame(FIN | TEXT, text)).await.unwrap();
    let last = rest(&mut client).await;
    assert!(!last.windows(7).any(|bytes| bytes == b"battery"), "{last:?}");
    drop(client);
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    nothing_recorded(&recorded, &["correct horse battery staple 77"]);
    assert_eq!(recorded.exchange().text("outcome"), "secret_refused");
}
