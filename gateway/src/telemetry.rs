//! Counters and logging.
//!
//! - input: increments from every stage
//! - output: a snapshot for `/metrics` and the heartbeat rows
//! - bound: a fixed set of counters, and one counter per outcome name in the source
//! - on failure: cannot fail; counters wrap after 2^64

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Fault, Faulty};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the data path, all since the start of the gateway.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
            /// Refusals and failures by recorded outcome.
            outcomes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
        }

        impl Metrics {
            /// Every fixed counter with its name.
            fn fixed(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value()),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted.
    flows_total,
    /// Flows open now.
    flows_active,
    /// Connections closed because the connection limit was reached.
    flows_over_limit_total,
    /// Connections closed because no record could be reserved for them.
    flows_unrecordable_total,
    /// Flows that ended in a panic.
    flow_panics_total,
    /// Questions that `weir guard` did not answer: names stay empty.
    guard_failed_total,
    /// Exchanges begun.
    exchanges_total,
    /// Leaves minted.
    leaves_minted_total,
    /// Upstream connections opened.
    upstream_connections_total,
    /// Requests sent on an upstream connection that an earlier request had used.
    upstream_reused_total,
    /// Requests sent again on a new connection because a pooled one was already closed.
    upstream_retried_total,
    /// DNS messages received.
    dns_queries_total,
    /// DNS queries refused by policy.
    dns_refused_total,
    /// DNS queries without a usable answer from upstream.
    dns_failed_total,
    /// DNS messages that are no question.
    dns_malformed_total,
    /// Upstream DNS answers ignored because they did not match the question: late or forged.
    dns_mismatched_total,
    /// DNS answers cut because the client takes no larger datagram.
    dns_truncated_total,
    /// DNS answers from which ECH parameters were taken.
    dns_ech_removed_total,
    /// DNS datagrams and connections of which nobody knows which process sent them.
    dns_unattributed_total,
    /// DNS datagrams and connections dropped because a limit was reached.
    dns_over_limit_total,
    /// DNS queries that failed because no record could be reserved for them.
    dns_unrecordable_total,
    /// Flows to an address that their server name was resolved to.
    dns_check_known_total,
    /// Flows whose server name was not resolved here.
    dns_check_unknown_total,
    /// Flows to another address than their server name was resolved to.
    dns_check_mismatch_total,
    /// Events read from the kernel.
    kernel_events_total,
    /// Events from the kernel that made no sense.
    kernel_events_undecodable_total,
}

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away (gauges).
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Counts a failure under its outcome.
    pub fn failed(&self, error: &dyn Faulty) {
        self.outcome(error.outcome(), error.fault());
    }

    /// Counts an outcome.
    pub fn outcome(&self, outcome: &'static str, fault: Fault) {
        if let Ok(mut outcomes) = self.outcomes.lock() {
            *outcomes.entry((outcome, fault.as_str())).or_default() += 1;
        }
    }

    /// How often an outcome was counted.
    pub fn outcome_count(&self, outcome: &str) -> u64 {
        let count = |outcomes: &BTreeMap<(&str, &str), u64>| {
            outcomes.iter().filter(|((o, _), _)| *o == outcome).map(|(_, n)| n).sum()
        };
        self.outcomes.lock().map(|o| count(&o)).unwrap_or_default()
    }

    /// All non-zero counters; outcomes come as `outcome_<name>`.
    pub fn snapshot(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> =
            self.fixed().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        if let Ok(outcomes) = self.outcomes.lock() {
            all.extend(outcomes.iter().map(|((o, _), n)| (format!("outcome_{o}"), *n)));
        }
        all.retain(|(_, n)| *n != 0);
        all
    }

    /// The Prometheus text format, version 0.0.4, of the counters and of further gauges.
    pub fn prometheus(&self, more: &[(&'static str, u64)]) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        for (name, value) in self.fixed().iter().chain(more) {
            writeln!(out, "weir_{name} {value}").unwrap_or_default();
        }
        if let Ok(outcomes) = self.outcomes.lock() {
            for ((outcome, fault), n) in outcomes.iter() {
                let line =
                    format!("weir_outcomes_total{{outcome=\"{outcome}\",fault=\"{fault}\"}}");
                writeln!(out, "{line} {n}").unwrap_or_default();
            }
        }
        out
    }
}

/// Counts the panic that unwinds through it.
pub(crate) struct PanicCount(pub(crate) Arc<Metrics>);

impl Drop for PanicCount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.flow_panics_total.inc();
            tracing::error!("a flow panicked and was closed");
        }
    }
}

/// Sends logs to standard error, filtered by `WEIR_LOG` (default: `info`).
pub fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
    // A second initialisation (tests) keeps the first subscriber.
    drop(subscriber);
}
