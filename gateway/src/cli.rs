//! The command line: one module per command.
//!
//! - input: arguments
//! - output: standard output for results, standard error for logs and errors
//! - bound: none
//! - on failure: one line that says what was attempted; exit code 1 (2 for wrong usage)

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::app::AppError;
use crate::capture::CaptureError;
use crate::config::{Config, ConfigError};
use crate::inspect::InspectError;
use crate::inspect::rules::RulesError;
use crate::query::QueryError;
use crate::sink::SinkError;
use crate::store::StoreError;
use crate::tls::TlsError;

mod account;
pub mod attach;
pub mod ca;
mod descriptors;
pub mod docker_proxy;
pub mod doctor;
pub mod gateway;
pub mod guard;
pub mod identity;
pub mod launch;
pub mod login;
pub mod netns;
pub mod oci_runtime;
pub mod query;
pub mod rules;
pub mod run;
pub mod secrets;
mod service;
pub mod sessions;
pub mod show;
pub mod store;
pub mod timeline;
pub mod trust;
pub mod up;

/// Sees what the processes of this host send to the internet, decides, and records it.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, propagate_version = true)]
pub struct Cli {
    /// Configuration file. Without one, /etc/weir/weir.toml if it exists, else the defaults.
    #[arg(long, global = true, env = "WEIR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach, run store and gateway in the foreground, detach at the end
    Up(up::Args),
    /// Run a command under capture
    Run(run::Args),
    /// Join a job's cgroup and become a command (`weir run` does it so)
    #[command(hide = true)]
    Enter(run::EnterArgs),
    /// Run the gateway in the foreground
    Gateway(gateway::Args),
    /// Open what the gateway needs, give all privilege up, and become `weir gateway`
    Launch(launch::Args),
    /// Answer the questions of an unprivileged gateway, as root
    Guard(guard::Args),
    /// Run the embedded store in the foreground
    Store(store::Args),
    /// Load, attach and pin the kernel programs
    Attach(attach::Args),
    /// Remove the kernel programs and their pins
    Detach(attach::DetachArgs),
    /// Register network namespaces beside the gateway's own
    Netns(netns::Args),
    /// Tell the gateway about the CI job that this runs in (for the hooks of CI runners)
    CiHook(identity::HookArgs),
    /// Show who this process acts for
    Whoami(identity::ShowArgs),
    /// Show who another process acts for
    Whois(identity::WhoisArgs),
    /// List the jobs and people whose identity is verified
    Identities(identity::ShowArgs),
    /// Take an identity back: cuts its connections and refuses new ones
    Revoke(identity::RevokeArgs),
    /// Log this login session in: what it sends is sent as you
    Login(login::Args),
    /// Log this login session out
    Logout,
    /// Check the configuration file
    CheckConfig,
    /// Print the CA certificate that clients must trust
    Ca(ca::Args),
    /// Ask the record in SQL
    Query(query::Args),
    /// List sessions
    Sessions(sessions::Args),
    /// Show what happened, in order
    Timeline(timeline::Args),
    /// Show where a secret was seen, by its fingerprint
    Secrets(secrets::Args),
    /// Show one exchange with its headers and bodies
    Show(show::Args),
    /// Rules that tell what secrets look like: import, list, check, test
    Rules(rules::Args),
    /// Check this host: kernel, cgroup, CA, store, clock
    Doctor(doctor::Args),
    /// Run the real OCI runtime on containers that are captured (docker, podman)
    #[command(disable_help_flag = true, disable_version_flag = true)]
    OciRuntime(oci_runtime::Args),
    /// Run the proxy before Docker's socket in the foreground
    DockerProxy(docker_proxy::Args),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    given: Option<PathBuf>,
}

const DEFAULT_CONFIG: &str = "/etc/weir/weir.toml";

