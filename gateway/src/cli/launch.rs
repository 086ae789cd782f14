//! `weir launch`: opens what needs privilege, gives all privilege up, and becomes `weir gateway`.
//!
//! - input: the configuration, the pins of `weir attach`, descriptors of the service manager
//! - output: `weir gateway` in this process: another user, no capabilities, its descriptors
//! - bound: see `app::handed`
//! - on failure: an error; no gateway runs
//!
//! Sockets are opened after joining the gateway's cgroup: a socket keeps its maker's, and the hook
//! of that cgroup hands over the records.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;

use caps::CapSet;
use nix::unistd::{setgroups, setresgid, setresuid};

use super::account::Account;
use super::{CliError, Context, descriptors, gateway};
use crate::app::handed::Name;

/// Arguments of `weir launch`: those of the gateway.
pub use super::gateway::Args;

/// Does not return. Call it outside of any runtime, on the only thread.
///
/// # Errors
/// When something cannot be opened, or privilege not be given up.
pub fn run(args: &Args, context: &Context) -> Result<Infallible, CliError> {
    let mut handed = descriptors::inherited_alone()?;
    let config = context.config()?;
    let account = Account::of(&config)?;
    // First, because its error says best what is missing when nothing is attached.
    handed.add_maps(&config.capture.pin_dir)?;
    gateway::enter_cgroup(&config)?;
    gateway::raise_descriptor_limit(config.gateway.max_connections);
    if let Some(predecessor) = gateway::take_over(args.takeover, &config, &mut handed)? {
        handed.push(Name::Predecessor, predecessor.into_descriptor());
    }
    handed.complete(&config, true)?;
    account.own(&config.spool.dir, 0o700)?;
    account.own(&config.tls.ca_dir, 0o755)?;
    if !config.identity.issuers.is_empty() {
        account.own(&config.identity.state_dir, 0o700)?;
    }
    account.own(&config.inspect.state_dir, 0o700)?;
    for socket in [&config.admin.socket, &config.handover_socket()] {
        account.own_socket(socket)?;
    }
    if handed.has(Name::Identity) {
        account.own_socket(&config.identity_socket())?;
    }
    if handed.has(Name::Orders) {
        account.own_socket(&config.orders_socket())?;
    }
    nix::unistd::chdir("/").map_err(std::io::Error::from)?;
    drop_privilege(account)?;
    let listen = descriptors::leave(handed)?;
    let environment = environment(&listen)?;
    let arguments = arguments(args, context)?;
    // By descriptor: the account may not be able to reach the path.
    let program = std::fs::File::open("/proc/self/exe")?;
    let failed = nix::unistd::fexecve(&program, &arguments, &environment);
    failed.map_err(|e| CliError::Failed(format!("becoming weir gateway: {e}")))
}

/// Another user, no groups, no capability in any set, and no way back.
fn drop_privilege(account: Account) -> Result<(), CliError> {
    let failed = |what: &'static str| {
        move |e: &dyn std::fmt::Display| CliError::Failed(format!("giving up {what}: {e}"))
    };
    let bounding = caps::read(None, CapSet::Bounding).map_err(|e| failed("capabilities")(&e))?;
    for capability in bounding {
        caps::drop(None, CapSet::Bounding, capability).map_err(|e| failed("capabilities")(&e))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(|e| failed("capabilities")(&e))?;
    setgroups(&[account.gid]).map_err(|e| failed("groups")(&e))?;
    setresgid(account.gid, account.gid, account.gid).map_err(|e| failed("the group")(&e))?;
    setresuid(account.uid, account.uid, account.uid).map_err(|e| failed("the user")(&e))?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|e| failed("capabilities")(&e))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|e| failed("new privileges")(&e))
}

fn text(bytes: &[u8]) -> Result<CString, CliError> {
    CString::new(bytes).map_err(|e| CliError::Failed(format!("passing arguments on: {e}")))
}

fn environment(listen: &[(&'static str, String)]) -> Result<Vec<CString>, CliError> {
    let ours = |key: &std::ffi::OsStr| listen.iter().any(|(name, _)| key == *name);
    let mut all = Vec::new();
    for (key, value) in std::env::vars_os().filter(|(key, _)| !ours(key)) {
        all.push(text(&[key.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    for (key, value) in listen {
        all.push(text(format!("{key}={value}").as_bytes())?);
    }
    Ok(all)
}

/// As if the operator had started `weir gateway`.
fn arguments(args: &Args, context: &Context) -> Result<Vec<CString>, CliError> {
    let mut all = vec![text(b"weir")?, text(b"gateway")?];
    if args.with_parent {
        all.push(text(b"--with-parent")?);
    }
    if let Some(path) = context.config_path() {
        let path = std::path::absolute(path)?;
        all.push(text(b"--config")?);
        all.push(text(path.as_os_str().as_bytes())?);
    }
    Ok(all)
}
