//! `xtask test`: what CI runs, in the order in which it fails fastest.

use anyhow::Result;
use clap::ValueEnum;

use crate::{demo, docs, ebpf, lint, setup, sh, tidy, vm};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Lints, generated files, and every test without privileges
    Host,
    /// Real programs in cgroups and namespaces; needs root
    Kernel,
    /// The embedded engine
    Store,
    /// The demo, as a test
    Demo,
    /// The kernel suites on Debian's kernels, in emulated machines; not part of `all`
    Vm,
    /// Everything else
    All,
}

pub(crate) fn run(suite: Suite) -> Result<()> {
    let all = suite == Suite::All;
    if suite == Suite::Vm {
        // It needs other programs, and no engine.
        vm::run()?;
        println!("\nall passed");
        return Ok(());
    }
    sh::step("setup", setup::run)?;
    if all || suite == Suite::Host {
        sh::step("lint", lint::run)?;
        sh::step("tidy", tidy::run)?;
        sh::step("ebpf --check", || ebpf::run(true))?;
        sh::step("docs --check", || docs::run(true))?;
        sh::step("tests without privileges", || {
            sh::run(&mut sh::cargo(&["test", "--workspace", "--quiet"]))
        })?;
    }
    match suite {
        Suite::Kernel => sh::step("kernel tests", || privileged(Some("kernel")))?,
        Suite::Store => sh::step("store tests", || privileged(Some("store")))?,
        Suite::All => sh::step("privileged tests", || privileged(None))?,
        Suite::Host | Suite::Demo | Suite::Vm => {}
    }
    if all || suite == Suite::Demo {
        sh::step("demo", || demo::run(false))?;
    }
    println!("\nall passed");
    Ok(())
}

/// Test targets that need root; the others ran without privileges before.
const PRIVILEGED: [&str; 3] = ["kernel", "store", "appliance"];

/// Suites of `weir-tests`; `only` selects the test targets whose name begins with it.
fn privileged(only: Option<&str>) -> Result<()> {
    let mut command = sh::cargo(&["test", "-p", "weir-tests", "--features", "privileged"]);
    match only {
        Some(name) => command.args(["--test", &format!("{name}*")]),
        None => command.args(PRIVILEGED.iter().flat_map(|name| ["--test", name])),
    };
    sh::run(command.args(["--", "--test-threads=1"]))
}
