//! The programs at fork and exit that keep job anchors (`ebpf/src/anchor.rs`).
//!
//! - input: the loaded object, a pin directory
//! - output: pinned links, each under its program's name
//! - bound: two programs, for every process of the host
//! - on failure: a reason; without them anchors fall back to cgroups and sessions

use std::path::Path;

use aya::programs::Program;
use aya::{Btf, Ebpf};

use super::maps::bpf;
use super::programs::{absent, program, program_fd};
use super::syscall::{self, Target};

/// Program and tracepoint. Exits come first: an entry that nobody removes is only clutter, but it
/// is better not made.
const PROGRAMS: [(&str, &str); 2] =
    [("weir_exit", "sched_process_exit"), ("weir_fork", "sched_wakeup_new")];
/// `BPF_TRACE_RAW_TP`.
const RAW_TRACEPOINT: u32 = 23;

/// Pins of the links.
pub(super) fn pins() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(program, _)| program)
}

/// Attaches both programs. Those of an earlier attach run until these do: links of tracepoints
/// cannot be updated, and a fork that both see is the same to both.
pub(super) fn attach(object: &mut Ebpf, pin_dir: &Path) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| bpf(String::new(), error).detail();
    let btf = Btf::from_sys_fs().map_err(|error| text(&error))?;
    for (name, tracepoint) in PROGRAMS {
        match program(object, name).map_err(|error| error.to_string())? {
            Program::BtfTracePoint(program) => {
                program.load(tracepoint, &btf).map_err(|error| text(&error))?;
            }
            _ => return Err(absent(name).to_string()),
        }
    }
    for (name, _) in PROGRAMS {
        let program = program_fd(object, name).map_err(|error| error.to_string())?;
        let (pin, new) = (pin_dir.join(name), pin_dir.join(format!("{name}-new")));
        // Left by an attach that was interrupted.
        drop(std::fs::remove_file(&new));
        let attached = syscall::link_create(program, Target::Whole, RAW_TRACEPOINT)
            .and_then(|link| syscall::pin(std::os::fd::AsFd::as_fd(&link), &new))
            .and_then(|()| std::fs::rename(&new, &pin));
        if let Err(error) = attached {
            // Forks without exits would fill the map.
            for name in pins() {
                drop(std::fs::remove_file(pin_dir.join(name)));
            }
            return Err(format!("attaching {name}: {error}"));
        }
    }
    Ok(())
}
