//! Which cgroup a container gets: one below the captured cgroup, always.
//!
//! - input: `linux.cgroupsPath` of the bundle, the captured cgroup
//! - output: the path to write
//! - bound: one string
//! - on failure: [`OciError::Uncaptured`] where systemd makes the cgroup and would make it elsewhere

use std::path::{Component, Path, PathBuf};

use super::OciError;

/// Characters of a container's id in a name: what docker shows, too.
const SHORT: usize = 12;

/// The value of `linux.cgroupsPath` for a container.
///
/// A path at least two levels below the captured cgroup is kept: the first level is the job that
/// the container belongs to. Anything else becomes a job of its own, `container-ID`.
///
/// # Errors
/// [`OciError::Uncaptured`] for a systemd slice outside of the captured cgroup: only systemd can
/// say what a slice is, so it is not replaced by another.
pub fn cgroups_path(
    captured: &Path,
    given: Option<&str>,
    systemd: bool,
    id: &str,
) -> Result<String, OciError> {
    if systemd {
        return slice_inside(captured, given.unwrap_or_default());
    }
    let root = Path::new("/").join(captured);
    let inside = |path: &&str| {
        let path = Path::new(path);
        let plain =
            path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        let below = path.strip_prefix(&root).map_or(0, |rest| rest.components().count());
        plain && below >= 2
    };
    match given.filter(inside) {
        Some(path) => Ok(path.to_owned()),
        None => Ok(root.join(name_of(id)).to_string_lossy().into_owned()),
    }
}

/// `container-` and the id, which is cut where it is the usual random one.
pub fn name_of(id: &str) -> String {
    let random = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = if random { id.get(..SHORT).unwrap_or(id) } else { id };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    format!("container-{}", shown.replace(|c| !plain(c), "_"))
}

fn slice_inside(captured: &Path, given: &str) -> Result<String, OciError> {
    let slice = given.split(':').next().unwrap_or_default();
    let dir = slice_path(slice);
    if dir.as_ref().is_some_and(|dir| dir.starts_with(captured)) {
        return Ok(given.to_owned());
    }
    let shown = captured.display();
    Err(OciError::Uncaptured(format!(
        "systemd would put the container into {slice:?}, which is not below the captured cgroup \
         {shown}: give a slice there as cgroup parent, or use the cgroupfs driver"
    )))
}

/// `a-b.slice` is `a.slice/a-b.slice`: systemd.slice(5).
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty())?;
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    let parts = ends.map(|end| name.get(..end).filter(|part| !part.is_empty()));
    parts.map(|part| part.map(|part| format!("{part}.slice"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn placed(given: Option<&str>) -> String {
        cgroups_path(Path::new("weir/captured"), given, false, ID).unwrap()
    }

    #[test]
    fn a_containers_cgroup_is_below_the_captured_one() {
        let own = "/weir/captured/container-0123456789ab";
        assert_eq!(placed(Some("/weir/captured/job/x")), "/weir/captured/job/x");
        assert_eq!(placed(Some("/weir/captured/job/a/x")), "/weir/captured/job/a/x");
        for given in [
            None,
            Some(""),
            Some("/docker/x"),
            Some("/weir/captured"),
            Some("/weir/captured/x"),
            Some("/weir/captured/job/../../x"),
            Some("weir/captured/job/x"),
            Some("/weir/captured2/job/x"),
        ] {
            assert_eq!(placed(given), own, "{given:?}");
        }
        assert_eq!(name_of("my/box.1"), "container-my_box.1");
    }

    #[test]
    fn a_slice_elsewhere_is_refused() {
        let captured = Path::new("weir.slice/weir-captured.slice");
        let ask = |given| cgroups_path(captured, Some(given), true, ID);
        for good in ["weir-captured.slice:docker:x", "weir-captured-job.slice:docker:x"] {
            assert_eq!(ask(good).unwrap(), good);
        }
        for bad in ["", "system.slice:docker:x", "weir.slice:docker:x", "-.slice:a:b", "a--b.slice"]
        {
            assert!(matches!(ask(bad), Err(OciError::Uncaptured(_))), "{bad}");
        }
    }
}
