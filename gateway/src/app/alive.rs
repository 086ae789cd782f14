//! Tells the kernel that this gateway is alive, for `capture.danger_fail_open`.
//!
//! - input: the `Capture` seam
//! - output: a beat every [`BEAT_EVERY`], until shutdown begins
//! - bound: one thread of its own, because a slow disk or store must not open the door
//! - on failure: logged; without beats the kernel takes the gateway for dead after 2 s

use std::time::Duration;

use super::Shared;

/// A twentieth of `weir_ebpf_common::FAIL_OPEN_AFTER_NS`.
const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Beats until shutdown begins: a gateway that only drains accepts nothing any more.
pub(super) fn run(shared: &Shared) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for the beat");
            shared.shutdown.cancel();
            return;
        }
    };
    runtime.block_on(async {
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT_EVERY) => {}
                () = shared.shutdown.cancelled() => return,
            }
            let result = shared.seams.capture.beat();
            if let (Err(error), false) = (&result, failing) {
                tracing::error!(%error, "the kernel cannot be told that the gateway is alive");
            }
            failing = result.is_err();
        }
    });
}
