//! Control groups (version 2): finds the mount, makes, names, joins and removes directories.
//!
//! - input: `/proc/self/mountinfo` and cgroupfs
//! - output: directories and [`CgroupId`]s
//! - bound: [`MAX_DIRECTORIES`] looked at per search, [`MAX_DEPTH`] deep
//! - on failure: [`CaptureError::Io`] or [`CaptureError::Unsupported`]

use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{CaptureError, CgroupId};

/// Directories that [`name_of`] looks at before it gives up.
pub const MAX_DIRECTORIES: usize = 20_000;
/// Levels that [`name_of`] descends.
pub const MAX_DEPTH: usize = 32;
const MAX_MOUNTINFO_BYTES: u64 = 4 * 1024 * 1024;

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `unified` below it on hybrid hosts.
///
/// # Errors
/// [`CaptureError::Unsupported`] when it is not mounted.
pub fn mount() -> Result<PathBuf, CaptureError> {
    let path = "/proc/self/mountinfo";
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_MOUNTINFO_BYTES).read_to_end(&mut text))
        .map_err(|source| CaptureError::Io { action: format!("reading {path}"), source })?;
    find_mount(&text).ok_or_else(|| CaptureError::Unsupported("cgroup2 is not mounted".into()))
}

/// A mount of the whole hierarchy is preferred to one of a part of it.
fn find_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut part = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        // After a variable number of optional fields comes "-", then the file system's type.
        let mut after = fields.iter().skip_while(|field| **field != b"-").skip(1);
        let (Some(root), Some(point), Some(kind)) = (fields.get(3), fields.get(4), after.next())
        else {
            continue;
        };
        if *kind != b"cgroup2" {
            continue;
        }
        let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(point)));
        if *root == b"/" {
            return Some(point);
        }
        part = part.or(Some(point));
    }
    part
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The id of a cgroup: its directory's inode number.
///
/// # Errors
/// [`CaptureError::Io`] when it does not exist.
pub fn id(dir: &Path) -> Result<CgroupId, CaptureError> {
    std::fs::metadata(dir)
        .map(|metadata| CgroupId(metadata.ino()))
        .map_err(|source| io("reading cgroup", dir, source))
}

/// Makes a cgroup and its missing parents. Answers those it made, outermost first.
///
/// # Errors
/// [`CaptureError::Io`]; what was made before the failure is removed again.
pub fn create(dir: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let missing: Vec<PathBuf> =
        dir.ancestors().take_while(|level| !level.exists()).map(Path::to_owned).collect();
    let mut made = Vec::new();
    for level in missing.into_iter().rev() {
        match std::fs::create_dir(&level) {
            Ok(()) => made.push(level),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => {
                let error = io("making cgroup", &level, source);
                for level in made.iter().rev() {
                    // The first failure is the one to report.
                    drop(remove(level));
                }
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// Removes a cgroup. Answers `false` when it still has processes or children.
///
/// # Errors
/// [`CaptureError::Io`] for any other reason than being in use; a missing one is removed already.
pub fn remove(dir: &Path) -> Result<bool, CaptureError> {
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(true),
            ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty => Ok(false),
            _ => Err(io("removing cgroup", dir, error)),
        },
    }
}

/// Moves a process, or with `None` the calling one, into a cgroup. Sockets that it already has
/// keep the cgroup they were made in.
///
/// # Errors
/// [`CaptureError::Io`]
pub fn join(dir: &Path, pid: Option<u32>) -> Result<(), CaptureError> {
    std::fs::write(dir.join("cgroup.procs"), pid.unwrap_or(0).to_string())
        .map_err(|source| io("joining cgroup", dir, source))
}

/// The directory of a cgroup, found by walking breadth-first below `root`.
///
/// `None` when it is gone, outside `root`, or beyond the bounds of the search.
pub fn name_of(root: &Path, id: CgroupId) -> Option<PathBuf> {
    let mut pending = std::collections::VecDeque::from([(root.to_owned(), 0_usize)]);
    let mut left = MAX_DIRECTORIES;
    while let Some((dir, depth)) = pending.pop_front() {
        left = left.checked_sub(1)?;
        if std::fs::metadata(&dir).is_ok_and(|metadata| metadata.ino() == id.0) {
            return Some(dir);
        }
        if depth == MAX_DEPTH {
            continue;
        }
        // A directory may vanish while we walk; its processes are gone then, too.
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if pending.len() < MAX_DIRECTORIES && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                pending.push_back((entry.path(), depth + 1));
            }
        }
    }
    None
}

