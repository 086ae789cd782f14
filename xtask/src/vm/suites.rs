//! The executables that run inside.
//!
//! - input: `weir-tests` with its feature `privileged`
//! - output: [`Executables`]
//! - bound: one cargo build
//! - on failure: cargo's own error

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::sh;

/// Test targets that speak with the kernel and with nothing outside of the machine.
const TARGETS: [&str; 2] = ["kernel", "bypass"];

/// What cargo built, where it put it: tests find their programs by these paths.
#[derive(Debug, Default)]
pub(crate) struct Executables {
    /// Name and path of each test target.
    pub(crate) tests: Vec<(String, PathBuf)>,
    /// Programs that the tests start.
    pub(crate) programs: Vec<PathBuf>,
}

/// Builds them, without running anything.
///
/// # Errors
/// When the build fails or a target is missing.
pub(crate) fn build() -> Result<Executables> {
    let mut command = sh::cargo(&["test", "-p", "weir-tests", "--features", "privileged"]);
    command.args(TARGETS.iter().flat_map(|name| ["--test", name]));
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let text = sh::output(&mut command, Duration::from_secs(3600))?;
    let mut found = Executables::default();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("reading what cargo says")?;
        let at = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
        let (Some(path), Some(name)) = (at("/executable"), at("/target/name")) else { continue };
        match at("/target/kind/0") {
            Some("test") => found.tests.push((name.to_owned(), path.into())),
            Some("bin") => found.programs.push(path.into()),
            _ => {}
        }
    }
    found.tests.sort_by_key(|(name, _)| TARGETS.iter().position(|target| target == name));
    ensure!(found.tests.len() == TARGETS.len(), "cargo built only {found:?}");
    Ok(found)
}
