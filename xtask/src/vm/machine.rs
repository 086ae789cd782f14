//! One emulated machine: boots, prints, says how it went, powers off.
//!
//! - input: a kernel, an image, a file for the console
//! - output: [`Report`]; the console on standard output
//! - bound: [`LIMIT`] of time, 2 GiB of memory, one processor
//! - on failure: an error with the end of the console: a panic, no verdict, a failed test, too late

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::{FACT, VERDICT};
use super::kernel::Kernel;
use crate::sh;

/// Time for one machine, from start to power-off.
pub(crate) const LIMIT: Duration = Duration::from_secs(2400);

/// What a machine said.
pub(crate) struct Report {
    took: Duration,
    facts: Vec<String>,
    results: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "passed in {:.0} s", self.took.as_secs_f64())?;
        for line in self.results.iter().chain(&self.facts) {
            write!(out, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Runs it to its end.
///
/// # Errors
/// When the machine does not end in time, or ends without saying that every suite passed.
pub(crate) fn run(
    kernel: &Kernel,
    image: &Path,
    console: &Path,
    suites: usize,
    filtered: bool,
) -> Result<Report> {
    let began = Instant::now();
    let file = File::create(console).with_context(|| format!("making {}", console.display()))?;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max,la57=off", "-smp", "1", "-m", "2048"]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    // A panic reboots at once, which with -no-reboot is the end.
    command.args(["-append", "console=ttyS0 loglevel=4 panic=-1 nokaslr mitigations=off"]);
    let child =
        command.stdin(Stdio::null()).stdout(file).spawn().context("starting qemu-system-x86_64")?;
    let ended = sh::wait(child, LIMIT);
    let bytes = std::fs::read(console).with_context(|| format!("reading {}", console.display()))?;
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    println!("{text}");
    ended.context("waiting for the machine")?;
    judge(&text, began.elapsed(), suites, filtered)
}

fn judge(console: &str, took: Duration, suites: usize, filtered: bool) -> Result<Report> {
    let after = |mark: &str| -> Vec<String> {
        // The kernel may print in the middle of a line, never in the middle of a write.
        let rest = |line: &str| line.split_once(mark).map(|(_, rest)| rest.trim().to_owned());
        console.lines().filter_map(rest).collect()
    };
    if let Some(panic) = console.lines().find(|line| line.contains("Kernel panic")) {
        bail!("{panic}");
    }
    let verdicts = after(VERDICT);
    match verdicts.first().map(String::as_str) {
        Some("0") => {}
        Some(code) => {
            let failed = console.lines().filter(|line| line.ends_with("... FAILED"));
            bail!("{code} suites failed: {}", failed.collect::<Vec<_>>().join(", "))
        }
        None => bail!("the machine ended without a verdict"),
    }
    let results: Vec<_> = console
        .lines()
        .filter(|line| line.starts_with("test result:"))
        .map(str::to_owned)
        .collect();
    let idle = results.iter().filter(|line| line.contains(" 0 passed")).count();
    // A filter may leave nothing of a suite, but not of all of them.
    let bound = if filtered { suites } else { 1 };
    if results.len() != suites || idle >= bound {
        bail!("{idle} of {suites} suites ran no test: {results:?}");
    }
    Ok(Report { took, facts: after(FACT), results })
}