impl Context {
    /// The file that is read, if any.
    pub fn config_path(&self) -> Option<&Path> {
        let default = Path::new(DEFAULT_CONFIG);
        self.given.as_deref().or_else(|| default.exists().then_some(default))
    }

    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn config(&self) -> Result<Config, ConfigError> {
        match self.config_path() {
            Some(path) => Config::load(path),
            None => Config::parse(""),
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The gateway.
    #[error(transparent)]
    App(#[from] AppError),
    /// The embedded store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// ClickHouse.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A query.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys and rules of `[inspect]`.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// Files, sockets, processes.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// Whether the reader of our output went away, which is no failure of ours.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(e) if e.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Runs a parsed command and answers its exit code.
///
/// # Errors
/// See [`CliError`].
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<u8, CliError> {
    let context = Context { given: cli.config };
    if let Command::Store(args) = &cli.command {
        // Its engine wants a process, and a runtime, of its own.
        match store::run(args, &context)? {}
    }
    if let Command::Launch(args) = &cli.command {
        // On the only thread: capabilities are each thread's own.
        match launch::run(args, &context)? {}
    }
    if let Command::OciRuntime(args) = &cli.command {
        // It becomes another program: nothing is to be running then.
        match oci_runtime::run(args, &context)? {}
    }
    if matches!(cli.command, Command::Run(_) | Command::Enter(_)) {
        run::refuse_inherited_sockets()?;
    }
    if let Command::Enter(args) = &cli.command {
        // Before there are threads and descriptors: it becomes another program.
        match run::enter(args)? {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli.command, &context, out))
}

async fn dispatch(
    command: Command,
    context: &Context,
    out: &mut dyn Write,
) -> Result<u8, CliError> {
    match command {
        Command::Up(args) => up::run(&args, context, out).await?,
        Command::Run(args) => return run::run(&args, context, out).await,
        Command::Enter(args) => match run::enter(&args)? {},
        Command::Gateway(args) => gateway::run(&args, context, out).await?,
        Command::Launch(args) => match launch::run(&args, context)? {},
        Command::Guard(args) => guard::run(&args, context, out).await?,
        Command::Store(args) => match store::run(&args, context)? {},
        Command::DockerProxy(args) => docker_proxy::run(&args, context).await?,
        Command::OciRuntime(args) => match oci_runtime::run(&args, context)? {},
        Command::Attach(args) => attach::run_attach(&args, context, out)?,
        Command::Detach(args) => attach::run_detach(&args, context, out)?,
        Command::Netns(args) => netns::run(&args, context, out)?,
        Command::CiHook(args) => return identity::hook(&args, context, out).await,
        Command::Whoami(args) => identity::whoami(&args, context, out).await?,
        Command::Whois(args) => identity::whois(&args, context, out).await?,
        Command::Identities(args) => identity::list(&args, context, out).await?,
        Command::Revoke(args) => identity::revoke(&args, context, out).await?,
        Command::Login(args) => login::login(&args, context, out).await?,
        Command::Logout => login::logout(context, out).await?,
        Command::CheckConfig => {
            context.config()?;
            writeln!(out, "configuration is valid")?;
        }
        Command::Ca(args) => ca::run(&args, context, out)?,
        Command::Query(args) => query::run(&args, &context.config()?, out).await?,
        Command::Sessions(args) => sessions::run(&args, &context.config()?, out).await?,
        Command::Timeline(args) => timeline::run(&args, &context.config()?, out).await?,
        Command::Secrets(args) => secrets::run(&args, context, out).await?,
        Command::Show(args) => show::run(&args, &context.config()?, out).await?,
        Command::Rules(args) => rules::run(&args, context, out)?,
        Command::Doctor(args) => return doctor::run(&args, context, out).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weir", out);
        }
    }
    Ok(0)
}

/// Makes the kernel end this process when its parent ends.
fn die_with_parent() -> Result<(), CliError> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
        .map_err(|e| CliError::Failed(format!("tying to the parent process: {e}")))
}
