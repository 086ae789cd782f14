//! Looks again and again.
//!
//! - input: link events of rtnetlink(7), and a tick of [`EVERY`]
//! - output: repairs, each told to the caller
//! - bound: at most ten looks a second, however many devices come and go; what cannot be repaired is
//!   tried again after a pause that doubles up to [`MAX_PAUSE`]
//! - on failure: told, and tried again

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::NetlinkAddr;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use super::{Finding, Repaired, check, mend, note_checked};
use crate::capture::loader::AttachSpec;
use crate::capture::{CaptureError, pins};
use crate::clock::{Clock as _, SystemClock, WallUs};

/// Time between two looks when no device comes or goes.
const EVERY: Duration = Duration::from_secs(1);
/// After an event, so that a container's handful of them is one look.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest pause after repairs that failed.
const MAX_PAUSE: Duration = Duration::from_secs(64);

/// What [`watch`] tells.
#[derive(Debug)]
pub enum Report<'a> {
    /// These were found, and put right or not.
    Done(&'a [Repaired]),
    /// It could not be looked at; told once for each reason.
    Failed(&'a CaptureError),
}

/// Repairs until `stop`; returns at most a second after it. Blocks: give it a thread of its own, in
/// the network namespace that was attached in.
///
/// While it runs, a capture that somebody detaches is attached again: stop it first.
pub fn watch(spec: &AttachSpec, stop: &CancellationToken, report: &mut dyn FnMut(Report<'_>)) {
    let mut events = match Events::open() {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, "no link events: new devices are found once a second");
            None
        }
    };
    let mut state = State::default();
    while !stop.is_cancelled() {
        if state.hold.is_none_or(|hold| Instant::now() >= hold) {
            state.look(spec, report);
        }
        match &mut events {
            Some(events) => events.wait(stop),
            None => std::thread::sleep(EVERY),
        }
    }
}

#[derive(Default)]
struct State {
    last_ok: Option<WallUs>,
    /// What could not be repaired and was told.
    failed: Vec<Finding>,
    reason: String,
    pause: Duration,
    hold: Option<Instant>,
}

impl State {
    fn look(&mut self, spec: &AttachSpec, report: &mut dyn FnMut(Report<'_>)) {
        let turn = match pins::turn(&spec.pin_dir, Duration::ZERO) {
            // Whoever has it attaches: there is nothing to find yet.
            Ok(None) => return,
            turn => turn,
        };
        let looked = turn.and_then(|_turn| {
            let done = mend(spec, check(spec)?, self.last_ok, &self.failed)?;
            note_checked(spec).map(|()| done)
        });
        let done = match looked {
            Ok(done) => done,
            Err(error) => {
                let reason = error.to_string();
                if self.reason != reason {
                    report(Report::Failed(&error));
                    self.reason = reason;
                }
                return self.wait_longer();
            }
        };
        self.reason.clear();
        let failed: Vec<Finding> =
            done.iter().filter(|one| one.result.is_err()).map(|one| one.finding.clone()).collect();
        if failed.is_empty() {
            self.last_ok = Some(SystemClock.wall());
            self.pause = Duration::ZERO;
            self.hold = None;
        } else {
            self.wait_longer();
        }
        if failed.len() < done.len() || failed != self.failed {
            report(Report::Done(&done));
        }
        self.failed = failed;
    }

    fn wait_longer(&mut self) {
        self.pause = (self.pause * 2).clamp(EVERY, MAX_PAUSE);
        self.hold = Some(Instant::now() + self.pause);
    }
}

/// Messages of rtnetlink(7) about devices.
struct Events(Socket);

impl Events {
    fn open() -> std::io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW.cloexec(),
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        let groups = u32::try_from(libc::RTMGRP_LINK).map_err(std::io::Error::other)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Until something happened and settled, or [`EVERY`] is over.
    fn wait(&mut self, stop: &CancellationToken) {
        let mut until = Instant::now() + EVERY;
        let mut happened = false;
        // The content does not matter, nor does what is lost in between: we look for ourselves.
        let mut message = [0; 4096];
        while !stop.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.0.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match self.0.read(&mut message) {
                Ok(_) if !happened => {
                    happened = true;
                    until = until.min(Instant::now() + SETTLE);
                }
                Ok(_) => {}
                // ENOBUFS tells that some were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_elapsed) => return,
            }
        }
    }
}
