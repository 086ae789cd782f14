//! `weir docker-proxy`: the socket that captured jobs use instead of Docker's, in the foreground.
//!
//! - input: `[docker]`, `[capture]`
//! - output: nothing; logs go to standard error
//! - bound: see `docker`
//! - on failure: an error and exit code 1; jobs have no Docker then

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Context};
use crate::config::Config;
use crate::docker::{Site, proxy};

/// Arguments of `weir docker-proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when the parent process ends (`weir up` starts it so).
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// When the socket cannot be made.
pub async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if args.with_parent {
        super::die_with_parent()?;
    }
    let config = context.config()?;
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = listen(&config.docker.listen, config.docker.group.as_deref())?;
    tracing::info!(path = %config.docker.listen.display(), "docker proxy is up");
    let tasks = tokio::task::LocalSet::new();
    let served = tasks.run_until(proxy::serve(listener, site(&config)));
    tokio::select! {
        never = served => match never {},
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    Ok(std::fs::remove_file(&config.docker.listen)?)
}

fn site(config: &Config) -> Site {
    // Everything that weir itself has on this host.
    let mut protect = config.docker.protect.clone();
    protect.extend([
        config.tls.ca_dir.clone(),
        config.spool.dir.clone(),
        config.store.data_dir.clone(),
        config.store.socket.clone(),
        config.admin.socket.clone(),
        config.capture.pin_dir.clone(),
    ]);
    Site {
        listen: config.docker.listen.clone(),
        upstream: config.docker.upstream.clone(),
        captured: config.capture.cgroup.clone(),
        protect,
    }
}

/// A socket file that nobody listens on any more is replaced; a live one is an error.
fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, CliError> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("{} is in use: is another proxy running?", path.display());
            return Err(CliError::Failed(text));
        }
        std::fs::remove_file(path)?;
    }
    let group = match group {
        None => None,
        Some(name) => {
            let found = nix::unistd::Group::from_name(name).ok().flatten();
            let found = found.ok_or_else(|| CliError::Failed(format!("no group {name:?}")))?;
            Some(found.gid.as_raw())
        }
    };
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    std::os::unix::fs::chown(path, None, group)?;
    Ok(listener)
}
