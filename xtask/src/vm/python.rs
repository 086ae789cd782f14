//! Python inside the machines: some tests ask the kernel in it.
//!
//! - input: the `python3` of this machine
//! - output: the same interpreter with its standard library, at the same places of the image
//! - bound: the standard library without its own tests and tools, some 20 MB
//! - on failure: an error: tests that need it would fail inside

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::image::{needed, program, within};
use crate::toolchain::output;

/// Parts of the standard library that no test imports.
const LEFT_OUT: [&str; 12] = [
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "distutils",
    "pydoc_data",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "__pycache__",
];
const WHERE: &str = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); \
                     print(sysconfig.get_path('stdlib'))";

/// Copies it, and notes its libraries.
pub(super) fn copy(root: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let said = output(Command::new("python3").args(["-c", WHERE]))?;
    let (executable, library) = said.trim().split_once('\n').context("python3 says too little")?;
    let executable = Path::new(executable);
    program(executable, &within(root, executable), libraries)?;
    std::os::unix::fs::symlink(executable, root.join("bin/python3")).context("naming python3")?;
    let modules = Path::new(library).join("lib-dynload");
    for entry in std::fs::read_dir(&modules).with_context(|| modules.display().to_string())? {
        needed(&entry?.path(), libraries)?;
    }
    let library = library.trim_start_matches('/');
    let mut pack = Command::new("tar");
    pack.args(LEFT_OUT.map(|name| format!("--exclude={name}")));
    pack.args(["--exclude=config-*", "--exclude=*.a", "-C", "/", "-c", library]);
    let mut pack = pack.stdout(Stdio::piped()).spawn().context("starting tar")?;
    let packed = pack.stdout.take().context("tar has no output")?;
    let unpacked = Command::new("tar").arg("-C").arg(root).arg("-x").stdin(packed).status()?;
    let packed = pack.wait()?;
    ensure!(packed.success() && unpacked.success(), "copying the library of python3");
    Ok(())
}
