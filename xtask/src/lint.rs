//! `xtask lint`: formatting and clippy, host and BPF side separately.

use anyhow::Result;

use crate::sh;

pub(crate) fn run() -> Result<()> {
    sh::run(&mut sh::cargo(&["fmt", "--all", "--check"]))?;
    // Its own workspace; clippy on it would need the BPF toolchain, which `ebpf` checks.
    let ebpf = sh::root().join("ebpf");
    if ebpf.join("Cargo.toml").exists() {
        sh::run(sh::cargo(&["fmt", "--check"]).current_dir(ebpf))?;
    }
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    sh::run(&mut sh::cargo(&clippy))
}
