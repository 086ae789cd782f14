//! `weir doctor`: what this host has, lacks, and what to do about it.
//!
//! - input: the configuration and the host
//! - output: one line per check, with the remedy where there is one to apply
//! - bound: 5 s per check that waits
//! - on failure: exit code 1 when any check fails; warnings do not count

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::unistd::AccessFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{CliError, Context, trust};
use crate::capture::loader::LayerState;
use crate::capture::pins::Status;
use crate::capture::{btf, cgroup, loader, maps};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::store::engine::find_engine;
use crate::{query, sink};

mod processes;
mod settings;

/// Arguments of `weir doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

struct Check {
    name: &'static str,
    level: Level,
    found: String,
    remedy: &'static str,
}

fn check(name: &'static str, result: Result<String, String>, remedy: &'static str) -> Check {
    match result {
        Ok(found) => Check { name, level: Level::Ok, found, remedy: "" },
        Err(found) => Check { name, level: Level::Fail, found, remedy },
    }
}

/// A check whose failure leaves weir usable.
fn wish(name: &'static str, result: Result<String, String>, remedy: &'static str) -> Check {
    let mut check = check(name, result, remedy);
    if check.level == Level::Fail {
        check.level = Level::Warn;
    }
    check
}

const WAIT: Duration = Duration::from_secs(5);

/// Prints all checks; the exit code is 1 when one failed.
///
/// # Errors
/// When output cannot be written.
pub async fn run(_args: &Args, context: &Context, out: &mut dyn Write) -> Result<u8, CliError> {
    let mut checks = Vec::new();
    match context.config() {
        Err(error) => checks.push(check(
            "configuration",
            Err(error.to_string()),
            "correct the file, then run `weir check-config`",
        )),
        Ok(config) => {
            let from = context.config_path().map_or("defaults".into(), |p| p.display().to_string());
            checks.push(check("configuration", Ok(from), ""));
            host(&config, &mut checks);
            settings::all(&config, &mut checks);
            capture(&config, &mut checks).await;
            trusted(&config, &mut checks);
            store(&config, &mut checks).await;
        }
    }
    for Check { name, level, found, remedy } in &checks {
        writeln!(out, "{level:<5} {name:<15} {found}")?;
        if !remedy.is_empty() {
            writeln!(out, "{:<5} {:<15} -> {remedy}", "", "")?;
        }
    }
    Ok(u8::from(checks.iter().any(|c| c.level == Level::Fail)))
}

fn host(config: &Config, checks: &mut Vec<Check>) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let known = kernel_version(&release).is_some_and(|version| version >= MIN_KERNEL);
    checks.push(check(
        "kernel",
        if known { Ok(release) } else { Err(release) },
        "use Linux 6.1 or newer; see docs/kernel-support.md",
    ));
    checks.push(check(
        "btf",
        btf::running_kernel().map(|_| "structure offsets found".into()).map_err(|e| e.to_string()),
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    ));
    checks.push(check(
        "cgroup2",
        cgroup::mount().map(|path| path.display().to_string()).map_err(|e| e.to_string()),
        "mount cgroup2: mount -t cgroup2 none /sys/fs/cgroup",
    ));
    let root = nix::unistd::geteuid().is_root();
    checks.push(wish(
        "privilege",
        if root { Ok("root".into()) } else { Err("not root".into()) },
        "attach, detach, run and the checks below need root",
    ));
    // A clock before this binary's year makes every minted certificate invalid.
    let year = 1970 + SystemClock.wall().0 / 1_000_000 / 31_556_952;
    checks.push(check(
        "clock",
        if year >= 2025 { Ok(format!("year {year}")) } else { Err(format!("year {year}")) },
        "set the clock: certificates are minted with it",
    ));
    checks.push(check("spool", writable(&config.spool.dir), "make spool.dir writable"));
}

/// Whether files can be made in a directory, or the directory itself where it is missing. Only
/// asks: the gateway makes it, with its own owner.
fn writable(dir: &Path) -> Result<String, String> {
    let existing = dir.ancestors().find(|level| level.exists()).unwrap_or(Path::new("/"));
    let shown = existing.display();
    if !existing.is_dir() {
        return Err(format!("{shown} is not a directory"));
    }
    nix::unistd::access(existing, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| format!("{shown}: {}", errno.desc()))?;
    Ok(if existing == dir {
        dir.display().to_string()
    } else {
        format!("{} can be made in {shown}", dir.display())
    })
}

