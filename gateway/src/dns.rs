//! The resolver that captured processes get: it forwards, refuses, records, and remembers answers.
//!
//! - input: DNS messages on UDP and TCP
//! - output: answers of the upstream servers; rows of `dns_queries`; the [`Journal`]
//! - bound: `dns.max_inflight` queries, one deadline per query (`dns.timeout`), message sizes of
//!   `limits`
//! - on failure: SERVFAIL; what cannot be recorded is not forwarded
//!
//! Nothing is cached: the servers behind it do that. docs/dns.md says what this can and cannot see.

use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::capture::{Capture, CaptureError, Captured, Process, Question};
use crate::clock::{SharedClock, WallUs};
use crate::config;
use crate::error::{Fault, Faulty};
use crate::identify::registry::Registry;
use crate::identify::{Identifier, Identity};
use crate::record::flow::mapped;
use crate::record::row::DnsRow;
use crate::record::{Record, RecordError, RecordPermit, Recorder};
use crate::telemetry::Metrics;

pub mod forward;
pub mod journal;
pub mod message;
pub mod rules;
pub mod server;

#[cfg(test)]
mod tests;

pub use journal::{Journal, NameCheck};

use forward::Upstreams;
use message::{Answer, Query, Unanswerable};
use rules::Rules;

/// How a query came, and is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// RFC 7766.
    Tcp,
}

impl Transport {
    /// The recorded name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why a query got no answer from upstream.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A name that `dns.refuse` lists, in the question or as an alias in the answer.
    #[error("the name is refused by dns.refuse")]
    Refused,
    /// AXFR or IXFR, which is answered with many messages.
    #[error("zone transfers are not forwarded")]
    ZoneTransfer,
    /// The deadline passed.
    #[error("no answer from upstream in time")]
    Timeout,
    /// No upstream server could be reached.
    #[error("asking upstream: {0}")]
    Unreachable(std::io::Error),
    /// An answer to our question that cannot be read.
    #[error("the answer from upstream is malformed")]
    Malformed,
    /// The query could not be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Faulty for DnsError {
    fn fault(&self) -> Fault {
        match self {
            Self::Refused | Self::ZoneTransfer => Fault::Policy,
            Self::Timeout | Self::Unreachable(_) | Self::Malformed => Fault::Upstream,
            Self::Record(e) => e.fault(),
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Refused => "dns_refused",
            Self::ZoneTransfer => "dns_zone_transfer",
            Self::Timeout => "dns_timeout",
            Self::Unreachable(_) => "dns_unreachable",
            Self::Malformed => "dns_malformed_answer",
            Self::Record(e) => e.outcome(),
        }
    }
}

/// Answers queries. One for all sockets.
#[derive(Debug)]
pub struct Resolver {
    rules: Rules,
    upstreams: Upstreams,
    journal: Arc<Journal>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    timeout: Duration,
    askers: Askers,
}

/// Finds out who asks.
pub struct Askers {
    /// What the hooks know.
    pub capture: Arc<dyn Capture>,
    /// Names for it.
    pub identifier: Identifier,
    /// Who acts for whom; `None` where nobody is asked.
    pub registry: Option<Arc<Registry>>,
}

impl Askers {
    async fn identify(&self, process: &Process, now: WallUs) -> Rc<Identity> {
        let identity = self.identifier.identify(process).await;
        match &self.registry {
            Some(registry) => registry.acting(process, identity, now).await,
            None => identity,
        }
    }
}

impl std::fmt::Debug for Askers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Askers").field("identifier", &self.identifier).finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Client {
    /// Address and port of its socket.
    pub addr: SocketAddr,
    /// The process, if the hooks saw it.
    asker: Option<Rc<Captured>>,
}

/// An answer, and what the row says about it.
struct Answered {
    answer: Answer,
    upstream: SocketAddr,
    ech_removed: bool,
}

impl Resolver {
    /// `own` is where this resolver listens, so that it never asks itself.
    pub fn new(
        config: &config::Dns,
        own: SocketAddr,
        journal: Arc<Journal>,
        recorder: Recorder,
        metrics: Arc<Metrics>,
        clock: SharedClock,
        askers: Askers,
    ) -> Self {
        Self {
            rules: Rules::new(config.refuse.clone()),
            upstreams: Upstreams::new(config, own, Arc::clone(&metrics)),
            journal,
            recorder,
            metrics,
            clock,
            timeout: config.timeout,
            askers,
        }
    }

