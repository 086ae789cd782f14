//! `weir netns`: registers network namespaces beside the gateway's own.
//!
//! - input: a process or a file that has the namespace
//! - output: cookies and how they reach the gateway
//! - bound: see `capture::netns`
//! - on failure: the namespace stays refused

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{CliError, Context};
use crate::accept::inside::{self, Order};
use crate::capture::netns::{self, Way};
use crate::capture::{CaptureError, cgroup};

/// Arguments of `weir netns`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Let captured processes of a network namespace reach the gateway
    Add {
        #[command(flatten)]
        which: Which,
        /// By a bridge of `capture.bridges`, instead of a listener inside
        #[arg(long)]
        bridge: bool,
    },
    /// List the namespaces that reach the gateway
    List,
    /// Refuse a namespace again
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// A process in it; a listener inside ends with it
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// A file that stands for it, such as /run/netns/NAME
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
}

impl Which {
    fn open(&self) -> Result<File, CliError> {
        match (self.pid, &self.path) {
            (Some(pid), _) => Ok(netns::of_process(pid)?),
            (None, Some(path)) => File::open(path).map_err(|source| {
                let action = format!("opening {}", path.display());
                CaptureError::Io { action, source }.into()
            }),
            (None, None) => Err(CliError::Failed("neither a process nor a file".into())),
        }
    }

    fn process(&self) -> Result<Option<OwnedFd>, CliError> {
        let number = self.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let opened = number.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose();
        opened.map_err(|errno| CliError::Io(errno.into()))
    }
}

/// Registers, lists or removes.
///
/// # Errors
/// See [`CaptureError`].
pub fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let config = context.config()?;
    let pin_dir = &config.capture.pin_dir;
    let gateway = config.orders_socket();
    match &args.command {
        Command::Add { which, bridge: true } => {
            let cookie = netns::register_bridged(pin_dir, which.open()?.as_fd())?;
            writeln!(out, "{cookie} reaches the gateway by its bridge")?;
        }
        Command::Add { which, bridge: false } => {
            // Before the namespace: a process that ends in between may leave its number to another.
            let process = which.process()?;
            let opened = which.open()?;
            let own = cgroup::mount()?.join(&config.capture.gateway_cgroup);
            // Sockets belong to the cgroup they are made in. This process does nothing after it.
            cgroup::join(&own, None)?;
            let cookie = inside::register(pin_dir, &gateway, opened.as_fd(), process)?;
            writeln!(out, "{cookie} reaches the gateway by its loopback")?;
        }
        Command::List => {
            for one in netns::list(pin_dir)? {
                let way = match one.way {
                    Way::Loopback(port) => format!("loopback port {port}"),
                    Way::Bridge => format!("bridge, devices {:?}", one.links),
                };
                let own = if one.is_own { " (the gateway's own)" } else { "" };
                writeln!(out, "{:<10} {way}{own}", one.cookie)?;
            }
        }
        Command::Remove { which } => {
            let cookie = netns::cookie_of(which.open()?.as_fd())?;
            let was = netns::unregister(pin_dir, cookie)?;
            // The gateway may have no listener there, or not run at all.
            let order = Order { cookie, listeners: Vec::new(), process: None };
            if let Err(error) = inside::give(&gateway, &order) {
                tracing::debug!(%error, "no gateway to tell");
            }
            let said = if was { "is refused again" } else { "was not registered" };
            writeln!(out, "{cookie} {said}")?;
        }
    }
    Ok(())
}
