//! Where a container finds weir's CA.
//!
//! - input: the bundle file, the container's root file system
//! - output: mounts and environment variables
//! - bound: [`PLACES`] looked at
//! - on failure: a place that cannot be looked at is left alone; the variables still name the bundle
//!
//! The CA's directory also holds its key and is never mounted: only two files of it are.

use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Directory for the bundle in a container. `/dev` is a file system in memory in every container
/// that docker or podman make, so that nothing of this gets into an image that is committed.
pub const DIR: &str = "/dev/weir";

/// Where programs that read no variable look: Debian, Alpine and Arch; Alpine and BSD; Red Hat, three
/// names; SUSE, two names.
pub const PLACES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// Mounts as host path and container path. `system` adds those of [`PLACES`] that exist: over one
/// that does not, the runtime would leave an empty file in the image.
pub fn mounts(bundle: &Path, ca: &Path, root: &Path, system: bool) -> Vec<(String, String)> {
    let bundle = bundle.to_string_lossy();
    let mut all = vec![
        (bundle.clone().into_owned(), format!("{DIR}/bundle.pem")),
        (ca.to_string_lossy().into_owned(), format!("{DIR}/ca.pem")),
    ];
    let places = PLACES.iter().filter(|place| system && is_file_below(root, place));
    all.extend(places.map(|place| (bundle.clone().into_owned(), (*place).to_owned())));
    all
}

/// Whether a path leads to a regular file, its links followed as the container would: the image is
/// not trusted, and a link must not lead out of it.
fn is_file_below(root: &Path, place: &str) -> bool {
    let how = OpenHow::new().flags(OFlag::O_PATH).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let Ok(root) = nix::fcntl::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) else {
        return false;
    };
    let found = openat2(&root, place, how).and_then(fstat);
    found
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_places_that_the_image_has_are_covered() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc/ssl/certs")).unwrap();
        std::fs::create_dir_all(root.join("etc/pki/tls/certs")).unwrap();
        std::fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), "x").unwrap();
        // As Alpine has it: seen from the host this link leads out of the image, to nothing.
        symlink("/etc/ssl/certs/ca-certificates.crt", root.join("etc/ssl/cert.pem")).unwrap();
        // A file of the host that the image has not.
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "x").unwrap();
        symlink(&outside, root.join("etc/pki/tls/certs/ca-bundle.crt")).unwrap();
        symlink("../../outside", root.join("etc/ssl/ca-bundle.pem")).unwrap();
        let (bundle, ca) = (Path::new("/ca/bundle.pem"), Path::new("/ca/ca.pem"));
        let to: Vec<String> =
            mounts(bundle, ca, &root, true).into_iter().map(|(_, to)| to).collect();
        assert_eq!(
            to,
            [
                "/dev/weir/bundle.pem",
                "/dev/weir/ca.pem",
                "/etc/ssl/certs/ca-certificates.crt",
                "/etc/ssl/cert.pem"
            ]
        );
        assert_eq!(mounts(bundle, ca, &root, false).len(), 2);
        let none = mounts(bundle, ca, Path::new("/does/not/exist"), true);
        assert_eq!(none.len(), 2);
        assert!(none.iter().all(|(from, _)| !from.ends_with("key") && from != "/ca"));
    }
}