    /// Who sent a message, or with no message, who opened a connection. To be asked at once: the
    /// kernel keeps it for a bounded number of questions.
    pub fn client(&self, addr: SocketAddr, datagram: Option<&[u8]>) -> Client {
        // What is shorter than its id gets no answer and no row.
        let id = datagram.map(|raw| raw.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id)));
        let asker = match self.askers.capture.asker(Question { client: addr, id }) {
            Ok(captured) => Some(Rc::new(captured)),
            Err(error) => {
                self.metrics.dns_unattributed_total.inc();
                if !matches!(error, CaptureError::NoRecord) {
                    tracing::warn!(%error, "looking up who asked");
                }
                None
            }
        };
        Client { addr, asker }
    }

    /// Answers one message, or nothing when it deserves none.
    ///
    /// # Cancel safety
    /// A query that is cancelled is neither answered nor recorded.
    pub async fn answer(
        &self,
        raw: &[u8],
        transport: Transport,
        client: &Client,
    ) -> Option<Vec<u8>> {
        self.metrics.dns_queries_total.inc();
        let query = match Query::parse(raw) {
            Ok(query) => query,
            Err(unanswerable) => {
                self.metrics.dns_malformed_total.inc();
                return match unanswerable {
                    Unanswerable::Silent => None,
                    Unanswerable::Reply(reply) => Some(reply),
                };
            }
        };
        let started = self.clock.mono();
        let deadline = Instant::now() + self.timeout;
        let identity = match &client.asker {
            Some(captured) => {
                Some(self.askers.identify(&captured.process, self.clock.wall()).await)
            }
            None => None,
        };
        let mut row = self.row(&query, transport, client, identity.as_deref());
        let permit = match self.reserve(deadline).await {
            Ok(permit) => permit,
            Err(error) => {
                self.metrics.failed(&error);
                self.metrics.dns_unrecordable_total.inc();
                return Some(query.reply(ResponseCode::ServFail));
            }
        };
        let result = self.resolve(&query, transport, deadline).await;
        let reply = self.finish(&query, transport, result, &mut row);
        let elapsed = self.clock.mono().saturating_duration_since(started);
        row.dur_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        permit.send(Record::Dns(Box::new(row)));
        Some(reply)
    }

    async fn reserve(&self, deadline: Instant) -> Result<RecordPermit, DnsError> {
        let reserved = timeout_at(deadline, self.recorder.reserve()).await;
        Ok(reserved.unwrap_or(Err(RecordError::Wait))?)
    }

    async fn resolve(
        &self,
        query: &Query,
        transport: Transport,
        deadline: Instant,
    ) -> Result<Answered, DnsError> {
        if matches!(query.kind(), RecordType::AXFR | RecordType::IXFR) {
            return Err(DnsError::ZoneTransfer);
        }
        if self.rules.refuses(query.name()) {
            return Err(DnsError::Refused);
        }
        let (mut answer, upstream) = self.upstreams.ask(query, transport, deadline).await?;
        if answer.names().any(|name| self.rules.refuses(name)) {
            return Err(DnsError::Refused);
        }
        let ech_removed = answer.remove_ech(query).map_err(|_unencodable| DnsError::Malformed)?;
        // Before the client has it, so that its connection finds it.
        answer.teach(query, &self.journal, self.clock.mono());
        Ok(Answered { answer, upstream, ech_removed })
    }

    /// The reply, with the row and the counters that tell of it.
    fn finish(
        &self,
        query: &Query,
        transport: Transport,
        result: Result<Answered, DnsError>,
        row: &mut DnsRow,
    ) -> Vec<u8> {
        let Answered { answer, upstream, ech_removed } = match result {
            Ok(answered) => answered,
            Err(error) => {
                let policy = error.fault() == Fault::Policy;
                let code = if policy { ResponseCode::Refused } else { ResponseCode::ServFail };
                let metrics = &self.metrics;
                if policy { &metrics.dns_refused_total } else { &metrics.dns_failed_total }.inc();
                metrics.failed(&error);
                row.decision = if policy { "refused" } else { "failed" };
                row.rcode = message::rcode(code);
                row.outcome = error.outcome();
                return query.reply(code);
            }
        };
        row.rcode = message::rcode(answer.code());
        row.answers = answer.describe();
        row.upstream = upstream.to_string();
        if ech_removed {
            row.ech_removed = 1;
            self.metrics.dns_ech_removed_total.inc();
        }
        let max = match transport {
            Transport::Udp => query.udp_size(),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let (reply, cut) = answer.reply(query, max);
        if cut {
            self.metrics.dns_truncated_total.inc();
        }
        reply
    }

    fn row(
        &self,
        query: &Query,
        transport: Transport,
        client: &Client,
        identity: Option<&Identity>,
    ) -> DnsRow {
        let asker = client.asker.as_deref();
        let process = asker.map(|captured| &captured.process);
        let named = |name: fn(&Identity) -> &Arc<str>| {
            identity.map_or_else(Arc::default, |identity| Arc::clone(name(identity)))
        };
        let asked = asker.map(|captured| mapped(captured.orig_dst.0.ip()));
        DnsRow {
            ts: self.clock.wall().0,
            qname: query.text().to_owned(),
            qtype: query.kind().to_string(),
            rcode: String::new(),
            answers: Vec::new(),
            decision: "forwarded",
            outcome: "ok",
            upstream: String::new(),
            ech_removed: 0,
            proto: transport.as_str(),
            client_port: client.addr.port(),
            dur_us: 0,
            session_id: identity.map_or_else(Uuid::nil, |identity| identity.session_id),
            job_id: named(|identity| &identity.job_id),
            exec_id: named(|identity| &identity.exec_id),
            identity: named(|identity| &identity.who.display),
            pid: process.map_or(0, |process| process.key.tgid),
            start_time_ns: process.map_or(0, |process| process.key.start_time_ns),
            process: named(|identity| &identity.process),
            exe: named(|identity| &identity.exe),
            uid: process.map_or(0, |process| process.uid),
            cgroup_id: process.map_or(0, |process| process.cgroup_id.0),
            cgroup: named(|identity| &identity.cgroup),
            asked_ip: asked.unwrap_or(Ipv6Addr::UNSPECIFIED),
            who: identity.map_or_else(Arc::default, |identity| Arc::clone(&identity.who)),
        }
    }
}
