//! Fetches the ClickHouse engine that the embedded store opens at run time.
//!
//! - input: a pinned package of the npm registry, through `npm pack`
//! - output: `.engine/libchdb.so` in the workspace
//! - bound: one package of 178 MB, 566 MB unpacked
//! - on failure: an error; a package whose digest differs from the pinned one is never unpacked

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha512};

/// A pinned package.
struct Pin {
    arch: &'static str,
    package: &'static str,
    /// `dist.integrity` of the registry: SHA-512 of the tarball.
    integrity: &'static str,
    /// Bytes of the library.
    size: u64,
}

/// The engine reports itself as ClickHouse 26.7.2.1.
const PINS: [Pin; 1] = [Pin {
    arch: "x86_64",
    package: "@chdb/lib-linux-x64-gnu@26.7.3-stable.1",
    integrity: "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
    size: 566_330_096,
}];

const LIBRARY: &str = "libchdb.so";
const MARKER: &str = "installed";

/// Makes sure that the pinned engine is in `.engine/`, and returns its path.
///
/// # Errors
/// When there is no package for this machine, `npm` or `tar` fail, or the digest is wrong.
pub(crate) fn setup() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")?;
    let dir = root.join(".engine");
    let arch = std::env::consts::ARCH;
    let Some(pin) = PINS.iter().find(|pin| pin.arch == arch) else {
        bail!(
            "no ClickHouse engine is pinned for {arch}: set `store.url` to use a server, or place \
             libchdb.so yourself"
        );
    };
    let library = dir.join(LIBRARY);
    if installed(&dir, pin) {
        return Ok(library);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let tarball = fetch(&dir, pin)?;
    let unpacked = verify(&tarball, pin.integrity)
        .and_then(|()| unpack(&tarball, &dir, pin))
        .with_context(|| format!("installing {}", pin.package));
    fs::remove_file(&tarball).with_context(|| format!("removing {}", tarball.display()))?;
    unpacked?;
    Ok(library)
}

fn installed(dir: &Path, pin: &Pin) -> bool {
    let marker = fs::read_to_string(dir.join(MARKER)).unwrap_or_default();
    let size = fs::metadata(dir.join(LIBRARY)).map_or(0, |m| m.len());
    marker == mark(pin) && size == pin.size
}

fn mark(pin: &Pin) -> String {
    format!("{} {}\n", pin.package, pin.integrity)
}

fn fetch(dir: &Path, pin: &Pin) -> Result<PathBuf> {
    let output = Command::new("npm")
        .args(["pack", pin.package, "--ignore-scripts", "--silent", "--pack-destination"])
        .arg(dir)
        .current_dir(dir)
        .output()
        .context("running npm: it is needed once, to fetch the ClickHouse engine")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "npm pack {} failed: {}", pin.package, said.trim());
    let name = String::from_utf8(output.stdout).context("reading npm's answer")?;
    let name = name.lines().last().unwrap_or_default().trim();
    ensure!(
        !name.is_empty() && !name.contains('/'),
        "npm pack {} answered {name:?} instead of a file name",
        pin.package
    );
    Ok(dir.join(name))
}

fn verify(tarball: &Path, integrity: &str) -> Result<()> {
    let file = File::open(tarball).with_context(|| format!("opening {}", tarball.display()))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut digest = Sha512::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader.read(&mut buffer).context("reading the package")?;
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { break };
        digest.update(read);
    }
    let found = format!("sha512-{}", STANDARD.encode(digest.finalize()));
    ensure!(found == integrity, "the package has digest {found}, pinned is {integrity}");
    Ok(())
}

fn unpack(tarball: &Path, dir: &Path, pin: &Pin) -> Result<()> {
    let fresh = dir.join("new");
    fs::create_dir_all(&fresh).with_context(|| format!("creating {}", fresh.display()))?;
    let member = format!("package/{LIBRARY}");
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(tarball)
        .arg("-C")
        .arg(&fresh)
        .args(["--strip-components=1", "--no-same-owner", &member])
        .status()
        .context("running tar")?;
    ensure!(status.success(), "tar could not unpack {member}");
    let library = fresh.join(LIBRARY);
    let size = fs::metadata(&library).context("reading the library's size")?.len();
    ensure!(size == pin.size, "the library has {size} bytes, expected {}", pin.size);
    fs::rename(&library, dir.join(LIBRARY)).context("placing the library")?;
    fs::remove_dir(&fresh).context("removing the temporary directory")?;
    // Last, so that an interrupted run is not taken for a finished one.
    fs::write(dir.join(MARKER), mark(pin)).context("writing the marker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_digest_is_refused() {
        let path = std::env::temp_dir().join(format!("weir-engine-{}", std::process::id()));
        fs::write(&path, b"abc").unwrap();
        let good = "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==";
        verify(&path, good).unwrap();
        let said = verify(&path, PINS[0].integrity).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(said.contains("pinned is"), "{said}");
    }

    #[test]
    fn a_marker_without_the_library_is_not_installed() {
        let dir = std::env::temp_dir().join(format!("weir-engine-dir-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(MARKER), mark(&PINS[0])).unwrap();
        let found = installed(&dir, &PINS[0]);
        fs::remove_dir_all(&dir).unwrap();
        assert!(!found);
    }
}
