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
    /// Containers, with a real dockerd; needs root
    Containers,
    /// Who is who, with a real OIDC provider; needs root
    Identity,
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
            programs()?;
            sh::run(&mut sh::cargo(&["test", "--workspace", "--quiet", "--no-fail-fast"]))
        })?;
    }
    match suite {
        Suite::Kernel => sh::step("kernel tests", || privileged(&["kernel", "bypass"], true))?,
        Suite::Store => sh::step("store tests", || privileged(&["store"], false))?,
        Suite::Containers => {
            sh::step("container tests", || privileged(&["containers"], false))?;
        }
        Suite::Identity => {
            sh::step("identity tests", || privileged(&["identity", "jobs"], false))?;
        }
        Suite::All => sh::step("privileged tests", || privileged(&PRIVILEGED, false))?,
        Suite::Host | Suite::Demo | Suite::Vm => {}
    }
    if all || suite == Suite::Demo {
        sh::step("demo", || demo::run(false))?;
    }
    println!("\nall passed");
    Ok(())
}

/// What the suites start: `cargo test` does not build the binaries of other packages.
fn programs() -> Result<()> {
    sh::run(&mut sh::cargo(&["build", "-p", "weir-gateway", "-p", "weir-tests", "--bins"]))
}

/// Test targets that need root; the others ran without privileges before.
const PRIVILEGED: [&str; 6] = ["kernel", "bypass", "store", "appliance", "containers", "jobs"];

/// Suites of `weir-tests`. `shown` lets them print, the table of ways past the capture among other
/// things.
fn privileged(only: &[&str], shown: bool) -> Result<()> {
    programs()?;
    let base = ["test", "-p", "weir-tests", "--features", "privileged", "--no-fail-fast"];
    let mut command = sh::cargo(&base);
    command.args(only.iter().flat_map(|name| ["--test", name]));
    command.args(["--", "--test-threads=1"]);
    if shown {
        command.arg("--nocapture");
    }
    sh::run(&mut command)
}
