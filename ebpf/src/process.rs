//! Who calls `connect(2)`: read synchronously in the hook, so that a process that lives for a
//! millisecond is described as well as any other.
//!
//! - input: the current task; structure offsets patched by the loader
//! - output: the process fields of a [`Record`]
//! - bound: six ancestors, 128 bytes of arguments
//! - on failure: `false`, and the connect is refused; unreadable arguments are only counted
//!
//! Kernel facts: tgid, start time, uid, gid, cgroup, executable, ancestors, anchor. The process's own
//! words: comm and argv. `bpf_probe_read_kernel` in these programs needs `CAP_PERFMON` at load.

use weir_ebpf_common::{Counter, MAX_ANCESTORS, MAX_ARGV_BYTES, Record};

use crate::anchor;
use crate::maps::{self, count, lsm_offset, offset, read_kernel};

/// Fills the process fields. The thread group leader stands for the process: a worker thread of
/// io_uring has its own name, but the leader's identity.
#[inline(always)]
pub(crate) fn describe(record: &mut Record) -> bool {
    (record.uid, record.gid) = maps::current_uid_gid();
    record.tgid = maps::current_tgid();
    record.cgroup_id = maps::current_cgroup_id();
    let task = maps::current_task();
    if leader_and_ancestors(record, task).is_none() {
        return false;
    }
    anchor::describe(record);
    maps::current_comm(record) && executable_and_arguments(record, task).is_some()
}

/// Fills the process fields but cgroup and arguments for another task than the current one, whose
/// user memory cannot be read from here.
#[inline(always)]
pub(crate) fn describe_other(record: &mut Record, task: u64) -> Option<()> {
    record.tgid = read_kernel(task + offset!(task_tgid))?;
    let cred: u64 = read_kernel(task + lsm_offset!(task_real_cred))?;
    record.uid = read_kernel(cred + lsm_offset!(cred_uid))?;
    record.gid = read_kernel(cred + lsm_offset!(cred_gid))?;
    record.comm = read_kernel(task + lsm_offset!(task_comm))?;
    leader_and_ancestors(record, task)?;
    executable(record, task).map(|_mm| ())
}

/// Start of the current process, as in a [`Record`].
#[inline(always)]
pub(crate) fn current_start_time_ns() -> Option<u64> {
    let leader: u64 = read_kernel(maps::current_task() + offset!(task_group_leader))?;
    read_kernel(leader + offset!(task_start_boottime))
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
    let mm = executable(record, task)?;
    let start: u64 = read_kernel(mm + offset!(mm_arg_start))?;
    let end: u64 = read_kernel(mm + offset!(mm_arg_end))?;
    let len = end.saturating_sub(start).min(MAX_ARGV_BYTES as u64) as u32;
    if maps::read_user_argv(record, start, len) {
        record.argv_len = len as u16;
    } else {
        record.argv_len = 0;
        count(Counter::ArgvUnreadable);
    }
    Some(())
}

/// Answers the memory descriptor that has it.
#[inline(always)]
fn executable(record: &mut Record, task: u64) -> Option<u64> {
    let mm: u64 = read_kernel(task + offset!(task_mm))?;
    let file: u64 = read_kernel(mm + offset!(mm_exe_file))?;
    let inode: u64 = read_kernel(file + offset!(file_f_inode))?;
    record.exe_ino = read_kernel(inode + offset!(inode_i_ino))?;
    let super_block: u64 = read_kernel(inode + offset!(inode_i_sb))?;
    record.exe_dev = read_kernel(super_block + offset!(super_block_s_dev))?;
    Some(mm)
}
