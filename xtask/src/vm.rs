//! `xtask test vm`: the kernel suites on kernels that are not this machine's.
//!
//! - input: the test executables of `weir-tests`, kernels of Debian's suites
//! - output: what every test printed, and a table of kernels
//! - bound: [`machine::LIMIT`] per machine, one machine after another
//! - on failure: an error that names every kernel that failed, after all have run
//!
//! Machines are emulated, so neither virtualisation in the processor nor privileges are needed.

mod image;
mod kernel;
mod machine;
mod python;
mod suites;

use anyhow::{Context as _, Result, bail};

use crate::{setup, sh};

/// Debian suites whose kernels are tested: 6.1, 6.12 and the newest.
const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
const PROGRAMS: [(&str, &str); 11] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    // `cc` for the build, `strip` for the image
    ("cc", "build-essential"),
    ("strip", "binutils"),
    // the tests call these inside
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("dash", "dash"),
];
/// How many connections the concurrency tests make. An emulated processor is too slow for as many
/// as they make elsewhere.
const CONNECTIONS: &str = "WEIR_TEST_CONNECTIONS";
const FEWER: &str = "2000";

/// Boots every kernel, or the Debian suites that `WEIR_VM_SUITES` names, and runs the suites there.
///
/// # Errors
/// When something cannot be prepared, or after all machines ran, when one of them failed.
pub(crate) fn run() -> Result<()> {
    sh::step("programs for machines", || setup::programs(&PROGRAMS))?;
    let work = sh::root().join("target/vm");
    std::fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let tests = sh::step("test executables", suites::build)?;
    let connections = std::env::var(CONNECTIONS).unwrap_or_else(|_| FEWER.to_owned());
    println!("{CONNECTIONS}={connections}: the tests' own default is larger");
    let wanted = std::env::var("WEIR_VM_SUITES").ok();
    let filtered = std::env::var_os(image::FILTER).is_some_and(|filter| !filter.is_empty());
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for suite in SUITES {
        if wanted.as_ref().is_some_and(|wanted| !wanted.split(',').any(|one| one == suite)) {
            continue;
        }
        let kernel = sh::step(&format!("kernel of {suite}"), || kernel::get(&work, suite))?;
        let release = kernel.release.clone();
        let ended = sh::step(&format!("tests on {release}"), || {
            let image = image::build(&work.join(suite), &kernel, &tests, &connections)?;
            let console = work.join(suite).join("console.log");
            machine::run(&kernel, &image, &console, tests.tests.len(), filtered)
        });
        match ended {
            Ok(report) => rows.push(format!("{release}: {report}")),
            Err(error) => {
                rows.push(format!("{release}: FAILED"));
                failures.push(format!("{release}: {error:#}"));
            }
        }
        sh::check()?;
    }
    println!("\nkernels, with {CONNECTIONS}={connections}:\n  {}", rows.join("\n  "));
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}
