//! The child processes of `weir up`.
//!
//! - input: what to start
//! - output: a child that is ready
//! - bound: [`START_TIME`] to become ready, [`STOP_TIME`] to end
//! - on failure: the child is killed

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::{CliError, Context, attach};
use crate::config::Config;

const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What a child process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Store,
    Guard,
    Gateway,
    /// A gateway that takes over from one that runs.
    Successor,
    DockerProxy,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Guard => "guard",
            Self::Gateway | Self::Successor => "gateway",
            Self::DockerProxy => "docker-proxy",
        }
    }
}

/// One child process.
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) child: Child,
    /// Before it is started again.
    pub(super) pause: Duration,
}

/// Starts children.
pub(super) struct Parts {
    /// By its path: an upgrade puts another binary there.
    weir: PathBuf,
    config_path: Option<PathBuf>,
    store: PathBuf,
    admin: PathBuf,
    guard: PathBuf,
    docker: PathBuf,
}

impl Parts {
    pub(super) fn new(context: &Context, config: &Config) -> Result<Self, CliError> {
        Ok(Self {
            weir: std::env::current_exe()?,
            config_path: context.config_path().map(PathBuf::from),
            store: config.store.socket.clone(),
            admin: config.admin.socket.clone(),
            guard: config.guard_socket(),
            docker: config.docker.listen.clone(),
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.weir);
        command.arg(name).stdin(Stdio::null()).kill_on_drop(true);
        // What manages `weir up` is not to hear from its parts.
        for key in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(key);
        }
        if let Some(path) = &self.config_path {
            command.arg("--config").arg(path);
        }
        command
    }

    /// Runs `weir attach`; answers whether a capture was attached already.
    pub(super) async fn attach(&self) -> Result<bool, CliError> {
        let child = self.command("attach").stdout(Stdio::piped()).spawn()?;
        let ended = timeout(START_TIME, child.wait_with_output()).await;
        let ended = ended.map_err(|_late| CliError::Failed("weir attach hangs".into()))??;
        if !ended.status.success() {
            // It has said why.
            return Err(CliError::Failed(format!("weir attach failed: {}", ended.status)));
        }
        Ok(ended.stdout.starts_with(attach::REPLACED.as_bytes()))
    }

    /// Starts a part and waits until it is ready.
    pub(super) async fn start(&self, kind: Kind) -> Result<Part, CliError> {
        let name = kind.name();
        let socket = match kind {
            Kind::Store => &self.store,
            Kind::Guard => &self.guard,
            Kind::Gateway | Kind::Successor => &self.admin,
            Kind::DockerProxy => &self.docker,
        };
        // Its answer would pass for our child's, and at the end we would detach what is not ours.
        if kind != Kind::Successor && UnixStream::connect(socket).await.is_ok() {
            let text = format!("weir {name} is running already: {} answers", socket.display());
            return Err(CliError::Failed(text));
        }
        let mut command = self.command(match kind {
            Kind::Gateway | Kind::Successor => "launch",
            Kind::Store | Kind::Guard | Kind::DockerProxy => name,
        });
        command.arg("--with-parent");
        if kind == Kind::Successor {
            command.arg("--takeover");
        }
        if !matches!(kind, Kind::Store | Kind::DockerProxy) {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn()?;
        let ready = timeout(START_TIME, async {
            match child.stdout.take() {
                Some(stdout) => said_ready(stdout).await,
                None => answers(socket, &mut child).await,
            }
        });
        if let Ok(ready) = ready.await {
            if ready {
                return Ok(Part { kind, child, pause: FIRST_PAUSE });
            }
            let status = child.wait().await?;
            return Err(CliError::Failed(format!("weir {name} ended at once: {status}")));
        }
        drop(child.kill().await);
        Err(CliError::Failed(format!("weir {name} did not become ready in time")))
    }
}

/// Waits for the line of a part that is ready; false when there is none.
async fn said_ready(stdout: tokio::process::ChildStdout) -> bool {
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line).await;
    read.is_ok() && line == "ready\n"
}

/// Waits until a part's socket answers; false when it ends before.
async fn answers(socket: &std::path::Path, child: &mut Child) -> bool {
    let patience = Instant::now() + START_TIME;
    while Instant::now() < patience && matches!(child.try_wait(), Ok(None)) {
        if UnixStream::connect(socket).await.is_ok() {
            return true;
        }
        sleep(POLL).await;
    }
    false
}

/// Asks a child to end, and waits for it.
pub(super) async fn stop(name: &str, child: &mut Child) {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    let pid = nix::unistd::Pid::from_raw(id);
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM) {
        tracing::warn!(part = name, %error, "asking a part to stop");
    }
    if timeout(STOP_TIME, child.wait()).await.is_err() {
        tracing::error!(part = name, "part did not stop in time and is killed");
        drop(child.kill().await);
    }
}
