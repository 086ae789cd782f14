//! A real dockerd for tests, in namespaces of its own, beside a [`Site`].
//!
//! - input: a running site
//! - output: [`Daemon`]: images, containers, what dockerd logged
//! - bound: every wait ends after [`PATIENCE`](crate::appliance::PATIENCE)
//! - on failure: panics; `Drop` ends dockerd and all containers and removes their cgroups
//!
//! Tests run in [`isolated`]: bridges, routes and mounts are those of a thread, and go with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_gateway::capture::cgroup;

use crate::appliance::{Site, binary, signal, text, try_wait, wait_for};

/// The bridge that is configured.
pub const BRIDGE: &str = "br-weir";
/// Its network.
pub const BRIDGE_NET: &str = "10.81.0.1/24";
/// The image: busybox, curl, and a bundle of roots that weir's CA is not in.
pub const IMAGE: &str = "box";
/// The same without a bundle of roots.
pub const BARE: &str = "bare";

/// Runs a test in a network and a mount namespace of its own.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        assert!(nix::unistd::geteuid().is_root(), "this suite needs root");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip WORDS`; it must succeed.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", text(&output));
}

/// Makes the bridge and lets the far end answer it: containers could reach the origin unseen.
pub fn bridge(site: &Site) {
    ip(&format!("link add {BRIDGE} type bridge"));
    ip(&format!("address add {BRIDGE_NET} dev {BRIDGE}"));
    ip(&format!("link set {BRIDGE} up"));
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    ip(&format!("-n {} route add default via {}", site.id, site.network.outside));
}

/// dockerd, with `weir oci-runtime` as its runtime.
pub struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    /// The site's directory of cgroups, relative to the cgroup2 mount.
    id: String,
}

impl Daemon {
    /// Starts dockerd; `captured` puts itself below the captured cgroup, as job `dockerd`.
    pub fn start(site: &Site, captured: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let runtime = path("weir-runc");
        std::os::unix::fs::symlink(binary(), &runtime).unwrap();
        // The file that operators get, with this test's names.
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/docker/daemon.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(shipped).unwrap()).unwrap();
        config["runtimes"]["weir"]["path"] = runtime.to_str().unwrap().into();
        config["cgroup-parent"] = format!("/{}/captured", site.id).into();
        std::fs::write(path("daemon.json"), config.to_string()).unwrap();
        let own = if captured { "captured/dockerd" } else { "dockerd" };
        let own = cgroup::mount().unwrap().join(&site.id).join(own);
        cgroup::create(&own).unwrap();
        let join = format!("echo 0 > {}/cgroup.procs && exec dockerd \"$@\"", own.display());
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &join, "dockerd", "--debug", "--config-file"]).arg(path("daemon.json"));
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid"));
        command.arg("--host").arg(format!("unix://{}", path("docker.sock").display()));
        // With its own rules in iptables, as it comes.
        command.args(["--storage-driver", "vfs", "--bridge", BRIDGE]);
        command.env("WEIR_CONFIG", site.path("weir.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut daemon = Self { child, dir, id: site.id.clone() };
        wait_for("dockerd answers", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "dockerd: {}", daemon.log());
            daemon.ask(&["version"]).status.success()
        });
        daemon.import(IMAGE, true);
        daemon.import(BARE, false);
        daemon
    }

    /// Its own socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it has logged, every request among it.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How many requests for a path it has seen; without the version.
    pub fn calls(&self, request: &str) -> usize {
        let (method, path) = request.split_once(' ').unwrap();
        let (start, lines) = (format!("Calling {method} /v"), self.log());
        lines.lines().filter(|line| line.contains(&start) && line.contains(path)).count()
    }

    /// `docker WORDS` of the operator, at dockerd's own socket.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(words).env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.dir.path()).env("DOCKER_BUILDKIT", "0");
        command
    }

    /// Its output, whatever its exit code.
    pub fn ask(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// What it prints; it must succeed.
    pub fn said(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "docker {words:?}: {}\n{}", text(&output), self.tail());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `docker inspect`
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.said(&["inspect", name]);
        let all: Value = serde_json::from_str(&text).unwrap();
        all[0].clone()
    }

    /// The part of a container's id that docker shows.
    pub fn short_id(&self, name: &str) -> String {
        let inspected = self.inspect(name);
        inspected["Id"].as_str().unwrap().chars().take(12).collect()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// `tar | docker import`
    fn import(&self, name: &str, roots: bool) {
        let root = self.path(&format!("image-{name}"));
        image(&root, roots);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        let mut import = self.command(&["import", "-", name]);
        let output = import.stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(tar.wait().unwrap().success() && output.status.success(), "{}", text(&output));
    }
}

/// A root file system with a shell and the host's curl.
fn image(root: &Path, roots: bool) {
    for dir in ["bin", "tmp", "etc/ssl/certs"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "sleep", "grep", "env", "touch", "id", "echo"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::copy("/usr/bin/curl", root.join("bin/curl")).unwrap();
    let output = Command::new("ldd").arg("/usr/bin/curl").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
    if roots {
        let bundle = root.join("etc/ssl/certs/ca-certificates.crt");
        std::fs::copy("/etc/ssl/certs/ca-certificates.crt", bundle).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        #[expect(clippy::print_stderr, reason = "a test that fails shows what dockerd said")]
        if std::thread::panicking() {
            eprintln!("log of dockerd:\n{}", self.tail());
        }
        let all = self.ask(&["ps", "--all", "--quiet"]);
        let all = String::from_utf8_lossy(&all.stdout).into_owned();
        let names: Vec<&str> = all.split_whitespace().collect();
        if !names.is_empty() {
            drop(self.ask(&[&["rm", "--force"], names.as_slice()].concat()));
        }
        signal(self.child.id(), Signal::SIGTERM);
        if !try_wait(|| !matches!(self.child.try_wait(), Ok(None))) {
            drop((self.child.kill(), self.child.wait()));
        }
        // Whatever is left: containerd, shims, containers. These cgroups are this test's own.
        let Ok(mount) = cgroup::mount() else { return };
        for part in ["dockerd", "captured"] {
            let dir = mount.join(&self.id).join(part);
            drop(std::fs::write(dir.join("cgroup.kill"), "1"));
            remove(&dir, 0);
        }
        // Where weir is detached already, nobody else removes it; with cgroups inside it stays.
        drop(cgroup::remove(&mount.join(&self.id)));
        // On hosts with both versions runc makes the same directories in every hierarchy.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            if hierarchy.path() != mount {
                remove(&hierarchy.path().join(&self.id), 0);
            }
        }
    }
}

/// Removes a cgroup and what is below it, as soon as its processes have ended.
fn remove(dir: &Path, depth: usize) {
    if depth > 8 {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path(), depth + 1);
        }
    }
    try_wait(|| !matches!(cgroup::remove(dir), Ok(false)));
}
