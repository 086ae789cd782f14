//! The file system a machine starts with: busybox, the tests, what they need, and nothing else.
//!
//! - input: a kernel, executables, their sizing
//! - output: an uncompressed initramfs
//! - bound: the size of its parts
//! - on failure: an error that names the part

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::kernel::Kernel;
use super::suites::Executables;
use crate::toolchain::{output, run};

/// Begins the line with the number of failed suites.
pub(crate) const VERDICT: &str = "weir-vm: verdict ";
/// Names what part of the tests to run; all without it.
pub(crate) const FILTER: &str = "WEIR_VM_FILTER";
/// Begins a line about the kernel.
pub(crate) const FACT: &str = "weir-vm: fact ";

/// What `ip` and `nft` call by name in tests and in what they print.
const PROTOCOLS: &str = "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n";

const INIT: &str = include_str!("init.sh");
/// Loaded at the start, because nothing in the machine loads modules on demand. A kernel may have
/// some of them built in.
const MODULES: [&str; 19] = [
    // not named by those that use it
    "crc32c_generic",
    "dummy",
    "veth",
    "af_packet",
    "nf_tables",
    "nft_socket",
    "nft_reject_inet",
    "nft_ct",
    "nft_chain_nat",
    "nft_redir",
    "nft_nat",
    "nft_masq",
    "bridge",
    "br_netfilter",
    "macvlan",
    "tcp_diag",
    "udp_diag",
    "sctp",
    "vsock",
];
/// Programs of this machine that the tests call, and where they find them. busybox's own shell would
/// prefer busybox's own `ip`, which lacks what they need.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "sbin/ip"),
    ("nft", "sbin/nft"),
    ("dash", "bin/sh"),
    // busybox's own would start busybox's shell, and that busybox's ip.
    ("nsenter", "bin/nsenter"),
];

/// Writes the image below `dir`.
///
/// # Errors
/// When a part is missing or cannot be copied.
pub(crate) fn build(
    dir: &Path,
    kernel: &Kernel,
    tests: &Executables,
    connections: &str,
) -> Result<PathBuf> {
    let root = dir.join("root");
    if root.exists() {
        std::fs::remove_dir_all(&root).context("removing the last image")?;
    }
    for name in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "tests", "modules", "etc"] {
        std::fs::create_dir_all(root.join(name)).with_context(|| format!("making {name}"))?;
    }
    busybox(&root)?;
    let mut libraries = BTreeSet::new();
    let mut order = String::new();
    for (name, path) in &tests.tests {
        program(path, &root.join("tests").join(name), &mut libraries)?;
        writeln!(order, "{name}")?;
    }
    std::fs::write(root.join("tests/order"), order).context("listing tests")?;
    for path in &tests.programs {
        program(path, &within(&root, path), &mut libraries)?;
    }
    for (name, at) in TOOLS {
        let path =
            ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name));
        let path = path.into_iter().find(|path| path.is_file());
        let path = path.with_context(|| format!("{name} is not installed"))?;
        let to = root.join(at);
        if to.is_symlink() {
            std::fs::remove_file(&to).context("replacing a part of busybox")?;
        }
        program(&path, &to, &mut libraries)?;
    }
    super::python::copy(&root, &mut libraries)?;
    for library in libraries {
        copy(&library, &within(&root, &library))?;
    }
    modules(kernel, &root.join("modules"))?;
    std::fs::create_dir_all(root.join("etc")).context("making /etc")?;
    std::fs::write(root.join("etc/protocols"), PROTOCOLS).context("naming protocols")?;
    // Without it libc asks loopback, which a container keeps for itself.
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 198.51.100.53\n")
        .context("naming a name server")?;
    ensure!(connections.parse::<u16>().is_ok(), "{connections} is no number of connections");
    let filter = std::env::var(FILTER).unwrap_or_default();
    ensure!(!filter.contains('\''), "a filter has no quotes");
    let line = format!("export {}={connections}\nFILTER='{filter}'\n", super::CONNECTIONS);
    std::fs::write(root.join("environment"), line).context("writing the environment")?;
    std::fs::write(root.join("init"), INIT).context("writing init")?;
    std::fs::set_permissions(root.join("init"), std::fs::Permissions::from_mode(0o755))
        .context("making init executable")?;
    pack(&root, &dir.join("initramfs"))
}

/// The path of a file of this machine, in the image.
pub(super) fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file has no directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

fn busybox(root: &Path) -> Result<()> {
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    let names = output(Command::new("/bin/busybox").arg("--list"))?;
    for name in names.lines().filter(|name| *name != "busybox") {
        let link = root.join(if name == "ip" { "sbin" } else { "bin" }).join(name);
        symlink("/bin/busybox", &link).with_context(|| format!("linking {name}"))?;
    }
    Ok(())
}

/// Copies a program without debug information, and notes its libraries.
pub(super) fn program(from: &Path, to: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    copy(from, to)?;
    run(Command::new("strip").arg("--strip-debug").arg(to))?;
    needed(from, libraries)
}

/// Notes the libraries of a program or of another library.
pub(super) fn needed(from: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let text = output(Command::new("ldd").arg(from))?;
    let paths = text.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
        path.split(' ').next().filter(|path| path.starts_with('/'))
    });
    libraries.extend(paths.map(PathBuf::from));
    Ok(())
}

/// The modules in the order in which they load.
fn modules(kernel: &Kernel, to: &Path) -> Result<()> {
    let from = kernel.tree.join("lib/modules").join(&kernel.release);
    let listed = output(Command::new("find").arg(&from).args(["-name", "*.ko*"]))?;
    let files: Vec<_> = listed.lines().map(Path::new).collect();
    let mut order = Vec::new();
    for name in MODULES {
        module(name, &files, to, &mut order)?;
    }
    ensure!(!order.is_empty(), "no modules below {}", from.display());
    std::fs::write(to.join("order"), order.join("\n")).context("listing modules")
}

/// Copies a module after those that it depends on; one that has no file is built in.
fn module(name: &str, files: &[&Path], to: &Path, order: &mut Vec<String>) -> Result<()> {
    let called = |path: &Path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.split('.').next().unwrap_or_default().replace('-', "_")
    };
    let file_name = format!("{name}.ko");
    let Some(path) = files.iter().find(|path| called(path) == name) else { return Ok(()) };
    if order.contains(&file_name) {
        return Ok(());
    }
    let target = to.join(&file_name);
    if path.extension().is_some_and(|extension| extension == "xz") {
        let out = std::fs::File::create(&target).context("making a module")?;
        run(Command::new("xz").args(["--decompress", "--stdout"]).arg(path).stdout(out))?;
    } else {
        copy(path, &target)?;
    }
    let bytes = std::fs::read(&target).with_context(|| format!("reading {file_name}"))?;
    for needed in depends(&bytes) {
        module(&needed.replace('-', "_"), files, to, order)?;
    }
    order.push(file_name);
    Ok(())
}

/// The entry `depends` of a module's section of facts about itself.
fn depends(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn pack(root: &Path, image: &Path) -> Result<PathBuf> {
    let mut find = Command::new("find")
        .args([".", "-print0"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting find")?;
    let names = find.stdout.take().context("find has no output")?;
    let out = std::fs::File::create(image).context("making the image")?;
    run(Command::new("cpio")
        .args(["--null", "--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(root)
        .stdin(names)
        .stdout(out))?;
    ensure!(find.wait().context("waiting for find")?.success(), "find failed");
    Ok(image.to_owned())
}
