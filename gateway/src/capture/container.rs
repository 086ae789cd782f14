//! Containers, by the names that their runtimes give to cgroups.
//!
//! - input: a cgroup path from the root of the hierarchy
//! - output: [`Container`]
//! - bound: none; a pure function on a short text
//! - on failure: `None`: not in a container, or in one of a runtime that names it otherwise
//!
//! The outermost container counts: what is below its cgroup, a privileged container may have named
//! itself. Below `user@UID.service` a user may make any name: ask the runtime before an identity
//! rests on it.

/// Hexadecimal digits of a container id, with every runtime here.
const ID_DIGITS: usize = 64;

/// Who made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// Podman and other users of libpod.
    Podman,
    /// CRI-O.
    CriO,
    /// containerd, through Kubernetes or nerdctl.
    Containerd,
    /// The path has an id and nothing else.
    Unknown,
}

/// A container's name in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Container<'a> {
    /// 64 lower-case hexadecimal digits.
    pub id: &'a str,
    /// Whose name it is.
    pub runtime: Runtime,
}

/// Prefixes of scopes and directories. Those of monitors (`libpod-conmon-`, `crio-conmon-`) are
/// none: a monitor runs on the host.
const PREFIXES: [(&str, Runtime); 5] = [
    ("docker-", Runtime::Docker),
    ("libpod-", Runtime::Podman),
    ("crio-", Runtime::CriO),
    ("cri-containerd-", Runtime::Containerd),
    ("nerdctl-", Runtime::Containerd),
];

/// The outermost container of a path, in the forms of systemd and of cgroupfs.
pub fn container_id(path: &str) -> Option<Container<'_>> {
    let mut parent = "";
    for part in path.split('/') {
        if let Some(found) = named(part, parent) {
            return Some(found);
        }
        parent = part;
    }
    None
}

fn named<'a>(part: &'a str, parent: &str) -> Option<Container<'a>> {
    // containerd with cgroupfs below a slice: `kubepods-pod1.slice:cri-containerd:ID`
    if let Some((_, rest)) = part.split_once(":cri-containerd:") {
        return is_id(rest).then_some(Container { id: rest, runtime: Runtime::Containerd });
    }
    let part = part.strip_suffix(".scope").unwrap_or(part);
    if is_id(part) {
        let runtime = match parent {
            "docker" => Runtime::Docker,
            "libpod_parent" => Runtime::Podman,
            _ => Runtime::Unknown,
        };
        return Some(Container { id: part, runtime });
    }
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = part.strip_prefix(prefix).filter(|id| is_id(id))?;
        Some(Container { id, runtime: *runtime })
    })
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "4f1c9d0e6b7a8c5d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d";
    const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
    const POD: &str = "3f2a51c4-7b1e-4c1e-9d0a-6b0f5f0a1c2d";
    const POD_SLICE: &str = "3f2a51c4_7b1e_4c1e_9d0a_6b0f5f0a1c2d";

    #[test]
    fn paths_of_every_runtime() {
        let burst = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_SLICE}.slice"
        );
        let user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
        let compact = format!("/system.slice/containerd.service/kubepods-pod{POD_SLICE}.slice");
        for (path, runtime) in [
            (format!("/system.slice/docker-{ID}.scope"), Runtime::Docker),
            (format!("/docker/{ID}"), Runtime::Docker),
            (format!("/docker/{ID}/init"), Runtime::Docker),
            (format!("/weir.slice/docker-{ID}.scope"), Runtime::Docker),
            (format!("/weir/captured/{ID}"), Runtime::Unknown),
            (format!("/machine.slice/libpod-{ID}.scope"), Runtime::Podman),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Runtime::Podman),
            (format!("{user}/libpod-{ID}.scope/container"), Runtime::Podman),
            (format!("/libpod_parent/libpod-{ID}"), Runtime::Podman),
            (format!("/libpod_parent/{ID}"), Runtime::Podman),
            (format!("{burst}/crio-{ID}.scope"), Runtime::CriO),
            (format!("/kubepods/burstable/pod{POD}/crio-{ID}"), Runtime::CriO),
            (format!("{burst}/cri-containerd-{ID}.scope"), Runtime::Containerd),
            (format!("{compact}:cri-containerd:{ID}"), Runtime::Containerd),
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), Runtime::Unknown),
            (format!("/system.slice/nerdctl-{ID}.scope"), Runtime::Containerd),
            (format!("/default/{ID}"), Runtime::Unknown),
            // Docker in Docker: the host knows the outer one.
            (format!("/docker/{ID}/docker/{OTHER}"), Runtime::Docker),
            (format!("/system.slice/docker-{ID}.scope/kubepods/pod{POD}/{OTHER}"), Runtime::Docker),
        ] {
            assert_eq!(container_id(&path), Some(Container { id: ID, runtime }), "{path}");
        }
    }

    #[test]
    fn other_paths_are_no_containers() {
        let short = ID.trim_end_matches('d');
        let upper = ID.to_uppercase();
        for path in [
            String::new(),
            "/".into(),
            "/system.slice/docker.service".into(),
            "/system.slice/containerd.service".into(),
            "/user.slice/user-1000.slice/session-3.scope".into(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            format!("/docker/{short}"),
            format!("/docker/{ID}0"),
            format!("/docker/{upper}"),
            format!("/docker/{ID}.service"),
            format!("/x:cri-containerd:{short}"),
            format!("/kubepods/burstable/pod{POD}"),
        ] {
            assert_eq!(container_id(&path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_an_id_of_the_path(path in "[a-f0-9/:.-]{0,200}") {
            if let Some(found) = container_id(&path) {
                prop_assert!(is_id(found.id) && path.contains(found.id));
            }
        }
    }
}
