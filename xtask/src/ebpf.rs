//! `cargo xtask ebpf`: builds the BPF object that the repository carries.
//!
//! - input: `ebpf/` and the pinned toolchain (`toolchain.rs`)
//! - output: `ebpf/prebuilt/weir.bpf.o` and `ebpf/prebuilt/SOURCES.sha256`
//! - bound: one cargo build
//! - on failure: nothing is written; with `check`, an error says what differs
//!
//! Reproducible: every path that could reach debug information is remapped, so the same sources
//! and toolchain give the same bytes in any checkout, target directory or cargo home.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use crate::toolchain;

const OBJECT: &str = "ebpf/prebuilt/weir.bpf.o";
const SOURCES: &str = "ebpf/prebuilt/SOURCES.sha256";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the object and writes it, or with `check` compares it with the one that is there.
///
/// # Errors
/// When the toolchain is missing, the build fails, or `check` finds a difference.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = root()?;
    if check {
        check_sources()?;
    }
    let work = root.join("target/xtask");
    toolchain::ensure_bpf(&work)?;
    let target_dir = work.join(if check { "ebpf-check" } else { "ebpf" });
    let built = build(&root, &target_dir)?;
    if check {
        // A fresh build each time; what it leaves behind is of no use to the next.
        std::fs::remove_dir_all(&target_dir).context("removing the build directory")?;
        let kept = read(&root.join(OBJECT))?;
        ensure!(
            built == kept,
            "{OBJECT} is not what its sources build: {} bytes with digest {}, built {} with {}",
            kept.len(),
            digest(&kept),
            built.len(),
            digest(&built)
        );
        return Ok(());
    }
    let object = root.join(OBJECT);
    let dir = object.parent().context("the object has no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::write(&object, &built).with_context(|| format!("writing {OBJECT}"))?;
    std::fs::write(root.join(SOURCES), sources(&root)?)
        .with_context(|| format!("writing {SOURCES}"))
}

/// Compares the recorded digests with the files, without building anything.
///
/// # Errors
/// When a source or the object changed since the last `cargo xtask ebpf`.
pub(crate) fn check_sources() -> anyhow::Result<()> {
    let root = root()?;
    let kept = String::from_utf8(read(&root.join(SOURCES))?).context("reading digests")?;
    let now = sources(&root)?;
    let stale: Vec<_> = now.lines().filter(|line| !kept.lines().any(|old| old == *line)).collect();
    ensure!(
        kept == now,
        "{SOURCES} is stale (run `cargo xtask ebpf`): {}",
        if stale.is_empty() { "a listed file is gone".into() } else { stale.join(", ") }
    );
    Ok(())
}

fn build(root: &Path, target_dir: &Path) -> anyhow::Result<Vec<u8>> {
    let ebpf = root.join("ebpf");
    // Fetched first, so that the directories to remap exist also in a fresh cargo home.
    toolchain::run(
        Command::new("cargo").args(["fetch", "--locked", "--quiet"]).current_dir(&ebpf),
    )?;
    let mut flags =
        vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned(), "-Cpanic=abort".to_owned()];
    flags.extend(
        remaps(root)?
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--quiet", "-Zbuild-std=core", "--target", TARGET])
        .current_dir(&ebpf)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", target_dir)
        .env_remove("RUSTFLAGS");
    toolchain::run(&mut cargo)?;
    read(&target_dir.join(TARGET).join("release/weir"))
}

/// Every place that sources are compiled from, and its name in the object.
fn remaps(root: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let sysroot = toolchain::sysroot()?;
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    // rustc takes the last match, so the more specific prefix comes later.
    let mut remaps = vec![(root.to_owned(), "/weir".to_owned())];
    let registry = cargo_home.join("registry/src");
    for entry in std::fs::read_dir(&registry).into_iter().flatten() {
        remaps.push((entry.context("listing the registry")?.path(), "/crates".to_owned()));
    }
    remaps.push((toolchain::rust_src(&sysroot), "/rust".to_owned()));
    Ok(remaps)
}

/// One line per source file and one for the object, as `sha256sum` writes them.
fn sources(root: &Path) -> anyhow::Result<String> {
    let mut files = vec!["ebpf/Cargo.lock".into(), "ebpf/Cargo.toml".into(), OBJECT.into()];
    files.push(PathBuf::from("ebpf/common/Cargo.toml"));
    for dir in ["ebpf/src", "ebpf/common/src"] {
        rust_files(root, Path::new(dir), &mut files)?;
    }
    files.sort();
    let mut lines = String::new();
    for file in files {
        let digest = digest(&read(&root.join(&file))?);
        writeln!(lines, "{digest}  {}", file.display()).context("formatting digests")?;
    }
    Ok(lines)
}

fn rust_files(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let listing = std::fs::read_dir(root.join(dir));
    for entry in listing.with_context(|| format!("listing {}", dir.display()))? {
        let entry = entry.with_context(|| format!("listing {}", dir.display()))?;
        let path = dir.join(entry.file_name());
        if entry.file_type().context("reading a file type")?.is_dir() {
            rust_files(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn root() -> anyhow::Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask has no parent directory")?.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn prebuilt_object_belongs_to_the_sources() {
        super::check_sources().unwrap();
    }
}
