//! Who calls `connect(2)`: read synchronously in the hook, so that a process that lives for a
//! millisecond is described as well as any other.
//!
//! - input: the current task; structure offsets patched by the loader
//! - output: the process fields of a [`Record`]
//! - bound: six ancestors, 128 bytes of arguments
//! - on failure: `false`, and the connect is refused; unreadable arguments are only counted
//!
//! Kernel facts: tgid, start time, uid, gid, cgroup, executable, ancestors. The process's own
//! words: comm and argv. `bpf_probe_read_kernel` in these programs needs `CAP_PERFMON` at load.

use weir_ebpf_common::{Counter, MAX_ANCESTORS, MAX_ARGV_BYTES, Record};

use crate::maps::{self, count, offset, read_kernel};

/// Fills the process fields. The thread group leader stands for the process: a worker thread of
/// io_uring has its own name, but the leader's identity.
#[inline(always)]
pub(crate) fn describe(record: &mut Record) -> bool {
    (record.uid, record.gid) = maps::current_uid_gid();
    record.tgid = maps::current_tgid();
    record.cgroup_id = maps::current_cgroup_id();
    let task = maps::current_task();
    maps::current_comm(record)
        && leader_and_ancestors(record, task).is_some()
        && executable_and_arguments(record, task).is_some()
}

#[inline(always)]
fn leader_and_ancestors(record: &mut Record, task: u64) -> Option<()> {
    let mut process: u64 = read_kernel(task + offset!(task_group_leader))?;
    record.start_time_ns = read_kernel(process + offset!(task_start_boottime))?;
    let mut ended = record.tgid <= 1;
    let mut index = 0;
    while index < MAX_ANCESTORS {
        let (mut tgid, mut start_time_ns) = (0, 0);
        if !ended {
            process = read_kernel(process + offset!(task_real_parent))?;
            process = read_kernel(process + offset!(task_group_leader))?;
            tgid = read_kernel(process + offset!(task_tgid))?;
            start_time_ns = read_kernel(process + offset!(task_start_boottime))?;
            ended = tgid <= 1;
        }
        // Written also after the end: the storage may hold an earlier connect's ancestors.
        record.ancestors[index].tgid = tgid;
        record.ancestors[index].start_time_ns = start_time_ns;
        index += 1;
    }
    Some(())
}

#[inline(always)]
fn executable_and_arguments(record: &mut Record, task: u64) -> Option<()> {
    let mm: u64 = read_kernel(task + offset!(task_mm))?;
    let file: u64 = read_kernel(mm + offset!(mm_exe_file))?;
    let inode: u64 = read_kernel(file + offset!(file_f_inode))?;
    record.exe_ino = read_kernel(inode + offset!(inode_i_ino))?;
    let super_block: u64 = read_kernel(inode + offset!(inode_i_sb))?;
    record.exe_dev = read_kernel(super_block + offset!(super_block_s_dev))?;

    let start: u64 = read_kernel(mm + offset!(mm_arg_start))?;
    let end: u64 = read_kernel(mm + offset!(mm_arg_end))?;
    let len = end.saturating_sub(start).min(MAX_ARGV_BYTES as u64) as u32;
    if maps::read_user_argv(record, start, len) {
        record.argv_len = len;
    } else {
        record.argv_len = 0;
        count(Counter::ArgvUnreadable);
    }
    Some(())
}
