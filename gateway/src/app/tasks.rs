//! Tasks of one worker: tracked, so that shutdown can wait for them.
//!
//! - input: futures
//! - output: nothing; they run on the worker's thread
//! - bound: flows are bounded by `gateway.max_connections`; each has a bounded number of tasks
//! - on failure: a panic ends its own task and is counted

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::telemetry::{Metrics, PanicCount};

/// Spawns and waits.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { tracker: TaskTracker::new(), metrics }
    }

    /// Runs a future on this thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let count = PanicCount(Arc::clone(&self.metrics));
        // The handle is not awaited: the tracker is.
        drop(self.tracker.spawn_local(async move {
            let _count = count;
            task.await;
        }));
    }

    /// Waits until every task has ended.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
