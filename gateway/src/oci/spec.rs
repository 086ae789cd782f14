//! `config.json` of a bundle: reads, edits and replaces it.
//!
//! - input: the file, and [`Changes`]
//! - output: the same file with exactly these changes; unknown members stay as they are
//! - bound: [`MAX_SPEC_BYTES`]
//! - on failure: [`OciError`]; the file is as it was

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::OciError;

/// Largest file that is read. Specifications that docker writes have some 20 KiB.
pub const MAX_SPEC_BYTES: u64 = 4 * 1024 * 1024;

/// What weir changes in a container, and the whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `linux.cgroupsPath`.
    pub cgroups_path: String,
    /// Read-only bind mounts, after all others: host path, path in the container.
    pub mounts: Vec<(String, String)>,
    /// For every process of the container.
    pub process: ProcessChanges,
}

/// What weir changes in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessChanges {
    /// Environment variables that are added where the image does not set them.
    pub variables: Vec<(String, String)>,
    /// Takes `CAP_NET_RAW` away: a packet socket is not seen by the hooks of a cgroup.
    pub without_net_raw: bool,
}

/// Reads a JSON file of a bundle.
///
/// # Errors
/// [`OciError::Io`], or [`OciError::Malformed`] when it is no object or too large.
pub fn read(path: &Path) -> Result<Map<String, Value>, OciError> {
    let io = |source| OciError::Io { action: "reading", path: path.to_owned(), source };
    let malformed = |what: String| OciError::Malformed { path: path.to_owned(), what };
    let mut data = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_SPEC_BYTES + 1).read_to_end(&mut data).map_err(io)?;
    if data.len() as u64 > MAX_SPEC_BYTES {
        return Err(malformed(format!("larger than {MAX_SPEC_BYTES} bytes")));
    }
    serde_json::from_slice(&data).map_err(|error| malformed(error.to_string()))
}

/// Replaces a JSON file of a bundle: a runtime sees the old one or the new one.
///
/// # Errors
/// [`OciError::Io`]
pub fn write(path: &Path, spec: &Map<String, Value>) -> Result<(), OciError> {
    let io = |source| OciError::Io { action: "writing", path: path.to_owned(), source };
    let text = serde_json::to_vec(spec).map_err(|error| io(error.into()))?;
    let new = path.with_extension("json.weir");
    // `exec` has its file in a directory that everybody may write to: no link is followed.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
    file.write_all(&text).map_err(io)?;
    let mode = std::fs::metadata(path).map_err(io)?.permissions();
    file.set_permissions(mode).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)
}

/// Makes the changes.
///
/// # Errors
/// What is not as the specification says.
pub fn edit(spec: &mut Map<String, Value>, changes: &Changes) -> Result<(), String> {
    let linux = object(spec, "linux")?;
    linux.insert("cgroupsPath".into(), Value::from(changes.cgroups_path.clone()));
    let mounts = spec.entry("mounts").or_insert_with(|| json!([]));
    let mounts = mounts.as_array_mut().ok_or("mounts is no array")?;
    mounts.extend(changes.mounts.iter().map(|(from, to)| {
        json!({
            "destination": to, "type": "bind", "source": from,
            "options": ["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"],
        })
    }));
    match spec.get_mut("process") {
        // A container without a process is made, too: the runtime says what it thinks of that.
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(process)) => edit_process(process, &changes.process),
        Some(_) => Err("process is no object".into()),
    }
}

/// Makes the changes of one process: that of the specification, or of `exec`.
///
/// # Errors
/// What is not as the specification says.
pub fn edit_process(
    process: &mut Map<String, Value>,
    changes: &ProcessChanges,
) -> Result<(), String> {
    let env = process.entry("env").or_insert_with(|| json!([]));
    if env.is_null() {
        *env = json!([]);
    }
    let env = env.as_array_mut().ok_or("process.env is no array")?;
    for (name, value) in &changes.variables {
        let set = env.iter().filter_map(Value::as_str);
        let mut set = set.filter_map(|entry| entry.split('=').next());
        if !set.any(|other| other == name) {
            env.push(Value::from(format!("{name}={value}")));
        }
    }
    if !changes.without_net_raw {
        return Ok(());
    }
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else {
        // None at all.
        return Ok(());
    };
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|name| {
            !name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("CAP_NET_RAW"))
        });
    }
    Ok(())
}

fn object<'a>(
    parent: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>, String> {
    let value = parent.entry(name).or_insert_with(|| json!({}));
    value.as_object_mut().ok_or_else(|| format!("{name} is no object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Changes {
        Changes {
            cgroups_path: "/w/c/job/x".into(),
            mounts: vec![("/ca/bundle.pem".into(), "/dev/weir/bundle.pem".into())],
            process: ProcessChanges {
                variables: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
                without_net_raw: true,
            },
        }
    }

    #[test]
    fn exactly_these_members_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let before = json!({
            "ociVersion": "1.0.2", "x": {"y": [1, 2.5, null]},
            "process": {"env": ["PATH=/bin", "A=own"], "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"]}},
            "mounts": [{"destination": "/proc"}],
            "linux": {"cgroupsPath": "/docker/x", "namespaces": [{"type": "network"}]},
        });
        std::fs::write(&path, before.to_string()).unwrap();
        // What somebody left in the way is not written through.
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, path.with_extension("json.weir")).unwrap();
        let mut spec = read(&path).unwrap();
        edit(&mut spec, &changes()).unwrap();
        write(&path, &spec).unwrap();
        let mut after: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(after["process"]["env"], json!(["PATH=/bin", "A=own", "B=2"]));
        assert_eq!(
            after["process"]["capabilities"],
            json!({"bounding": ["CAP_CHOWN"], "permitted": []})
        );
        assert_eq!(after["linux"]["cgroupsPath"], "/w/c/job/x");
        assert_eq!(after["mounts"][1]["destination"], "/dev/weir/bundle.pem");
        assert_eq!(after["mounts"].as_array().unwrap().len(), 2);
        for pointer in ["/process/env", "/process/capabilities", "/linux/cgroupsPath", "/mounts"] {
            *after.pointer_mut(pointer).unwrap() = before.pointer(pointer).unwrap().clone();
        }
        assert_eq!(after, before);
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no other file is left");
    }

    #[test]
    fn nonsense_is_an_error_and_large_files_are_not_read() {
        for text in ["[]", "{", "", "7"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            std::fs::write(&path, text).unwrap();
            assert!(matches!(read(&path), Err(OciError::Malformed { .. })), "{text}");
        }
        for text in [r#"{"linux":1}"#, r#"{"mounts":{}}"#, r#"{"process":3}"#] {
            let mut spec = serde_json::from_str(text).unwrap();
            assert!(edit(&mut spec, &changes()).is_err(), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(MAX_SPEC_BYTES + 1).unwrap();
        assert!(matches!(read(&path), Err(OciError::Malformed { .. })));
    }
}
