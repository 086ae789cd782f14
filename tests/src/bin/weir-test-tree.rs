//! A tree of captured processes for the tests of job anchors.
//!
//! - input: `[--cgroup DIR] [--uid N] COMMAND ARGS…`; a line on standard input lets most commands
//!   begin, its end lets them exit
//! - output: a line when it waits, a line when it is done; connections to ports from ADDR's on
//! - bound: what the command line says
//! - on failure: an error on standard error and exit status 1
#![expect(unsafe_code, reason = "fork(2), clone(2) and clone3(2) have no safe wrappers")]

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, setgid, setsid, setuid};
use weir_gateway::capture::anchors::{AnchorError, Anchors};

fn main() -> anyhow::Result<()> {
    let mut args: std::collections::VecDeque<String> = std::env::args().skip(1).collect();
    let mut next = move || args.pop_front().context("another argument is missing");
    let mut word = next()?;
    loop {
        match word.as_str() {
            "--cgroup" => weir_gateway::capture::cgroup::join(Path::new(&next()?), None)?,
            "--uid" => become_user(next()?.parse()?)?,
            _ => break,
        }
        word = next()?;
    }
    match word.as_str() {
        // What others execute: no waiting.
        "connect" => return connect(next()?.parse()?, 0),
        "connect-and-fork" => {
            let to = next()?.parse()?;
            connect(to, 0)?;
            return child(|| connect(to, 1));
        }
        "forks" => {
            let forks: u32 = next()?.parse()?;
            wait_for_go()?;
            let begun = Instant::now();
            for _ in 0..forks {
                child(|| Ok(()))?;
            }
            say(&(begun.elapsed().as_nanos() / u128::from(forks)).to_string())?;
            return wait_for_end();
        }
        "older" => return older(next()?.parse()?),
        "orphan" => return orphan(next()?.parse()?),
        "abandoned" => return abandoned(next()?.parse()?),
        "forking" => return forking(next()?.parse()?, next()?.parse()?),
        "begin-elsewhere" => {
            let pin_dir = next()?;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID)?;
            return child(|| match Anchors::open(Path::new(&pin_dir)) {
                Err(AnchorError::Namespace) => Ok(()),
                other => bail!("{other:?}"),
            });
        }
        "begin" => return begin(Path::new(&next()?), next()?.parse()?),
        _ => {}
    }
    wait_for_go()?;
    let to: SocketAddr = next()?.parse()?;
    match word.as_str() {
        "self" => connect(to, 0)?,
        "child" => child(|| connect(to, 0))?,
        "grandchild" => child(|| child(|| connect(to, 0)))?,
        "daemon" => child(|| daemon(|| connect(to, 0)))?,
        "thread" => {
            let thread = std::thread::spawn(move || child(|| connect(to, 0)));
            thread.join().map_err(|_panic| anyhow::anyhow!("the thread panicked"))??;
        }
        "exec" => child(|| execute("connect", to))?,
        "thread-exec" => child(|| {
            let thread = std::thread::spawn(move || execute("connect-and-fork", to));
            thread.join().map_err(|_panic| anyhow::anyhow!("the thread panicked"))?
        })?,
        "setuid" => child(|| {
            become_user(65_534)?;
            connect(to, 0)
        })?,
        "spawn" => {
            let mut command = std::process::Command::new("/proc/self/exe");
            ensure!(command.args(["connect", &to.to_string()]).status()?.success());
        }
        "pidns" => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID)?;
            child(|| {
                ensure!(std::process::id() == 1, "not the first of its namespace");
                connect(to, 0)?;
                child(|| connect(to, 1))
            })?;
        }
        "sibling" => sibling(|| connect(to, 0))?,
        "storm" => storm(to, next()?.parse()?, next()?.parse()?)?,
        "with-pid" => with_pid(next()?.parse()?, || {
            connect(to, 0)?;
            child(|| connect(to, 1))
        })?,
        other => bail!("unknown command {other}"),
    }
    say("done")?;
    wait_for_end()
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn wait_for_go() -> anyhow::Result<()> {
    say("ready")?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn wait_for_end() -> anyhow::Result<()> {
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn become_user(id: u32) -> anyhow::Result<()> {
    setgid(id.into())?;
    Ok(setuid(id.into())?)
}

fn connect(mut to: SocketAddr, step: u16) -> anyhow::Result<()> {
    to.set_port(to.port() + step);
    drop(TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?);
    Ok(())
}

fn execute(command: &str, to: SocketAddr) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    Err(std::process::Command::new("/proc/self/exe").args([command, &to.to_string()]).exec().into())
}

/// Runs something in a forked process and waits for it.
fn child(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    await_success(start(run)?)
}

fn await_success(pid: Pid) -> anyhow::Result<()> {
    ensure!(matches!(waitpid(pid, None)?, WaitStatus::Exited(_, 0)), "a child failed");
    Ok(())
}

/// Runs something in a forked process.
fn start(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Pid> {
    // SAFETY: the child may allocate, which glibc allows after fork also with other threads.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => finish(run()),
    }
}

/// Ends a forked process without running what its parent would run at exit.
fn finish(result: anyhow::Result<()>) -> ! {
    if let Err(error) = &result {
        drop(writeln!(std::io::stderr(), "{error:#}"));
    }
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

/// Runs something in a session of its own, with a parent that has exited.
fn daemon(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    setsid()?;
    let middle = Pid::this();
    start(move || {
        while getppid() == middle {
            std::thread::yield_now();
        }
        run()
    })?;
    Ok(())
}

/// Runs something in a process whose parent is our parent: `CLONE_PARENT`.
fn sibling(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let flags = i64::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without a stack and without CLONE_VM it is a fork.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        0 => finish(run()),
        pid if pid > 0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Runs something in a process with a number of our choice: clone3(2), `set_tid` (5.5).
fn with_pid(pid: i32, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let wanted = [pid];
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::try_from(libc::SIGCHLD)?;
    args.set_tid = u64::try_from(wanted.as_ptr().addr())?;
    args.set_tid_size = 1;
    // SAFETY: `args` and what it points to live through the call; it is a fork.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match answer {
        0 => finish(run()),
        found if found == i64::from(pid) => {
            ensure!(matches!(waitpid(Pid::from_raw(pid), None)?, WaitStatus::Exited(_, 0)));
            Ok(())
        }
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Child and grandchild are there before anybody says go.
fn older(to: SocketAddr) -> anyhow::Result<()> {
    let (wait, open) = pipe2(OFlag::O_CLOEXEC)?;
    let pid = with_grandchild(&open, await_success, || {
        wait_for_close(&wait)?;
        connect(to, 0)?;
        child(|| connect(to, 1))
    })?;
    wait_for_go()?;
    drop(open);
    await_success(pid)?;
    say("done")?;
    wait_for_end()
}

/// A grandchild that is there before anybody says go, and connects when its parent has gone.
fn abandoned(to: SocketAddr) -> anyhow::Result<()> {
    let (wait, open) = pipe2(OFlag::O_CLOEXEC)?;
    let middle = |_lower| wait_for_close(&wait);
    let pid = with_grandchild(&open, middle, || {
        let parent = getppid();
        wait_for_close(&wait)?;
        while getppid() == parent {
            std::thread::yield_now();
        }
        connect(to, 0)
    })?;
    wait_for_go()?;
    drop(open);
    await_success(pid)?;
    say("done")?;
    wait_for_end()
}

/// A daemon that lives on when the root is gone.
fn orphan(to: SocketAddr) -> anyhow::Result<()> {
    wait_for_go()?;
    let (wait, open) = pipe2(OFlag::O_CLOEXEC)?;
    // Never dropped: it is the kernel that closes it when this process exits.
    let open_fd = open.into_raw_fd();
    child(|| {
        // SAFETY: as in `with_grandchild`.
        unsafe { libc::close(open_fd) };
        daemon(|| {
            connect(to, 0)?;
            wait_for_close(&wait)?;
            connect(to, 1)?;
            child(|| connect(to, 2))
        })
    })?;
    say("done")?;
    wait_for_end()
}

/// Runs something in a grandchild, which is there when this returns; the child does as it says.
fn with_grandchild(
    open: &OwnedFd,
    middle: impl FnOnce(Pid) -> anyhow::Result<()>,
    inner: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Pid> {
    let (there, not_yet) = pipe2(OFlag::O_CLOEXEC)?;
    let (open, not_yet_fd) = (open.as_raw_fd(), not_yet.as_raw_fd());
    let pid = start(|| {
        // SAFETY: the copy of a forked process, which nobody else closes: it never drops it.
        unsafe { libc::close(open) };
        let lower = start(|| {
            // SAFETY: as above.
            unsafe { libc::close(not_yet_fd) };
            inner()
        })?;
        // SAFETY: as above.
        unsafe { libc::close(not_yet_fd) };
        middle(lower)
    })?;
    drop(not_yet);
    wait_for_close(&there)?;
    Ok(pid)
}

/// Waits until every other process has closed its end, at the latest by exiting.
fn wait_for_close(pipe: &OwnedFd) -> anyhow::Result<()> {
    ensure!(nix::unistd::read(pipe, &mut [0])? == 0, "nobody writes");
    Ok(())
}

/// Many processes at every depth, each with connections of its own.
fn storm(to: SocketAddr, processes: u16, connections: u16) -> anyhow::Result<()> {
    let mut started = Vec::new();
    for index in 0..processes {
        let work = move || {
            for number in 0..connections {
                connect(to, index * connections + number)?;
            }
            Ok(())
        };
        started.push(start(move || match index % 4 {
            0 => work(),
            1 => child(work),
            2 => daemon(work),
            _ => child(|| daemon(work)),
        })?);
    }
    started.into_iter().try_for_each(await_success)
}

/// Workers that keep forking until the end: each child connects once and exits.
fn forking(to: SocketAddr, workers: u16) -> anyhow::Result<()> {
    let (stop, open) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let open_fd = open.as_raw_fd();
    let mut started = Vec::new();
    for _ in 0..workers {
        started.push(start(|| {
            // SAFETY: as in `with_grandchild`.
            unsafe { libc::close(open_fd) };
            while nix::unistd::read(&stop, &mut [0]) == Err(nix::errno::Errno::EAGAIN) {
                child(|| connect(to, 0))?;
            }
            Ok(())
        })?);
    }
    wait_for_end()?;
    drop(open);
    started.into_iter().try_for_each(await_success)
}

/// Plays the gateway: begins an anchor and waits for its end.
fn begin(pin_dir: &Path, pid: u32) -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mut anchors = Anchors::open(pin_dir)?;
    let anchor = anchors.begin(pid)?;
    say(&format!("{} {}", capabilities.unwrap_or_default().trim(), anchor.id.0))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(anchor.ended())?;
    anchors.end(anchor.id)?;
    say("ended")
}
