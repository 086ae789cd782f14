//! `weir up`: attach, store and gateway as one foreground process tree.
//!
//! - input: the configuration
//! - output: a status line per part, then `weir is up`
//! - bound: a part that ends is started again after a growing pause, up to 30 s
//! - on failure: everything that was started is stopped and detached
//!
//! For trying out and for hosts without systemd. While the gateway is away, captured connections
//! are refused by the kernel.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::{CliError, Context, attach};
use crate::config::Config;

const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Arguments of `weir up`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// One child process: `weir store` or `weir gateway`.
struct Part {
    name: &'static str,
    child: Child,
    pause: Duration,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// When a part cannot be started.
pub async fn run(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    let (captured, adopted) = attach::attach(&config)?;
    let how = if adopted { "taken over at" } else { "attached to" };
    writeln!(out, "capture   {how} {}", captured.display())?;
    let mut started = false;
    let served = serve(context, &config, out, &mut started).await;
    if adopted && !started {
        // Another `weir up` may be using these hooks: they are not ours to remove.
        return served;
    }
    let detached = crate::capture::loader::detach(&config.capture.pin_dir)?;
    for left in &detached.cgroups_left {
        writeln!(out, "capture   {} still has processes and is left", left.display())?;
    }
    writeln!(out, "capture   detached")?;
    served
}

async fn serve(
    context: &Context,
    config: &Config,
    out: &mut dyn Write,
    started: &mut bool,
) -> Result<(), CliError> {
    let mut parts = Vec::new();
    let result = async {
        let mut stop = Stop::new()?;
        if config.store.url.is_none() {
            parts.push(start("store", context, &config.store.socket).await?);
            writeln!(out, "store     embedded, {}", config.store.data_dir.display())?;
        } else {
            writeln!(out, "store     {}", config.store.url.as_deref().unwrap_or_default())?;
        }
        parts.push(start("gateway", context, &config.admin.socket).await?);
        *started = true;
        let port = config.gateway.port;
        writeln!(out, "gateway   127.0.0.1:{port} and [::1]:{port}")?;
        writeln!(out, "try       weir run -- curl https://example.com/")?;
        writeln!(out, "weir is up")?;
        out.flush()?;
        watch(&mut parts, &mut stop, context, config).await
    }
    .await;
    // The gateway first, so that its last records find the store.
    for part in parts.iter_mut().rev() {
        finish(part).await;
    }
    result
}

/// SIGINT and SIGTERM.
struct Stop {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, CliError> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Starts parts again when they end, until asked to stop.
async fn watch(
    parts: &mut [Part],
    stop: &mut Stop,
    context: &Context,
    config: &Config,
) -> Result<(), CliError> {
    loop {
        tokio::select! {
            () = stop.asked() => return Ok(()),
            () = sleep(Duration::from_millis(200)) => {}
        }
        for part in parts.iter_mut() {
            let Some(status) = part.child.try_wait()? else { continue };
            tracing::error!(part = part.name, %status, "part ended and is started again");
            tokio::select! {
                () = stop.asked() => return Ok(()),
                () = sleep(part.pause) => {}
            }
            let pause = (part.pause * 2).min(MAX_PAUSE);
            let socket =
                if part.name == "store" { &config.store.socket } else { &config.admin.socket };
            match start(part.name, context, socket).await {
                Ok(again) => *part = Part { pause, ..again },
                Err(error) => {
                    tracing::error!(%error, "not started");
                    part.pause = pause;
                }
            }
        }
    }
}

/// Starts `weir NAME` and waits until its socket answers.
async fn start(name: &'static str, context: &Context, socket: &Path) -> Result<Part, CliError> {
    // Its answer would pass for our child's, and at the end we would detach what is not ours.
    if UnixStream::connect(socket).await.is_ok() {
        let text = format!("weir {name} is running already: {} answers", socket.display());
        return Err(CliError::Failed(text));
    }
    let exe = std::env::current_exe()?;
    let mut command = Command::new(exe);
    command.arg(name).arg("--with-parent").stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = context.config_path() {
        command.arg("--config").arg(path);
    }
    let mut child = command.spawn()?;
    let deadline = Instant::now() + START_TIME;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(CliError::Failed(format!("weir {name} ended at once: {status}")));
        }
        if UnixStream::connect(socket).await.is_ok() {
            return Ok(Part { name, child, pause: Duration::from_millis(500) });
        }
        if Instant::now() > deadline {
            drop(child.kill().await);
            return Err(CliError::Failed(format!("weir {name} did not become ready in time")));
        }
        sleep(POLL).await;
    }
}

async fn finish(part: &mut Part) {
    let Some(id) = part.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    let pid = nix::unistd::Pid::from_raw(id);
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM) {
        tracing::warn!(part = part.name, %error, "asking a part to stop");
    }
    if timeout(STOP_TIME, part.child.wait()).await.is_err() {
        tracing::error!(part = part.name, "part did not stop in time and is killed");
        drop(part.child.kill().await);
    }
}
