//! `weir guard`: the small privileged process beside an unprivileged gateway.
//!
//! - input: the gateway's questions (`identify::guard`), the pins of `weir attach`
//! - output: answers; repairs of the capture, each logged and noted for the gateway
//! - bound: see `identify::guard::server`; see `capture::repair::watch`
//! - on failure: the gateway goes on without names; nothing is repaired

use std::io::Write;
use std::thread::JoinHandle;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::{CliError, Context, attach};
use crate::capture::loader::AttachSpec;
use crate::capture::repair::{self, Report};
use crate::identify::guard::server;
use crate::packet;

const BACKLOG: i32 = 64;

/// Arguments of `weir guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when the parent process ends, and print a line when questions are answered
    /// (`weir up` starts it so).
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// When its socket cannot be made.
pub async fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    if args.with_parent {
        super::die_with_parent()?;
    }
    let config = context.config()?;
    let account = Account::of(&config)?;
    let path = config.guard_socket();
    let listener = packet::listen(&path, BACKLOG)
        .map_err(|e| CliError::Failed(format!("listening on {}: {e}", path.display())))?;
    account.own_socket(&path)?;
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    if args.with_parent {
        writeln!(out, "ready")?;
        out.flush()?;
    }
    let repairs = Repairs::start(attach::spec(&config)?)?;
    let serving = server::serve(
        listener,
        account.uid.as_raw(),
        config.capture.pin_dir,
        config.capture.cgroup,
    );
    let ended = LocalSet::new()
        .run_until(async {
            tokio::select! {
                served = serving => served,
                _ = int.recv() => Ok(()),
                _ = term.recv() => Ok(()),
            }
        })
        .await;
    // Whoever detaches now finds nobody who attaches again.
    repairs.stop();
    std::fs::remove_file(&path)?;
    Ok(ended?)
}

/// Looks after the capture, on a thread of its own.
struct Repairs {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Repairs {
    fn start(spec: AttachSpec) -> Result<Self, CliError> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let body = move || repair::watch(&spec, &stopped, &mut tell);
        let thread = std::thread::Builder::new().name("weir-repair".into()).spawn(body)?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("looking after the capture panicked");
        }
    }
}

fn tell(report: Report<'_>) {
    match report {
        Report::Done(done) => {
            for one in done {
                let (finding, result) = (&one.finding, &one.result);
                tracing::warn!(%finding, ?result, "capture was not as it was attached");
            }
        }
        Report::Failed(error) => tracing::error!(%error, "capture cannot be looked after"),
    }
}
