//! What a service manager is told: sd_notify(3).
//!
//! - input: `NOTIFY_SOCKET`
//! - output: readiness; at a planned stop the listeners, for the next start
//! - bound: [`MAX_FDS`] descriptors per message
//! - on failure: logged; the gateway goes on
//!
//! A gateway that is killed stores nothing: connects are refused until the next one listens.

use std::os::fd::AsFd as _;

use sd_notify::NotifyState;

use crate::app::handed::{Handed, Name};

/// The kernel takes at most 253 in one message.
const MAX_FDS: usize = 128;

/// Connections are accepted. Names this process, which after a takeover is another than before.
pub(super) fn ready() {
    let state = [NotifyState::Ready, NotifyState::MainPid(std::process::id())];
    told(sd_notify::notify(&state));
}

/// Connections are no longer accepted. Those that come now wait in the listeners, which the
/// manager keeps if it starts us again (`FileDescriptorStoreMax=`).
pub(super) fn stopping(kept: &Handed) {
    told(sd_notify::notify(&[NotifyState::Stopping]));
    for wanted in [Name::Captured, Name::Dns] {
        let fds: Vec<_> =
            kept.iter().filter(|(name, _)| *name == wanted).map(|(_, fd)| fd.as_fd()).collect();
        for some in fds.chunks(MAX_FDS) {
            let state = [NotifyState::FdStore, NotifyState::FdName(wanted.as_str())];
            told(sd_notify::notify_with_fds(&state, some));
        }
    }
}

fn told(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "telling the service manager");
    }
}
