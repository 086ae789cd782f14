//! `xtask setup`: what a fresh Debian 12 needs, installed only where it is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{engine, sh};

/// A program that must be in the path, and the package that has it.
const PROGRAMS: [(&str, &str); 14] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("git", "git"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    // fetches the engine; Debian has it in a package of its own
    ("npm", "npm"),
    ("unshare", "util-linux"),
    ("cc", "build-essential"),
    // containers: the daemon, the runtime, and what images are made of
    ("dockerd", "docker.io"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

pub(crate) fn run() -> Result<()> {
    programs(&PROGRAMS)?;
    println!("engine: {}", engine::setup()?.display());
    Ok(())
}

/// Installs the packages of those programs that are missing.
pub(crate) fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let missing = || -> Vec<&str> {
        wanted
            .iter()
            .filter(|(program, _)| !present(program))
            .map(|(_, package)| *package)
            .collect()
    };
    let packages = missing();
    if packages.is_empty() {
        println!("all programs are present");
        return Ok(());
    }
    install(&packages)?;
    let still = missing();
    ensure!(still.is_empty(), "still missing after installation: {}", still.join(" "));
    Ok(())
}

/// True if the program is in the path, or where daemons are.
pub(crate) fn present(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    ensure!(Path::new("/usr/bin/apt-get").exists(), "install these: {}", packages.join(" "));
    ensure!(nix::unistd::geteuid().is_root(), "as root, install: {}", packages.join(" "));
    // We only want the programs: this keeps invoke-rc.d from starting their daemons.
    let quiet = |arguments: &[&str]| -> Command {
        let mut command = sh::command(&["apt-get", "-q"]);
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command
    };
    sh::run(&mut quiet(&["update"]))?;
    let mut command = quiet(&["install", "--yes", "--no-install-recommends"]);
    sh::run(command.args(packages))
}