/// Processes of a cgroup and everything below it, each with its cgroup and the cgroup's directory; at
/// most `max`.
///
/// # Errors
/// [`CaptureError::Io`] when the cgroup itself cannot be read.
pub fn processes_below(
    root: &Path,
    max: usize,
) -> Result<Vec<(u32, CgroupId, PathBuf)>, CaptureError> {
    id(root)?;
    let mut found = Vec::new();
    for (dir, cgroup) in below(root) {
        // Threaded cgroups have no such list; their processes are in that of their domain.
        let list = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            list.lines().filter_map(|line| Some((line.parse().ok()?, cgroup, dir.clone()))),
        );
    }
    found.truncate(max);
    Ok(found)
}

/// Ids of a cgroup and everything below it, as far as the bounds of the search reach.
pub fn ids_below(root: &Path) -> std::collections::BTreeSet<u64> {
    below(root).into_iter().map(|(_, id)| id.0).collect()
}

fn below(root: &Path) -> Vec<(PathBuf, CgroupId)> {
    let mut found = Vec::new();
    let mut pending = vec![(root.to_owned(), 0_usize)];
    while let Some((dir, depth)) = pending.pop() {
        if found.len() == MAX_DIRECTORIES {
            break;
        }
        if depth < MAX_DEPTH {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if pending.len() < MAX_DIRECTORIES
                    && entry.file_type().is_ok_and(|kind| kind.is_dir())
                {
                    pending.push((entry.path(), depth + 1));
                }
            }
        }
        if let Ok(id) = id(&dir) {
            found.push((dir, id));
        }
    }
    found
}

fn io(action: &str, path: &Path, source: std::io::Error) -> CaptureError {
    CaptureError::Io { action: format!("{action} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_preferred() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 /a /mnt/part rw shared:7 - cgroup2 cgroup2 rw\n\
            42 31 0:38 / /sys/fs/cgroup/uni\\040fied rw shared:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        let only_part = b"41 31 0:38 /a /mnt/part rw - cgroup2 none rw\n";
        assert_eq!(find_mount(only_part), Some("/mnt/part".into()));
    }

    #[test]
    fn absent_or_malformed_mounts_are_no_mount() {
        for text in [&b""[..], b"-", b"- cgroup2", b"1 2 3 4 5 6\n", b"a - cgroup2", b"\\\n - x"] {
            assert_eq!(find_mount(text), None);
        }
        assert_eq!(unescape(br"a\040b\9\134"), br"a b\9\".to_vec());
        assert_eq!(unescape(br"\777\04"), br"\777\04".to_vec());
    }

    #[test]
    fn directories_are_made_named_and_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a/b/c");
        let made = create(&dir).unwrap();
        assert_eq!(made, ["a", "a/b", "a/b/c"].map(|level| tmp.path().join(level)));
        assert_eq!(create(&dir).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(name_of(tmp.path(), id(&dir).unwrap()), Some(dir.clone()));
        let all: Vec<u64> = made.iter().map(|level| id(level).unwrap().0).collect();
        assert_eq!(ids_below(&made[0]), all.into_iter().collect());
        assert!(!remove(&made[0]).unwrap(), "not empty");
        for level in made.iter().rev() {
            assert!(remove(level).unwrap());
        }
        assert!(remove(&dir).unwrap(), "gone already");
        assert_eq!(name_of(tmp.path(), CgroupId(u64::MAX)), None);
    }
}
