//! Packages of another Debian suite than the machine's, fetched without touching its configuration.
//!
//! - input: a private directory, a suite's name
//! - output: downloaded `.deb` files, whose signatures apt has verified
//! - bound: one list of packages and one download per call
//! - on failure: an error with the suite's name
//!
//! No registry host is named here: apt's own configuration says where Debian is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::toolchain::{output, run};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite, with lists and cache of its own.
pub(crate) struct Archive {
    dir: PathBuf,
    options: Vec<String>,
}

impl Archive {
    /// Prepares `dir`, which is made if missing; nothing is fetched yet.
    pub(crate) fn open(dir: &Path, suite: &str) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial", "package"] {
            std::fs::create_dir_all(dir.join(sub)).context("making a private apt directory")?;
        }
        let uris =
            output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
        let uri = uris.lines().next().context("apt has no package sources")?;
        let list = dir.join("sources.list");
        std::fs::write(&list, format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"))
            .context("writing a private sources.list")?;
        let options = vec![
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", dir.join("lists").display()),
            format!("Dir::Cache={}", dir.join("cache").display()),
            "Acquire::Languages=none".to_owned(),
            // apt's own download user may not enter a private directory.
            "APT::Sandbox::User=".to_owned(),
        ];
        Ok(Self { dir: dir.to_owned(), options })
    }

    /// Fetches the list of packages.
    pub(crate) fn update(&self) -> Result<()> {
        run(&mut self.apt("apt-get", &["update", "-qq"]))
    }

    /// Names of the packages that `package` depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output(&mut self.apt("apt-cache", &["depends", "--important", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads a package, `NAME` or `NAME=VERSION`; the newest file of that name is the answer.
    pub(crate) fn download(&self, package: &str) -> Result<PathBuf> {
        run(&mut self.apt("apt-get", &["download", "-q", package]))?;
        let name = package.split('=').next().unwrap_or(package);
        let found = std::fs::read_dir(self.dir.join("package"))
            .context("listing downloaded packages")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .find(|path| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.split('_').next() == Some(name)
            });
        found.with_context(|| format!("apt downloaded no package {name}"))
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.join("package"));
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}
