//! Turns the kernel's events into alarms.
//!
//! - input: the ring buffer of the programs, on the control thread
//! - output: alarms; a gap for events that were lost
//! - bound: [`BATCH`] events between two chances for the other tasks of the thread; rows are bounded
//!   by `record::alarm`
//! - on failure: logged; without events the counters in the heartbeats remain

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weir_ebpf_common::Counter;

use super::Shared;
use super::control::CAUSE_KERNEL_DROP;
use super::worker::identifier;
use crate::capture::events::{self, EventReader, KernelEvent};
use crate::capture::{ProcessKey, maps};
use crate::clock::WallUs;
use crate::identify::registry::Registry;
use crate::identify::{Identifier, process};
use crate::inspect::mask::{self, Lens};
use crate::record::alarm::{Destination, Subject};
use crate::record::row::GapRow;
use crate::record::{Alarm, Record, Severity};

/// Events handled in a row.
const BATCH: usize = 64;
/// Between two looks whether an older gateway still runs.
const TURN_POLL: std::time::Duration = std::time::Duration::from_millis(50);

/// Says whose a process is.
struct Namer {
    identifier: Identifier,
    /// Who acts for whom; `None` where nobody is asked.
    registry: Option<Arc<Registry>>,
}

/// Runs until `stop`.
pub(super) async fn run(shared: &Shared, stop: &CancellationToken) {
    if !shared.maps.has("EVENTS") {
        // Nothing is attached, as in tests.
        return;
    }
    // An event is there for one reader: an older gateway's turn ends first.
    while !shared.is_alone() {
        tokio::select! {
            () = tokio::time::sleep(TURN_POLL) => {}
            () = stop.cancelled() => return,
            () = shared.ending.handed_over.cancelled() => return,
        }
    }
    let mut reader = match EventReader::open(&shared.maps).and_then(EventReader::watched) {
        Ok(reader) => reader,
        Err(error) => {
            tracing::error!(%error, "no alarms from the kernel");
            let detail = format!("the kernel's events cannot be read: {error}");
            shared.recorder.alarm(Alarm::new("events_unreadable", Severity::Error, detail));
            return;
        }
    };
    let namer = Namer { identifier: identifier(shared), registry: shared.vouched() };
    loop {
        let mut ready = tokio::select! {
            ready = reader.readable_mut() => match ready {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "waiting for events of the kernel");
                    return;
                }
            },
            () = stop.cancelled() => return,
            () = shared.ending.handed_over.cancelled() => return,
        };
        if take(shared, &namer, ready.get_inner_mut()).await {
            ready.clear_ready();
        }
        tokio::task::yield_now().await;
    }
}

/// Handles a batch; whether there are no more events now.
async fn take(shared: &Shared, namer: &Namer, reader: &mut EventReader) -> bool {
    for _ in 0..BATCH {
        match reader.next_event() {
            None => return true,
            Some(Ok(event)) => {
                shared.metrics.kernel_events_total.inc();
                let (lens, now) = (shared.inspection.own_lens(), shared.seams.clock.wall());
                if let Some(alarm) = alarm(event, namer, now, &lens).await {
                    shared.recorder.alarm(alarm);
                }
            }
            Some(Err(error)) => {
                shared.metrics.kernel_events_undecodable_total.inc();
                tracing::debug!(%error, "event of the kernel");
            }
        }
    }
    false
}