/// Oldest kernel that the programs are known to load on.
const MIN_KERNEL: (u32, u32) = (6, 1);

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn capture(config: &Config, checks: &mut Vec<Check>) {
    let pins = &config.capture.pin_dir;
    let attached = match loader::status(pins) {
        Ok(Status::Attached(to)) => Ok(format!("attached to {}", to.captured.display())),
        Ok(Status::Detached) => Err("not attached".into()),
        Ok(Status::Stale) => Err("pins are incomplete or their cgroup is gone".into()),
        Err(error) => Err(error.to_string()),
    };
    let up = attached.is_ok();
    let dir = cgroup::mount().map(|mount| (mount.join(&config.capture.cgroup), mount));
    if let Ok((dir, mount)) = dir
        && up
    {
        processes::all(&dir, &mount, checks);
    }
    checks.push(wish("capture", attached, "run `weir up`, or `weir attach` and `weir gateway`"));
    let wanted = config.capture.danger_fail_open;
    let active = up && maps::fails_open(pins).unwrap_or_default();
    if wanted || active {
        let found = match (wanted, active) {
            (true, true) => "danger_fail_open is set: without a live gateway traffic passes unseen",
            (true, false) => "danger_fail_open is configured, and not attached",
            _ => "danger_fail_open is attached, and not configured any more",
        };
        checks.push(wish(
            "fail open",
            Err(found.into()),
            "set capture.danger_fail_open = false and run `weir attach`",
        ));
    }
    if up {
        let refused = maps::counters(pins).map(|all| {
            let shown = all.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{k}={n}"));
            shown.collect::<Vec<_>>().join(" ")
        });
        checks.push(check(
            "kernel counts",
            refused.map_err(|e| e.to_string()),
            "run `weir detach`",
        ));
        checks.push(wish(
            "layers",
            layers(pins),
            "docs/kernel-support.md says what each of them is for",
        ));
        checks.push(check(
            "gateway",
            health(&config.admin.socket).await,
            if active {
                "start the gateway: until then captured connections pass unseen"
            } else {
                "start the gateway: until then captured connections are refused"
            },
        ));
    }
}

fn layers(pins: &Path) -> Result<String, String> {
    let all = loader::layers(pins).map_err(|error| error.to_string())?;
    let text = |one: &loader::Layer| match &one.state {
        LayerState::Active => one.name.to_owned(),
        LayerState::Unavailable(reason) => format!("no {} ({reason})", one.name),
    };
    let shown = all.iter().map(text).collect::<Vec<_>>().join(", ");
    if all.iter().all(loader::Layer::is_active) { Ok(shown) } else { Err(shown) }
}

async fn health(socket: &Path) -> Result<String, String> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(WAIT, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => Ok("healthy".into()),
        Ok(Ok(_)) => Err("not healthy".into()),
        Ok(Err(error)) => Err(format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no answer", socket.display())),
    }
}

fn trusted(config: &Config, checks: &mut Vec<Check>) {
    let path = config.tls.ca_dir.join("ca.pem");
    let ca = std::fs::read_to_string(&path);
    checks.push(wish(
        "ca",
        ca.as_ref()
            .map(|_| path.display().to_string())
            .map_err(|e| format!("{}: {e}", path.display())),
        "the gateway makes it at its first start",
    ));
    let Ok(ca) = ca else { return };
    let bundle = trust::bundle_path(&config.tls.ca_dir);
    let inside = |text: String| text.contains(ca.trim());
    let ready = std::fs::read_to_string(&bundle).is_ok_and(inside);
    checks.push(check(
        "ca bundle",
        if ready {
            Ok(bundle.display().to_string())
        } else {
            Err(format!("{} is stale", bundle.display()))
        },
        "restart the gateway: it writes the bundle that `weir run` hands out",
    ));
    let system = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .any(|cert| trust::pem_of(cert).trim() == ca.trim());
    checks.push(wish(
        "system trust",
        if system { Ok("the system's store has the CA".into()) } else { Err("the system's store lacks the CA".into()) },
        "`weir run` sets the trust variables; for other captured processes add `weir ca` to the store",
    ));
}

async fn store(config: &Config, checks: &mut Vec<Check>) {
    if config.store.url.is_none() {
        checks.push(check(
            "engine",
            find_engine(&config.store).map(|p| p.display().to_string()).map_err(|e| e.to_string()),
            "run `cargo xtask setup`, or put libchdb.so into /usr/local/lib/weir",
        ));
    }
    let answer = match sink::connect_reader(&config.store) {
        Ok(client) => match timeout(WAIT, query::version(&client)).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".into()),
        },
        Err(error) => Err(error.to_string()),
    };
    let answer = answer.map(|version| format!("ClickHouse {version}"));
    checks.push(wish(
        "store",
        answer,
        "start it (`weir up` or `weir store`); records wait in the spool",
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_spool_is_looked_at_and_not_made() {
        let tmp = tempfile::tempdir().unwrap();
        let missing = tmp.path().join("a/b");
        assert!(writable(&missing).unwrap().contains("can be made"), "{:?}", writable(&missing));
        assert!(!tmp.path().join("a").exists());
        assert_eq!(writable(tmp.path()), Ok(tmp.path().display().to_string()));
        std::fs::write(tmp.path().join("a"), "").unwrap();
        assert!(writable(&missing).unwrap_err().contains("not a directory"));
    }

    #[test]
    fn kernel_releases_parse() {
        assert_eq!(kernel_version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("7.0.1"), Some((7, 0)));
        assert_eq!(kernel_version("garbage"), None);
    }
}
