//! Running commands: printed, bounded in time, and ended when the task is interrupted.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POLL: Duration = Duration::from_millis(20);
const STOP: Duration = Duration::from_secs(15);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes SIGINT and SIGTERM from now on, so that waits end and guards clean up.
pub(crate) fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// An error once a signal has arrived.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// The repository's root directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// `cargo` as it runs this task.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// A command line from parts.
pub(crate) fn command(parts: &[&str]) -> Command {
    let (program, arguments) = parts.split_first().unwrap_or((&"true", &[]));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with our own standard streams; any failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let child = command.spawn().with_context(|| format!("start `{}`", shown(command)))?;
    let status = wait(child, Duration::from_secs(3600))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it prints; standard error goes to ours.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let mut file = tempfile()?;
    let out = Stdio::from(file.try_clone()?);
    let what = shown(command);
    let child = command.stdout(out).spawn().with_context(|| format!("start `{what}`"))?;
    let status = wait(child, limit).with_context(|| format!("wait for `{what}`"))?;
    use std::io::{Read, Seek};
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("read the output of `{what}`"))?;
    if !status.success() {
        bail!("`{what}` ended with {status}: {}", text.trim());
    }
    Ok(text)
}

/// An unnamed file: a pipe would have to be drained by a thread.
fn tempfile() -> Result<File> {
    let path = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Waits for the end of a child; kills it at the limit or when interrupted.
pub(crate) fn wait(mut child: Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let late = Instant::now() > until;
        if late || check().is_err() {
            terminate(&mut child);
            check()?;
            bail!("not finished after {} s", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// SIGTERM, then SIGKILL.
fn terminate(child: &mut Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    let until = Instant::now() + STOP;
    if kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok() {
        while Instant::now() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
    if child.kill().is_ok() {
        drop(child.wait());
    }
}

/// A background process; it ends when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    name: String,
    kept: bool,
}

impl Daemon {
    /// Starts a command with both output streams in `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        // A group of its own: at an interrupt we end it, in order, not the terminal.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start `{}`", shown(command)))?;
        Ok(Self { child, log: log.to_owned(), name: name.to_owned(), kept: false })
    }

    /// Waits until `text` is in the log.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let name = self.name.clone();
        self.wait_until(&format!("{name} prints `{text}`"), limit, |log| log.contains(text))
    }

    /// Waits until the address accepts connections.
    pub(crate) fn wait_for_port(&mut self, address: &str, limit: Duration) -> Result<()> {
        let address: std::net::SocketAddr = address.parse()?;
        let name = self.name.clone();
        self.wait_until(&format!("{name} listens on {address}"), limit, |_| {
            std::net::TcpStream::connect_timeout(&address, POLL * 10).is_ok()
        })
    }

    fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            check()?;
            let log = self.log();
            if done(&log) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{log}", self.name);
            }
            if Instant::now() > until {
                bail!("waited {} s until {what}; its log:\n{log}", limit.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in the orderly way; anything but success is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        terminate(&mut self.child);
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// An error if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
        }
    }

    /// Lets it live on.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.kept {
            terminate(&mut self.child);
        }
    }
}

/// A new private directory; it is removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        // 0711: haproxy and nginx workers change their user.
        std::fs::DirBuilder::new()
            .mode(0o711)
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets it stay.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            println!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Prints a header, runs the step, prints its time.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    check()?;
    println!("\n=== {name}");
    let began = Instant::now();
    let result = work();
    let seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("=== {name}: done in {seconds:.1} s"),
        Err(_) => println!("=== {name}: FAILED after {seconds:.1} s"),
    }
    result.with_context(|| name.to_owned())
}
