//! What building the BPF programs needs beyond stable Rust: the sources of `core` and bpf-linker.
//!
//! - input: the machine's own clients (rustup, cargo, apt) and their configuration
//! - output: `rust-src` in the sysroot, `bpf-linker` on the path
//! - bound: two downloads, both verified by the client that makes them
//! - on failure: an error that says which part is missing and how to get it by hand

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::debian::Archive;

/// The last release that links with rustc 1.95's own LLVM.
const BPF_LINKER: &str = "0.10.3";
/// Debian suites that may carry the compiler's exact version, most likely first.
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// Makes both parts available.
///
/// # Errors
/// When one of them is missing and none of the ways to get it works.
pub(crate) fn ensure_bpf(work: &Path) -> anyhow::Result<()> {
    ensure_rust_src(work)?;
    ensure_bpf_linker()
}

/// The compiler's own directory.
///
/// # Errors
/// When rustc does not run.
pub(crate) fn sysroot() -> anyhow::Result<PathBuf> {
    output(Command::new("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}

/// Where the sources of `core` are, below the sysroot.
pub(crate) fn rust_src(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust")
}

/// Runs a command and fails with its name if it fails.
///
/// # Errors
/// When the command cannot be started or answers a failure.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = describe(command);
    let status = command.status().with_context(|| format!("starting {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// Runs a command and returns the trimmed standard output.
///
/// # Errors
/// As [`run`], or when the output is not UTF-8.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = describe(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    let text = String::from_utf8(output.stdout).with_context(|| format!("reading {name}"))?;
    Ok(text.trim().to_owned())
}

fn describe(command: &Command) -> String {
    let args = command.get_args().take(3).map(OsStr::to_string_lossy);
    std::iter::once(command.get_program().to_string_lossy())
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

fn ensure_bpf_linker() -> anyhow::Result<()> {
    let wanted = format!("bpf-linker {BPF_LINKER}");
    if output(Command::new("bpf-linker").arg("--version").stderr(Stdio::null()))
        .is_ok_and(|found| found == wanted)
    {
        return Ok(());
    }
    run(Command::new("cargo").args([
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--locked",
        "--force",
    ]))
    .with_context(|| format!("installing {wanted}"))?;
    let found = output(Command::new("bpf-linker").arg("--version"))
        .context("bpf-linker is installed but not on PATH")?;
    ensure!(found == wanted, "PATH finds {found}, {wanted} is needed");
    Ok(())
}

fn ensure_rust_src(work: &Path) -> anyhow::Result<()> {
    let sysroot = sysroot()?;
    let present = rust_src(&sysroot).join("library/core/Cargo.toml");
    if present.exists() {
        return Ok(());
    }
    let by_rustup = run(Command::new("rustup").args(["component", "add", "rust-src"]));
    if by_rustup.is_ok() && present.exists() {
        return Ok(());
    }
    rust_src_from_debian(work, &sysroot).with_context(|| {
        format!(
            "getting the sources of core for {}: neither rustup ({}) nor Debian has them",
            sysroot.display(),
            by_rustup.err().map_or_else(|| "no files".into(), |error| error.to_string())
        )
    })?;
    ensure!(present.exists(), "the rust-src package does not contain library/core");
    Ok(())
}

/// Debian packages the same sources; apt verifies the archive's signature. Everything of apt is
/// private to `work`, so the machine's own configuration stays as it is.
fn rust_src_from_debian(work: &Path, sysroot: &Path) -> anyhow::Result<()> {
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = version.split(' ').nth(1).context("reading the version of rustc")?.to_owned();
    let work = work.join("rust-src");
    let mut failures = Vec::new();
    for suite in SUITES {
        let dir = work.join(suite);
        match download(&dir, suite, &version) {
            Ok(package) => return unpack(&package, &dir, &version, sysroot),
            Err(error) => failures.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("{}", failures.join("; "))
}

fn download(dir: &Path, suite: &str, version: &str) -> anyhow::Result<PathBuf> {
    let archive = Archive::open(dir, suite)?;
    archive.update()?;
    archive.download(&format!("rust-src={version}*"))
}

fn unpack(package: &Path, dir: &Path, version: &str, sysroot: &Path) -> anyhow::Result<()> {
    let tree = dir.join("tree");
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&tree))?;
    // The package holds the compiler too; rustup's component of the same name does not.
    let from = tree.join(format!("usr/src/rustc-{version}/library"));
    let to = rust_src(sysroot);
    std::fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
    let to = to.join("library");
    // Copied, not linked: it has to survive a deleted target directory.
    run(Command::new("cp").args(["-R", "--no-target-directory"]).arg(&from).arg(&to))?;
    std::fs::remove_dir_all(dir).context("removing the private apt directory")?;
    Ok(())
}
