//! Scanners from PyPI, each run once over a folder with one text in each file.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh::{self, Scratch};

const LIMIT: Duration = Duration::from_secs(600);

/// Packages and their versions.
const PACKAGES: [&str; 2] = ["detect-secrets==1.5.0", "kingfisher-bin==2.14.0"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Peer {
    DetectSecrets,
    Kingfisher,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DetectSecrets => "detect-secrets",
            Self::Kingfisher => "kingfisher",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(home().join("bin").join(self.name()));
        match self {
            Self::DetectSecrets => command.args(["scan", "--all-files", "."]),
            // It names a secret once otherwise, however many files hold it.
            Self::Kingfisher => command.args([
                "scan",
                ".",
                "--no-validate",
                "--no-dedup",
                "--no-update-check",
                "--format",
                "json",
            ]),
        };
        command
    }

    /// Names of the files with a finding.
    fn files(self, output: &str) -> Result<HashSet<String>> {
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut files = HashSet::new();
        match self {
            Self::DetectSecrets => {
                let report: Value = serde_json::from_str(output).context("its report")?;
                let results = report.get("results").and_then(Value::as_object);
                files.extend(results.into_iter().flatten().map(|(path, _)| name(path)));
            }
            Self::Kingfisher => {
                let mut reports = serde_json::Deserializer::from_str(output).into_iter::<Value>();
                let report = reports.next().context("no report")??;
                let findings = report.get("findings").and_then(Value::as_array);
                let paths = findings.into_iter().flatten();
                let paths = paths.filter_map(|one| one.pointer("/finding/path")?.as_str());
                files.extend(paths.map(name));
            }
        }
        Ok(files)
    }

    /// Which texts it finds something in.
    pub(super) fn finds(self, texts: &[Vec<u8>]) -> Result<Vec<bool>> {
        let scratch = Scratch::new("weir-detect")?;
        let folder = scratch.path().join("texts");
        std::fs::create_dir(&folder)?;
        for (index, text) in texts.iter().enumerate() {
            std::fs::write(folder.join(format!("{index}.txt")), text)?;
        }
        let report = scratch.path().join("report.json");
        let mut command = self.command();
        command.current_dir(&folder).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.stdout(File::create(&report)?).spawn().context(self.name())?;
        // Both say by their exit status that something was found.
        sh::wait(child, LIMIT)?;
        let files = self.files(&std::fs::read_to_string(&report)?).context(self.name())?;
        Ok((0..texts.len()).map(|index| files.contains(&format!("{index}.txt"))).collect())
    }
}

/// Installs them where they are missing.
pub(super) fn install() -> Result<()> {
    if home().join("bin/kingfisher").exists() && home().join("bin/detect-secrets").exists() {
        return Ok(());
    }
    let home = home();
    let path = home.to_str().context("its path is not UTF-8")?;
    sh::run(&mut sh::command(&["python3", "-m", "venv", path]))?;
    let mut pip = Command::new(Path::new(path).join("bin/pip"));
    sh::run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))
}

fn home() -> PathBuf {
    sh::root().join("target/peers/detect")
}
