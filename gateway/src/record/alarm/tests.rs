//! Alarms become rows, and floods do not.

use std::time::{Duration, Instant};

use super::desk::{MAX_OPEN, WINDOW};
use super::*;
use crate::capture::{CgroupId, ProcessKey};
use crate::clock::WallUs;
use crate::inspect::mask::{self, Lens};

const NOW: WallUs = WallUs(1_000_000_000);

fn about(job: u64, pid: u32) -> Option<Box<Subject>> {
    let identity = Identity {
        session_id: Uuid::from_u128(u128::from(job)),
        job_id: format!("job-{job}").into(),
        exec_id: format!("h:b:7:{pid}").into(),
        who: Who::user("user:x").into(),
        process: "curl".into(),
        exe: "/usr/bin/curl".into(),
        login: None,
        cgroup: format!("weir/job-{job}").into(),
    };
    let process = Process {
        key: ProcessKey { tgid: pid, start_time_ns: 7 },
        cgroup_id: CgroupId(job),
        uid: 1000,
        argv: vec!["curl".into(), "--token".into(), "s3cret".into()],
        ..Process::default()
    };
    let argv = mask::argv(&Lens::of_names(), &process.argv);
    Some(Box::new(Subject { process, identity, argv, ancestors: vec!["h:b:1:1".into()] }))
}

fn alarm(job: u64, pid: u32, port: u16) -> Alarm {
    let ip = IpAddr::from([192, 0, 2, 7]);
    Alarm {
        process: about(job, pid),
        destination: Some(Destination { ip, port, proto: "tcp".into() }),
        ..Alarm::new("refused_netns", Severity::Warn, "in a foreign namespace")
    }
}

fn total(rows: &[AlarmRow]) -> u64 {
    rows.iter().map(|row| row.count).sum()
}

#[test]
fn a_row_has_the_process_and_masked_arguments() {
    let mut one = alarm(3, 42, 443);
    one.age = Duration::from_secs(2);
    let row = Desk::default().take(one, NOW, Instant::now()).unwrap();
    assert_eq!((row.ts, row.kind, row.severity), (998_000_000, "refused_netns", "warn"));
    assert_eq!((row.pid, row.start_ns, row.uid, row.cgroup_id), (42, 7, 1000, 3));
    assert_eq!((&*row.job_id, &*row.exe, &*row.process), ("job-3", "/usr/bin/curl", "curl"));
    assert_eq!(row.argv, ["curl", "--token", mask::MASK]);
    assert_eq!((row.dst_ip.to_string().as_str(), row.dst_port), ("::ffff:192.0.2.7", 443));
    assert_eq!((row.proto.as_str(), row.count), ("tcp", 1));
}

#[test]
fn an_alarm_about_weir_itself_needs_nobody() {
    let alarm = Alarm::new("policy_reload_failed", Severity::Error, "line 3");
    let row = Desk::default().take(alarm, NOW, Instant::now()).unwrap();
    assert_eq!((row.pid, row.dst_port, &*row.job_id, row.detail.as_str()), (0, 0, "", "line 3"));
    assert!(row.session_id.is_nil() && row.proto.is_empty());
}

#[test]
fn the_first_is_written_at_once_and_its_equals_as_one_row() {
    let (mut desk, start) = (Desk::default(), Instant::now());
    assert_eq!(desk.take(alarm(1, 2, 443), NOW, start).unwrap().count, 1);
    let later = WallUs(NOW.0 + 5);
    for wall in [later, WallUs(later.0 + 1)] {
        let mut again = alarm(1, 2, 443);
        again.count = 10;
        assert!(desk.take(again, wall, start + WINDOW / 2).is_none());
    }
    assert!(desk.due(start + WINDOW / 2).is_empty());
    let rows = desk.due(start + WINDOW);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].count, rows[0].ts, rows[0].pid), (20, later.0, 2));
    // A new window begins with a new row.
    assert_eq!(desk.take(alarm(1, 2, 443), NOW, start + WINDOW).unwrap().count, 1);
    assert!(desk.rest().is_empty(), "nothing was left out");
}

#[test]
fn what_differs_is_apart() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    let mut other_kind = alarm(1, 2, 443);
    other_kind.kind = "socket_moved";
    let mut other_words = alarm(1, 2, 443);
    other_words.detail = "other".into();
    let all = [alarm(1, 2, 443), alarm(1, 2, 80), alarm(1, 3, 443), other_kind, other_words];
    for one in all {
        assert!(desk.take(one.clone(), NOW, now).is_some(), "{one:?}");
    }
}

#[test]
fn a_flood_of_one_job_is_a_few_rows_and_a_sum_and_others_are_heard() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    let mut rows: Vec<_> =
        (0..10_000).filter_map(|port| desk.take(alarm(1, 2, port), NOW, now)).collect();
    assert_eq!(rows.len(), 50);
    rows.extend(desk.take(alarm(9, 3, 443), NOW, now));
    assert_eq!(rows.len(), 51, "another job");
    let mut grave = alarm(1, 2, 443);
    (grave.kind, grave.severity) = ("process_moved_out", Severity::Error);
    rows.extend(desk.take(grave, NOW, now));
    assert_eq!(rows.len(), 52, "another severity of the same job");
    let summed = desk.due(now + WINDOW);
    assert_eq!(summed.len(), 1, "{summed:?}");
    assert_eq!((summed[0].kind, summed[0].count), ("alarms_suppressed", 9950));
    assert_eq!((&*summed[0].job_id, summed[0].pid), ("job-1", 2));
    assert!(summed[0].detail.contains("refused_netns: in a foreign namespace"));
    assert_eq!(total(&rows) + total(&summed), 10_002);
}

#[test]
fn many_jobs_are_bounded_in_memory_and_nothing_goes_uncounted() {
    let (mut desk, start) = (Desk::default(), Instant::now());
    let (mut written, mut sent) = (Vec::new(), 0);
    // An hour of every job trying everything.
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        for job in 1..50 {
            let port = u16::try_from(second).unwrap();
            written.extend(desk.take(alarm(job, 2, port), NOW, now));
            sent += 1;
        }
        written.extend(desk.due(now));
        assert!(desk.is_bounded());
    }
    written.extend(desk.rest());
    assert_eq!(total(&written), sent);
    // 10 a second, a burst of 500, and summaries of 49 jobs each 10 seconds.
    assert!(written.len() < 36_000 + 500 + 50 * 361, "{}", written.len());
}

#[test]
fn what_did_not_get_here_is_told_too() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    desk.lost(3, NOW, now);
    desk.lost(4, NOW, now);
    let rows = desk.rest();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].kind, rows[0].severity, rows[0].count), ("alarms_suppressed", "error", 7));
}

impl Desk {
    fn is_bounded(&self) -> bool {
        let (open, summed) = self.sizes();
        open <= MAX_OPEN && summed <= rate::MAX_SOURCES + 3
    }
}
