//! `weir ci-hook`, `whoami`, `whois`, `revoke` and `identities`: talk to the gateway about who is who.
//!
//! - input: the environment of a hook; arguments
//! - output: who it is, one line each, or JSON
//! - bound: one order; `wire::PATIENCE`
//! - on failure: one line and exit code 1; a hook without `--require` succeeds all the same
//!
//! No token is ever printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use super::{CliError, Context};
use crate::identify::wire::{self, Order, Person, Reply};
use crate::limits::MAX_TOKEN_BYTES;
use crate::query::sql::new_table;
use crate::query::terminal;

/// Arguments of `weir ci-hook`.
#[derive(Debug, clap::Args)]
pub struct HookArgs {
    #[command(subcommand)]
    event: Event,
}

#[derive(Debug, clap::Subcommand)]
enum Event {
    /// Register the job that this runs in, before its first step
    JobStarted {
        #[command(flatten)]
        common: Common,
        /// Exit code 1 when the job could not be identified, so that the runner fails it
        #[arg(long)]
        require: bool,
        /// First process of the job (root only). Default: the runner's worker above this process
        #[arg(long)]
        pid: Option<u32>,
        /// File with a token, which this command reads as its caller. Default: the environment
        #[arg(long, value_name = "PATH")]
        token_file: Option<PathBuf>,
    },
    /// The job is over
    JobCompleted {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// CI system, as `identity.issuer.kind`: github, gitlab, buildkite, azure-devops, …
    #[arg(long)]
    kind: String,
    /// The gateway's socket. Default: `identity.sock` beside `admin.socket` of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Arguments of `weir whoami` and `weir identities`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `weir whois`.
#[derive(Debug, clap::Args)]
pub struct WhoisArgs {
    /// Process id
    pid: u32,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `weir revoke`.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Name, subject or number, as `weir identities` shows them
    name: String,
}

/// Variables that tokens are found with, besides those that hold one.
const VARIABLES: [&str; 12] = [
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ID",
    "GITHUB_RUN_ATTEMPT",
    "RUNNER_NAME",
    "BUILDKITE_AGENT_ENDPOINT",
    "BUILDKITE_JOB_ID",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
    "SYSTEM_OIDCREQUESTURI",
    "SYSTEM_ACCESSTOKEN",
    "CIRCLE_OIDC_TOKEN_V2",
];
/// The name that a token of a file gets.
const TOKEN: &str = "WEIR_TOKEN";
/// How the text of a JWT begins: `{"`.
const JWT: &str = "eyJ";

/// Runs a hook; answers its exit code.
///
/// # Errors
/// When the output cannot be written.
pub async fn hook(args: &HookArgs, context: &Context, out: &mut dyn Write) -> Result<u8, CliError> {
    let (common, order, require) = match &args.event {
        Event::JobStarted { common, require, pid, token_file } => {
            let (kind, mut environment) = (common.kind.clone(), environment());
            if let Some(path) = token_file {
                match token(path) {
                    Ok(token) => drop(environment.insert(TOKEN.to_owned(), token)),
                    Err(error) => {
                        writeln!(out, "weir: reading {}: {error}", path.display())?;
                        return Ok(u8::from(*require));
                    }
                }
            }
            (common, Order::JobStart { kind, environment, pid: *pid }, *require)
        }
        Event::JobCompleted { common } => {
            (common, Order::JobEnd { kind: common.kind.clone() }, false)
        }
    };
    let asked = match &common.socket {
        Some(path) => said(wire::ask(path, &order).await, path),
        None => ask(context, &order).await,
    };
    match asked {
        Ok(Answer::People(people)) => {
            for person in people {
                writeln!(out, "weir: this job is {}", terminal::line(&person.display))?;
            }
        }
        Ok(Answer::Done(_)) => {}
        Err(error) => {
            writeln!(out, "weir: this job is not identified: {error}")?;
            return Ok(u8::from(require));
        }
    }
    Ok(0)
}

/// Says who the caller acts for.
///
/// # Errors
/// When the gateway does not answer.
pub async fn whoami(
    args: &ShowArgs,
    context: &Context,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    show(ask(context, &Order::Whoami).await?, args.json, out)
}

/// Says who a process acts for.
///
/// # Errors
/// When the gateway does not answer, or the process is somebody else's.
pub async fn whois(
    args: &WhoisArgs,
    context: &Context,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    show(ask(context, &Order::Whois { pid: args.pid }).await?, args.json, out)
}

/// Lists everybody.
///
/// # Errors
/// When the gateway does not answer; for others than root.
pub async fn list(args: &ShowArgs, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    let Answer::People(people) = ask(context, &Order::List).await? else { return Ok(()) };
    if args.json {
        return show(Answer::People(people), true, out);
    }
    let mut table = new_table();
    table.set_header(["NUMBER", "IDENTITY", "STATE", "METHOD", "RUN", "SUBJECT"]);
    for one in &people {
        let number = one.anchor.map(|number| number.to_string()).unwrap_or_default();
        let line = |text: &str| terminal::line(text).into_owned();
        let (run, subject) = (line(&one.run), line(&one.subject));
        let (display, state, method) = (line(&one.display), line(&one.state), line(&one.method));
        table.add_row([number, display, state, method, run, subject]);
    }
    if !people.is_empty() {
        writeln!(out, "{}", table.trim_fmt())?;
    }
    Ok(())
}

/// Takes identities back.
///
/// # Errors
/// When the gateway does not answer, for others than root, and when nobody is called so.
pub async fn revoke(
    args: &RevokeArgs,
    context: &Context,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let order = Order::Revoke { name: args.name.clone() };
    match ask(context, &order).await? {
        Answer::Done(0) => Err(CliError::Failed("nobody active is called so".into())),
        Answer::Done(count) => Ok(writeln!(out, "revoked: {count}")?),
        Answer::People(_) => Ok(()),
    }
}

/// A reply that is no refusal.
enum Answer {
    People(Vec<Person>),
    Done(usize),
}

async fn ask(context: &Context, order: &Order) -> Result<Answer, CliError> {
    let path = context.config()?.identity_socket();
    said(wire::ask(&path, order).await, &path)
}

fn said(asked: std::io::Result<Reply>, path: &std::path::Path) -> Result<Answer, CliError> {
    let asked = asked
        .map_err(|e| CliError::Failed(format!("asking the gateway at {}: {e}", path.display())))?;
    match asked {
        Reply::People { people } => Ok(Answer::People(people)),
        Reply::Done { count } => Ok(Answer::Done(count)),
        Reply::Refused { outcome, message } => {
            Err(CliError::Failed(format!("{} ({outcome})", terminal::line(&message))))
        }
        Reply::Browse { .. } | Reply::Device { .. } => {
            Err(CliError::Failed("the gateway answers something else".to_owned()))
        }
    }
}

fn show(answer: Answer, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let Answer::People(people) = answer else { return Ok(()) };
    for person in people {
        if json {
            let line = serde_json::to_string(&person).map_err(std::io::Error::from)?;
            writeln!(out, "{line}")?;
            continue;
        }
        let name = if person.display.is_empty() { "nobody" } else { &person.display };
        write!(out, "{} ({}", terminal::line(name), person.state)?;
        if !person.method.is_empty() {
            write!(out, ", {} by {}", person.method, person.confidence)?;
        }
        writeln!(out, ")")?;
        for (label, text) in [
            ("issuer", &person.issuer),
            ("subject", &person.subject),
            ("repository", &person.repository),
            ("workflow", &person.workflow),
            ("run", &person.run),
            ("job", &person.ci_job),
            ("actor", &person.actor),
            ("groups", &person.groups.join(" ")),
        ] {
            if !text.is_empty() {
                writeln!(out, "  {label}: {}", terminal::line(text))?;
            }
        }
    }
    Ok(())
}

/// A token, without the line end of its file.
fn token(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let most = u64::try_from(MAX_TOKEN_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    std::fs::File::open(path)?.take(most.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let all = std::env::vars_os().filter_map(text);
    all.filter(|(name, value)| VARIABLES.contains(&name.as_str()) || value.starts_with(JWT))
        .collect()
}
