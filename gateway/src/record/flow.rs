//! One flow while it is open: its row is sent when the flow ends, however it ends.
//!
//! - input: what the stages learn about the flow
//! - output: one [`Record::Flow`]
//! - bound: one row
//! - on failure: cannot fail; a panic in the flow still leaves the row

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::row::{FlowRow, Ids};
use super::{Record, RecordPermit};
use crate::accept::wire::WireCount;
use crate::capture::Captured;
use crate::clock::WallUs;
use crate::error::Faulty;
use crate::identify::Identity;
use crate::inspect::mask::Masked;

/// An open flow.
pub struct OpenFlow {
    row: RefCell<FlowRow>,
    permit: Cell<Option<RecordPermit>>,
    count: Arc<WireCount>,
    started: Instant,
}

/// Mode of a flow that never got further than its first bytes.
const REFUSED: &str = "refused";

/// IPv4 as v4-mapped IPv6, the form of the record.
pub fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl OpenFlow {
    /// Begins a flow. `argv` is the process's; `ancestors` are `exec_id`s.
    pub fn begin(
        captured: &Captured,
        identity: &Identity,
        argv: Masked<Vec<String>>,
        ancestors: Vec<String>,
        now: WallUs,
        count: Arc<WireCount>,
        permit: RecordPermit,
    ) -> Self {
        let process = &captured.process;
        let row = FlowRow {
            ts: now.0,
            flow_id: Uuid::now_v7(),
            session_id: identity.session_id,
            job_id: Arc::clone(&identity.job_id),
            exec_id: Arc::clone(&identity.exec_id),
            identity: Arc::clone(&identity.who.display),
            identity_src: identity.who.method,
            pid: process.key.tgid,
            process: Arc::clone(&identity.process),
            exe: Arc::clone(&identity.exe),
            exe_dev: process.exe.dev,
            exe_ino: process.exe.ino,
            comm: process.comm.clone(),
            argv: argv.into_inner(),
            ancestors,
            uid: process.uid,
            gid: process.gid,
            cgroup_id: process.cgroup_id.0,
            cgroup: Arc::clone(&identity.cgroup),
            netns_cookie: process.netns_cookie,
            socket_cookie: captured.socket_cookie.0,
            dst_ip: mapped(captured.orig_dst.0.ip()),
            dst_port: captured.orig_dst.0.port(),
            sni: String::new(),
            alpn: "",
            mode: REFUSED,
            outcome: "ok",
            fault: "",
            detail: String::new(),
            up_bytes: 0,
            down_bytes: 0,
            exchanges: 0,
            dur_us: 0,
            dns_check: "",
            ids: Ids(Arc::clone(&identity.who)),
            who: Arc::clone(&identity.who),
        };
        let permit = Cell::new(Some(permit));
        Self { row: RefCell::new(row), permit, count, started: Instant::now() }
    }

    /// Changes the row.
    pub fn edit(&self, change: impl FnOnce(&mut FlowRow)) {
        change(&mut self.row.borrow_mut());
    }

    /// The id that exchanges refer to.
    pub fn id(&self) -> Uuid {
        self.row.borrow().flow_id
    }

    /// Exchanges so far.
    pub fn exchanges(&self) -> u32 {
        self.row.borrow().exchanges
    }

    /// Notes why the flow ended; the first reason stays.
    pub fn failed(&self, error: &dyn Faulty) {
        self.edit(|row| {
            if row.outcome == "ok" {
                row.outcome = error.outcome();
                row.fault = error.fault().as_str();
                let noted = std::mem::take(&mut row.detail);
                let separator = if noted.is_empty() { "" } else { "; " };
                row.detail = format!("{noted}{separator}{error}");
            }
        });
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut row = self.row.borrow().clone();
        if std::thread::panicking() {
            row.outcome = "panic";
            row.fault = "internal";
        }
        (row.up_bytes, row.down_bytes) = self.count.totals();
        row.dur_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        permit.send(Record::Flow(Box::new(row)));
    }
}