/// `None` for a cause that no program tells.
async fn alarm(event: KernelEvent, namer: &Namer, now: WallUs, lens: &Lens) -> Option<Alarm> {
    let (kind, severity) = kind(event.cause)?;
    let process = &event.captured.process;
    let Namer { identifier, registry } = namer;
    let identity = identifier.identify(process).await;
    let identity = match registry {
        Some(registry) => registry.acting(process, identity, now).await,
        None => identity,
    };
    let mut identity = (*identity).clone();
    if event.cause == Counter::SocketMoved {
        identity.job_id = identifier.job(event.other_cgroup);
    }
    if identity.job_id.is_empty() && !event.job.is_empty() {
        // Its cgroup is gone: jobs end soon after they were refused.
        identity.job_id = event.job.as_str().into();
    }
    let ancestors = process.ancestors.iter().map(|key| identifier.exec_id(*key)).collect();
    let to = event.captured.orig_dst.0;
    let destination = (to.port() != 0 || !to.ip().is_unspecified()).then(|| Destination {
        ip: to.ip(),
        port: to.port(),
        proto: protocol(event.protocol),
    });
    let argv = mask::argv(lens, &process.argv);
    let process = event.captured.process.clone();
    Some(Alarm {
        kind,
        severity,
        destination,
        detail: detail(&event),
        count: 1 + u64::from(event.suppressed),
        age: events::age(event.at),
        process: Some(Box::new(Subject { process, identity, argv, ancestors })),
    })
}

/// The alarm of a cause. Refusals keep the name of their counter.
fn kind(cause: Counter) -> Option<(&'static str, Severity)> {
    let severity = match cause {
        // Browsers try it all the time.
        Counter::UdpConnectRefused | Counter::UdpSendRefused => Severity::Info,
        Counter::RefusedConfig
        | Counter::RefusedStorage
        | Counter::RefusedIdentity
        // Past the capture: seen, not stopped.
        | Counter::ForeignSocket
        | Counter::ProcessMovedOut => Severity::Error,
        Counter::RefusedNetns
        | Counter::RefusedBoundDevice
        | Counter::SocketRefusedRaw
        | Counter::SocketRefusedProtocol
        | Counter::BindRefused
        | Counter::OptionRefused
        | Counter::LsmFamilyRefused
        | Counter::LsmConnectRefused
        | Counter::LsmSendRefused
        | Counter::SocketMoved => Severity::Warn,
        _ => return None,
    };
    let kind = match cause {
        // What was tried is the same; the severity and the detail say whether it was stopped.
        Counter::LsmConnectRefused | Counter::LsmSendRefused => Counter::ForeignSocket.name(),
        other => other.name(),
    };
    Some((kind, severity))
}

fn protocol(number: u32) -> std::borrow::Cow<'static, str> {
    match number {
        0 => "".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        other => other.to_string().into(),
    }
}

fn detail(event: &KernelEvent) -> String {
    let what = event.what;
    match event.cause {
        Counter::RefusedConfig => "the capture is configured by another version".into(),
        Counter::RefusedNetns => "no gateway in this network namespace".into(),
        Counter::RefusedStorage => "no memory for the socket's record".into(),
        Counter::RefusedIdentity => "the process could not be read".into(),
        Counter::RefusedBoundDevice => "the socket is bound to a device".into(),
        Counter::UdpConnectRefused | Counter::UdpSendRefused => "QUIC".into(),
        Counter::SocketRefusedRaw => format!("raw socket, protocol {}", event.protocol),
        Counter::SocketRefusedProtocol => {
            format!("socket of type {what}, protocol {}", event.protocol)
        }
        Counter::BindRefused => "the port is the gateway's".into(),
        Counter::OptionRefused => format!("socket option {}, level {}", what & 0xffff, what >> 16),
        Counter::LsmFamilyRefused => format!("socket of family {}, type {what}", event.protocol),
        Counter::LsmConnectRefused => "refused to connect a socket made outside".into(),
        Counter::LsmSendRefused => "refused to send on a socket made outside".into(),
        Counter::ForeignSocket => {
            format!(
                "connected a socket made outside (cgroup {}), not captured",
                event.other_cgroup.0
            )
        }
        Counter::SocketMoved => {
            format!("socket of cgroup {} used outside; captured", event.other_cgroup.0)
        }
        Counter::ProcessMovedOut => moved_out(event),
        _ => String::new(),
    }
}

fn moved_out(event: &KernelEvent) -> String {
    let process = event.captured.process.key;
    let to = process::cgroup_path(process, event.other_cgroup);
    let to = to.unwrap_or_else(|| format!("cgroup {}", event.other_cgroup.0));
    let ProcessKey { tgid, .. } = event.actor;
    if event.actor == process {
        return format!("moved itself to {to}");
    }
    format!("moved to {to} by process {tgid} of uid {}", event.actor_uid)
}

