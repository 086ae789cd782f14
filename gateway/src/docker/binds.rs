//! Which directories of the host a captured job may mount into a container.
//!
//! - input: the source of a bind mount
//! - output: nothing, or a refusal
//! - bound: one path, its links followed by the kernel
//! - on failure: a refusal
//!
//! This closes the direct ways out of the capture. It does not make Docker safe to give to somebody
//! who must not become root: `docs/docker.md` says why.

use std::path::{Component, Path, PathBuf};

use super::{DockerError, Site, refused};

/// Protected against being mounted, directories above and below included, with the reason.
pub const PROTECTED: [(&str, &str); 15] = [
    ("/bin", "programs of the host"),
    ("/boot", "programs of the host"),
    ("/dev", "devices"),
    ("/etc", "the host's configuration"),
    ("/lib", "programs of the host"),
    ("/lib64", "programs of the host"),
    ("/proc", "the host's processes"),
    ("/root", "root's own files"),
    ("/run", "sockets of the host's services"),
    ("/sbin", "programs of the host"),
    ("/sys", "cgroups, devices, pinned programs"),
    ("/usr", "programs of the host"),
    ("/var/lib", "state of the host's services"),
    ("/var/run", "sockets of the host's services"),
    ("/var/spool", "what the host runs later"),
];

/// Checks the source of a bind mount.
///
/// # Errors
/// [`DockerError::Refused`] with the protected path.
pub fn check(source: &str, site: &Site) -> Result<(), DockerError> {
    let plain = Path::new(source).components().all(|component| {
        matches!(component, Component::RootDir | Component::Normal(_) | Component::CurDir)
    });
    if !source.starts_with('/') || !plain {
        return Err(refused(format!("bind of {source:?}: not an absolute path without dots")));
    }
    let given: PathBuf = Path::new(source).components().collect();
    let real = match std::fs::canonicalize(&given) {
        Ok(real) => real,
        // dockerd makes a directory that is missing; a link above it may lead anywhere.
        Err(_) => real_parent(&given),
    };
    // The socket of this proxy is what a container is meant to get.
    let listen = std::fs::canonicalize(&site.listen).unwrap_or_else(|_| site.listen.clone());
    if real == listen {
        return Ok(());
    }
    for path in [&given, &real] {
        if let Some((protected, why)) = conflict(path, site) {
            let (shown, protected) = (path.display(), protected.display());
            return Err(refused(format!("bind of {shown}: would expose {protected} ({why})")));
        }
    }
    Ok(())
}

fn real_parent(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|dir| Some((dir, std::fs::canonicalize(dir).ok()?)));
    match existing {
        Some((dir, real)) => real.join(path.strip_prefix(dir).unwrap_or(path)),
        None => path.to_owned(),
    }
}

fn conflict(path: &Path, site: &Site) -> Option<(PathBuf, &'static str)> {
    let fixed = PROTECTED.iter().map(|(protected, why)| (PathBuf::from(protected), *why));
    let own = site.protect.iter().chain([&site.upstream]);
    let own = own.map(|protected| (protected.clone(), "protected by weir's configuration"));
    let own_real = own
        .clone()
        .map(|(protected, why)| (std::fs::canonicalize(&protected).unwrap_or(protected), why));
    let mut all = fixed.chain(own).chain(own_real);
    all.find(|(protected, _)| path.starts_with(protected) || protected.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(dir: &Path) -> Site {
        Site {
            listen: dir.join("weir/docker.sock"),
            upstream: dir.join("docker.sock"),
            captured: "weir/captured".into(),
            protect: vec![dir.join("weir")],
        }
    }

    #[test]
    fn what_leads_out_of_the_capture_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        std::fs::create_dir(dir.path().join("weir")).unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        for file in [&site.listen, &site.upstream, &dir.path().join("weir/ca.key")] {
            std::fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink("/sys/fs", dir.path().join("work/link")).unwrap();
        let work = dir.path().join("work").display().to_string();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (protected, _) in PROTECTED {
            assert!(check(protected, &site).is_err(), "{protected}");
            assert!(check(&format!("{protected}/below"), &site).is_err(), "{protected}");
        }
        for bad in [
            "/".to_owned(),
            "//".to_owned(),
            "/./".to_owned(),
            "/var".to_owned(),
            "relative".to_owned(),
            format!("{work}/../../etc"),
            at("docker.sock"),
            at("weir"),
            at("weir/ca.key"),
            dir.path().display().to_string(),
            format!("{work}/link"),
            format!("{work}/link/cgroup"),
            format!("{work}/link/not-there"),
        ] {
            assert!(check(&bad, &site).is_err(), "{bad}");
        }
        for good in [work.clone(), format!("{work}/not-there"), at("weir/docker.sock")] {
            check(&good, &site).unwrap();
        }
    }
}
