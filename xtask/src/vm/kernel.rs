//! A Debian kernel and the modules that the tests need.
//!
//! - input: a Debian suite
//! - output: [`Kernel`], kept below `target/vm/SUITE` until the suite has a newer one
//! - bound: one download of at most three packages; the list of packages is a day old at most
//! - on failure: an error; a kernel that is there is used when the list cannot be refreshed

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::debian::Archive;

const FRESH: Duration = Duration::from_secs(24 * 3600);
/// What is unpacked of the packages: they hold a hundred thousand kilobytes of drivers.
const PATTERNS: [&str; 7] = [
    "*/vmlinuz*",
    "*/kernel/net/*",
    "*/kernel/lib/*",
    "*/kernel/crypto/*",
    "*/kernel/drivers/net/veth.ko*",
    "*/kernel/drivers/net/dummy.ko*",
    "*/kernel/drivers/net/macvlan.ko*",
];

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` says.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Holds `lib/modules`.
    pub(crate) tree: PathBuf,
}

/// The newest kernel of a suite.
///
/// # Errors
/// When it can neither be fetched nor is there from before.
pub(crate) fn get(work: &Path, suite: &str) -> Result<Kernel> {
    let dir = work.join(suite);
    let archive = Archive::open(&dir, suite)?;
    let (stamp, current) = (dir.join("updated"), dir.join("release"));
    if !fresh(&stamp) {
        match archive.update().and_then(|()| newest(&archive)) {
            Ok(release) => {
                std::fs::write(&current, release).context("noting the release")?;
                std::fs::write(&stamp, "").context("noting the time")?;
            }
            Err(error) if current.exists() => println!("using the kernel at hand: {error:#}"),
            Err(error) => return Err(error.context(format!("looking for the kernel of {suite}"))),
        }
    }
    let release = std::fs::read_to_string(&current).context("reading the release")?;
    let tree = dir.join(format!("tree-{release}"));
    if !tree.exists() {
        fetch(&archive, &release, &tree).with_context(|| format!("getting Linux {release}"))?;
    }
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let image = places.iter().map(|place| tree.join(place)).find(|path| path.exists());
    let image = image.with_context(|| format!("no kernel in {}", tree.display()))?;
    println!("Linux {release} of {suite}");
    Ok(Kernel { release, image, tree })
}

fn fresh(stamp: &Path) -> bool {
    let modified = stamp.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH))
}

/// What the meta package stands for at present.
fn newest(archive: &Archive) -> Result<String> {
    let names = archive.depends("linux-image-amd64")?;
    let found = names.iter().find_map(|name| name.strip_prefix("linux-image-"));
    Ok(found.context("linux-image-amd64 depends on no kernel")?.to_owned())
}

/// The image's package, and since 7.x those that it is divided into.
fn fetch(archive: &Archive, release: &str, tree: &Path) -> Result<()> {
    let package = format!("linux-image-{release}");
    let mut packages = vec![package.clone()];
    let parts = ["linux-binary", "linux-modules"].map(|part| format!("{part}-{release}"));
    packages.extend(archive.depends(&package)?.into_iter().filter(|name| parts.contains(name)));
    // Complete or not there at all: only the last step gives it its name.
    let partial = tree.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).context("removing an unfinished tree")?;
    }
    std::fs::create_dir_all(&partial).context("making a tree")?;
    for package in packages {
        let file = archive.download(&package)?;
        unpack(&file, &partial)?;
        std::fs::remove_file(&file).context("removing a package")?;
    }
    // Newer packages have everything below /usr.
    let merged = partial.join("usr/lib/modules");
    if merged.exists() {
        std::fs::create_dir_all(partial.join("lib")).context("making lib")?;
        std::fs::rename(&merged, partial.join("lib/modules")).context("moving modules")?;
    }
    std::fs::rename(&partial, tree).context("naming the tree")
}

fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let files = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--wildcards", "--directory"]).arg(tree).args(PATTERNS).stdin(files);
    // A pattern that no file matches is an error for tar, and each package has only some.
    let status = tar.stderr(Stdio::null()).status().context("starting tar")?;
    let read = archive.wait().context("waiting for dpkg-deb")?;
    ensure!(read.success(), "dpkg-deb cannot read {}: {read}", package.display());
    ensure!(status.code().is_some_and(|code| code <= 2), "tar ended with {status}");
    Ok(())
}