/// Writes a gap for events that found no room, also those of a time when no gateway ran.
pub(super) async fn tell_lost(shared: &Shared) {
    // Reserved first: what is taken from the counter must be told.
    let Ok(permit) = shared.recorder.reserve().await else { return };
    let maps = shared.maps.clone();
    let taken = tokio::task::spawn_blocking(move || maps::take_lost_events(&maps)).await;
    let Ok(Ok(lost @ 1..)) = taken else { return };
    permit.send(Record::Gap(GapRow {
        ts: shared.seams.clock.wall().0,
        cause: CAUSE_KERNEL_DROP,
        gap_boot_id: shared.producer.boot_id,
        first_seq: 0,
        last_seq: 0,
        records: lost,
        bytes: 0,
        detail: format!("{lost} events of the kernel found no room in its ring buffer"),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Captured, CgroupId, OrigDst, Process, SocketCookie};
    use crate::identify::guard::Guard;

    fn event(cause: Counter, to: &str) -> KernelEvent {
        let key = ProcessKey { tgid: u32::MAX, start_time_ns: 7 };
        KernelEvent {
            cause,
            suppressed: 4,
            captured: Captured {
                orig_dst: OrigDst(to.parse().unwrap()),
                socket_cookie: SocketCookie(0),
                process: Process { key, cgroup_id: CgroupId(5), ..Process::default() },
                socket_moved: false,
            },
            actor: key,
            actor_uid: 0,
            at: std::time::Duration::ZERO,
            other_cgroup: CgroupId(6),
            job: "job-1".into(),
            protocol: 6,
            what: 0,
        }
    }

    fn namer() -> Namer {
        let guard = Guard::new(std::path::Path::new("/nowhere"), Arc::default());
        let identifier = Identifier::new("h".into(), None, "weir/captured".into(), guard);
        Namer { identifier, registry: None }
    }

    #[tokio::test]
    async fn every_cause_that_is_told_is_explained_and_the_others_are_none() {
        let (namer, lens) = (namer(), Lens::of_names());
        let mut told = 0;
        for cause in Counter::ALL {
            let Some(alarm) = alarm(event(*cause, "192.0.2.7:443"), &namer, WallUs(0), &lens).await
            else {
                continue;
            };
            told += 1;
            assert!(!alarm.detail.is_empty(), "{cause:?}");
            assert!(alarm.kind == cause.name() || alarm.kind == "foreign_socket", "{cause:?}");
        }
        // 5 refusals of a connect, 2 of QUIC, 4 of sockets, 3 by security hooks, 3 moves.
        assert_eq!(told, 17);
    }

    #[tokio::test]
    async fn an_event_becomes_an_alarm_of_its_job() {
        let (namer, lens) = (namer(), Lens::of_names());
        let one = alarm(event(Counter::RefusedNetns, "192.0.2.7:443"), &namer, WallUs(0), &lens)
            .await
            .unwrap();
        assert_eq!((one.kind, one.severity, one.count), ("refused_netns", Severity::Warn, 5));
        assert_eq!(&*one.process.unwrap().identity.job_id, "job-1", "its cgroup is gone");
        let to = one.destination.unwrap();
        assert_eq!((to.port, &*to.proto), (443, "tcp"));
        assert!(one.age > std::time::Duration::ZERO);
        let none = alarm(event(Counter::SocketRefusedRaw, "0.0.0.0:0"), &namer, WallUs(0), &lens)
            .await
            .unwrap();
        assert_eq!(none.destination, None);
        let mut moved = event(Counter::ProcessMovedOut, "0.0.0.0:0");
        moved.actor = ProcessKey { tgid: 9, start_time_ns: 9 };
        let moved = alarm(moved, &namer, WallUs(0), &lens).await.unwrap();
        assert_eq!(moved.detail, "moved to cgroup 6 by process 9 of uid 0");
    }
}
