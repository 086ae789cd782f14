//! `weir login` and `weir logout`: the person's side of a login.
//!
//! - input: arguments; what a browser brings to a loopback port
//! - output: a URL to open, then who is logged in
//! - bound: one browser's answer of [`MAX_HEAD_BYTES`] at a time, [`MAX_CALLS`] in all, each in
//!   [`CALL`]; `limits::LOGIN_PATIENCE`
//! - on failure: one line and exit code 1
//!
//! No token comes here: the gateway asks the provider, and keeps what it gives.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use super::{CliError, Context};
use crate::identify::wire::{self, Order, Reply};
use crate::limits::{LOGIN_PATIENCE, MAX_DEVICE_LIFETIME};
use crate::query::terminal;

const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_CALLS: usize = 64;
const CALL: Duration = Duration::from_secs(5);

/// Arguments of `weir login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the provider in the configuration, if there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Show a code to enter in a browser anywhere. Default without a graphical session
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Use a browser on this host. Default in a graphical session
    #[arg(long)]
    browser: bool,
}

/// Logs the caller's session in.
///
/// # Errors
/// When the gateway or the provider refuses, or nobody logs in.
pub async fn login(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let path = context.config()?.identity_socket();
    let is_graphical = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let reply = if args.device || !(args.browser || is_graphical) {
        device(&path, args, out).await?
    } else {
        let flow = browser(&path, args, out);
        let late = |_late| CliError::Failed("nobody logged in in time".to_owned());
        timeout(LOGIN_PATIENCE, flow).await.map_err(late)??
    };
    match said(reply)? {
        Reply::People { people } => {
            for person in people {
                let groups = person.groups.join(" ");
                let (name, groups) = (terminal::line(&person.display), terminal::line(&groups));
                writeln!(out, "logged in as {name} (groups: {groups})")?;
            }
            Ok(())
        }
        _ => Err(unexpected()),
    }
}

/// Logs the caller's session out.
///
/// # Errors
/// When the gateway does not answer, or nobody is logged in.
pub async fn logout(context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let path = context.config()?.identity_socket();
    said(ask(&path, &Order::Logout).await?)?;
    Ok(writeln!(out, "logged out")?)
}

async fn device(path: &Path, args: &Args, out: &mut dyn Write) -> Result<Reply, CliError> {
    let failed = |error| asking(path, &error);
    let mut stream = UnixStream::connect(path).await.map_err(failed)?;
    let order = Order::LoginDevice { issuer: args.issuer.clone() };
    wire::send(&mut stream, &order).await.map_err(failed)?;
    let first = timeout(wire::PATIENCE, wire::receive(&mut stream, wire::MAX_REPLY_BYTES)).await;
    let first = first.map_err(|late| asking(path, &late.into()))?.map_err(failed)?;
    let Reply::Device { url, user_code, text } = said(first)? else { return Err(unexpected()) };
    for line in text.lines() {
        writeln!(out, "{}", terminal::line(line))?;
    }
    let (url, code) = (terminal::line(&url), terminal::line(&user_code));
    writeln!(out, "open {url}\nand enter {code}")?;
    out.flush()?;
    let last = wire::receive(&mut stream, wire::MAX_REPLY_BYTES);
    let patience = MAX_DEVICE_LIFETIME + wire::PATIENCE;
    let last = timeout(patience, last).await.map_err(|late| asking(path, &late.into()))?;
    last.map_err(failed)
}

async fn browser(path: &Path, args: &Args, out: &mut dyn Write) -> Result<Reply, CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let redirect = format!("http://127.0.0.1:{}/cb", listener.local_addr()?.port());
    let order = Order::LoginCode { issuer: args.issuer.clone(), redirect };
    let Reply::Browse { id, url } = said(ask(path, &order).await?)? else {
        return Err(unexpected());
    };
    writeln!(out, "open {}", terminal::line(&url))?;
    out.flush()?;
    open(&url);
    // Anybody on this host can call here: what is not the browser's answer does not end the wait.
    for _ in 0..MAX_CALLS {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Ok(Some(answer))) = timeout(CALL, call(&mut stream)).await else { continue };
        let reply = ask(path, &Order::LoginAnswer { id, answer }).await?;
        let (text, is_final) = match &reply {
            Reply::Refused { outcome, .. } if outcome == "login_state" => ("not this login", false),
            Reply::Refused { .. } => ("weir: not logged in, see the terminal", true),
            _ => ("weir: logged in, this page can be closed", true),
        };
        // The browser may be gone: what counts is the gateway's reply.
        drop(timeout(CALL, answer_page(&mut stream, text)).await);
        if is_final {
            return Ok(reply);
        }
    }
    Err(CliError::Failed("too many calls that are not the browser's answer".to_owned()))
}

/// The query of `GET /cb?…`; anything else is told that there is nothing.
async fn call(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    let query = target.and_then(|target| target.strip_prefix("/cb?"));
    if query.is_none() {
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await?;
    }
    Ok(query.map(str::to_owned))
}

async fn answer_page(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    // The code is in the URL: nothing may see it by a Referer or a cache.
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}

/// Opens a browser if there is a way; the URL was printed in any case.
fn open(url: &str) {
    let mut command = tokio::process::Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not waited for: it ends by itself, and there may be none.
    drop(command.spawn());
}

async fn ask(path: &Path, order: &Order) -> Result<Reply, CliError> {
    wire::ask(path, order).await.map_err(|error| asking(path, &error))
}

fn said(reply: Reply) -> Result<Reply, CliError> {
    match reply {
        Reply::Refused { outcome, message } => {
            Err(CliError::Failed(format!("{} ({outcome})", terminal::line(&message))))
        }
        other => Ok(other),
    }
}

fn asking(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("asking the gateway at {}: {error}", path.display()))
}

fn unexpected() -> CliError {
    CliError::Failed("the gateway answers something else: another version runs?".to_owned())
}
