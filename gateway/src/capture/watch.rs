//! The watching programs: tracepoints of the whole host that tell what happens to the captured
//! cgroup, and refuse nothing.
//!
//! - input: the loaded object; processes of the captured cgroup
//! - output: pinned links; entries of map `CAPTURED`
//! - bound: [`MAX_MEMBERS`] processes found at attach
//! - on failure: a reason; capture goes on without this layer

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::HashMap;
use aya::{Btf, Ebpf};
use weir_ebpf_common::event::{JOB_BYTES, Member};

use super::maps::bpf;
use super::{cgroup, programs};

/// Program and tracepoint.
const PROGRAMS: [(&str, &str); 3] = [
    ("weir_forked", "sched_process_fork"),
    ("weir_moved", "cgroup_attach_task"),
    ("weir_state", "inet_sock_set_state"),
];
/// Processes that are noted at attach; the map holds as many.
const MAX_MEMBERS: usize = 16_384;

/// Pins of the links.
pub(super) fn pins() -> Vec<&'static str> {
    PROGRAMS.iter().map(|(program, _)| *program).collect()
}

/// Attaches the tracepoints, if the kernel has them.
pub(super) fn attach(object: &mut Ebpf, pin_dir: &Path) -> Result<(), String> {
    let btf = Btf::from_sys_fs().map_err(|error| bpf(String::new(), &error).to_string())?;
    for one in PROGRAMS {
        if let Err(reason) = programs::attach_tracepoint(object, one, &btf, pin_dir) {
            // All of them or none: half a layer would be reported as a whole one.
            for pin in pins() {
                drop(std::fs::remove_file(pin_dir.join(pin)));
            }
            return Err(reason);
        }
    }
    Ok(())
}

/// Notes who is inside already. Comes after [`attach`], so that nobody slips in between.
pub(super) fn note_members(object: &mut Ebpf, captured: &Path) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let map = object.map_mut("CAPTURED").ok_or_else(|| text(&programs::absent("CAPTURED")))?;
    let mut map = HashMap::<_, u32, Member>::try_from(map).map_err(|error| text(&error))?;
    let members = cgroup::processes_below(captured, MAX_MEMBERS).map_err(|error| text(&error))?;
    for (pid, cgroup, dir) in members {
        // A process that has ended meanwhile needs no note.
        let Some(start_ticks) = start_ticks(pid) else { continue };
        let member = Member { start_ticks, cgroup_id: cgroup.0, job: job(captured, &dir) };
        map.insert(pid, member, 0).map_err(|error| text(&error))?;
    }
    Ok(())
}

/// Name of the job that a cgroup belongs to, as the programs note it.
fn job(captured: &Path, dir: &Path) -> [u8; JOB_BYTES] {
    let first = dir.strip_prefix(captured).ok().and_then(|below| below.components().next());
    let name = first.map(|name| name.as_os_str().as_bytes()).unwrap_or_default();
    let mut padded = [0; JOB_BYTES];
    for (to, byte) in padded.iter_mut().zip(name.iter().take(JOB_BYTES - 1)) {
        *to = *byte;
    }
    padded
}

/// Start of a process in clock ticks since boot: field 22 of proc_pid_stat(5).
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; field 22 is the twentieth after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_what_is_right_below() {
        let root = Path::new("/cg/captured");
        let name = |dir: &str| {
            let job = job(root, Path::new(dir));
            String::from_utf8(job.into_iter().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        assert_eq!(name("/cg/captured"), "");
        assert_eq!(name("/cg/captured/job"), "job");
        assert_eq!(name("/cg/captured/job/deep"), "job");
        let long = "x".repeat(300);
        assert_eq!(name(&format!("/cg/captured/{long}")).len(), JOB_BYTES - 1);
    }

    #[test]
    fn the_own_start_is_known() {
        assert!(start_ticks(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
