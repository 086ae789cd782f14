//! `weir up`: attach, store, gateway and, where enabled, the docker proxy as one process tree in the
//! foreground.
//!
//! - input: the configuration; SIGHUP to take over from a running gateway
//! - output: a status line per part, then `weir is up`
//! - bound: a part that ends is started again after a growing pause, up to 30 s
//! - on failure: everything that was started is stopped and detached
//!
//! For trying out and for hosts without systemd. While the gateway is away, captured connections
//! are refused by the kernel.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::{CliError, Context, attach};
use crate::config::Config;

mod part;

use part::{Kind, Part, Parts};

/// How often ended parts are looked for.
const LOOK: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Arguments of `weir up`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// When a part cannot be started.
pub async fn run(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    let parts = Parts::new(context, &config)?;
    // In a process of its own: what loading the programs takes is given back when it ends.
    let adopted = parts.attach().await?;
    let how = if adopted { "taken over at" } else { "attached to" };
    writeln!(out, "capture   {how} {}", config.capture.cgroup.display())?;
    if config.capture.danger_fail_open {
        writeln!(out, "{}", attach::FAILS_OPEN)?;
    }
    let mut started = false;
    let served = serve(&parts, &config, out, &mut started).await;
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
    parts: &Parts,
    config: &Config,
    out: &mut dyn Write,
    started: &mut bool,
) -> Result<(), CliError> {
    let mut tree = Tree::default();
    let result = async {
        let mut asked = Asked::new()?;
        if config.store.url.is_none() {
            tree.running.push(parts.start(Kind::Store).await?);
            writeln!(out, "store     embedded, {}", config.store.data_dir.display())?;
        } else {
            writeln!(out, "store     {}", config.store.url.as_deref().unwrap_or_default())?;
        }
        tree.running.push(parts.start(Kind::Guard).await?);
        tree.running.push(parts.start(Kind::Gateway).await?);
        *started = true;
        if config.docker.enabled {
            tree.running.push(parts.start(Kind::DockerProxy).await?);
            writeln!(out, "docker    {}", config.docker.listen.display())?;
        }
        let port = config.gateway.port;
        writeln!(out, "gateway   127.0.0.1:{port} and [::1]:{port}")?;
        writeln!(out, "try       weir run -- curl https://example.com/")?;
        writeln!(out, "weir is up")?;
        out.flush()?;
        watch(&mut tree, &mut asked, parts, out).await
    }
    .await;
    tree.finish().await;
    for socket in sockets(config) {
        // The gateway's, whose directory it may not be able to write to.
        drop(std::fs::remove_file(socket));
    }
    result
}

fn sockets(config: &Config) -> [PathBuf; 4] {
    let admin = config.admin.socket.clone();
    [admin, config.handover_socket(), config.guard_socket(), config.orders_socket()]
}

/// What runs.
#[derive(Default)]
struct Tree {
    running: Vec<Part>,
    /// Gateways that end their flows after a newer one took over.
    draining: Vec<Child>,
}

impl Tree {
    /// The gateways first, so that their last records find the store.
    async fn finish(&mut self) {
        for child in &mut self.draining {
            part::stop("older gateway", child).await;
        }
        for part in self.running.iter_mut().rev() {
            part::stop(part.kind.name(), &mut part.child).await;
        }
    }

    /// Forgets the older gateways that have ended.
    fn reap(&mut self) {
        self.draining.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.success() => false,
            ended => {
                tracing::warn!(?ended, "an older gateway did not end in order");
                false
            }
        });
    }
}

/// SIGINT and SIGTERM, and SIGHUP.
struct Asked {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Asked {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }

    /// True to stop, false to take over.
    async fn any(&mut self) -> bool {
        tokio::select! {
            _ = self.int.recv() => true,
            _ = self.term.recv() => true,
            _ = self.hup.recv() => false,
        }
    }
}

/// Starts parts again when they end, and newer gateways when asked to, until asked to stop.
async fn watch(
    tree: &mut Tree,
    asked: &mut Asked,
    parts: &Parts,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    loop {
        tokio::select! {
            stop = asked.any() => {
                if stop {
                    return Ok(());
                }
                tokio::select! {
                    renewed = renew(tree, parts) => match renewed {
                        Ok(()) => writeln!(out, "gateway   taken over by a newer one")?,
                        Err(error) => {
                            tracing::error!(%error, "the gateway goes on as it was");
                            writeln!(out, "gateway   not taken over: {error}")?;
                        }
                    },
                    () = asked.stop() => return Ok(()),
                }
                out.flush()?;
            }
            () = sleep(LOOK) => {}
        }
        tree.reap();
        for part in &mut tree.running {
            let Some(status) = part.child.try_wait()? else { continue };
            tracing::error!(part = part.kind.name(), %status, "part ended and is started again");
            tokio::select! {
                () = asked.stop() => return Ok(()),
                () = sleep(part.pause) => {}
            }
            let pause = (part.pause * 2).min(MAX_PAUSE);
            match parts.start(part.kind).await {
                Ok(again) => *part = Part { pause, ..again },
                Err(error) => {
                    tracing::error!(%error, "not started");
                    part.pause = pause;
                }
            }
        }
    }
}

/// Replaces the programs and the gateway by those of the binary that is installed now. Until the
/// newer gateway accepts, the older one does.
async fn renew(tree: &mut Tree, parts: &Parts) -> Result<(), CliError> {
    let mut guard = tree.running.iter_mut().find(|part| part.kind == Kind::Guard);
    if let Some(guard) = &mut guard {
        // It would put everything back as its own configuration wants it.
        part::stop("guard", &mut guard.child).await;
    }
    let attached = parts.attach().await;
    if let Some(guard) = guard {
        *guard = parts.start(Kind::Guard).await?;
    }
    attached?;
    let newer = parts.start(Kind::Successor).await?;
    for part in &mut tree.running {
        if part.kind == Kind::Gateway {
            let older = std::mem::replace(part, Part { kind: Kind::Gateway, ..newer });
            tree.draining.push(older.child);
            break;
        }
    }
    Ok(())
}
