//! One flow from its first byte to its last: the only module that knows every stage.
//!
//! - input: an accepted connection and the right to record it
//! - output: one flow row, and the rows of its exchanges
//! - bound: `gateway.handshake_timeout` up to HTTP, `gateway.idle_timeout` after it
//! - on failure: [`FlowError`], recorded with the flow; the client gets an alert or a reset

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::AlertDescription as Alert;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::worker::{Place, Worker};
use crate::accept::Accepted;
use crate::accept::wire::{Wire, WireCount};
use crate::capture::Captured;
use crate::dns::NameCheck;
use crate::error::{Fault, Faulty};
use crate::forward::pool::Key;
use crate::forward::tunnel::{self, Moved};
use crate::forward::{ForwardError, dial};
use crate::http::{HttpError, server};
use crate::identify::Identity;
use crate::identify::login::Asker;
use crate::identify::process::kernel_boot_id;
use crate::identify::standing::{Standing, Verdict};
use crate::inspect::mask::{self, Lens};
use crate::inspect::scopes::Scope;
use crate::policy::{Denied, FlowKind, Permit, Treatment};
use crate::record::RecordPermit;
use crate::record::flow::OpenFlow;
use crate::sniff::{ClientHello, SniffError, Sniffed, sniff};
use crate::tls::{Protocol, TlsError, fatal_alert};

mod exchange;

/// Why a flow ended early.
#[derive(Debug, thiserror::Error)]
enum FlowError {
    #[error(transparent)]
    Sniff(#[from] SniffError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("client did not finish its handshake in time")]
    HandshakeTimeout,
    /// Clients that do not trust the CA often say nothing: they finish the handshake and close.
    #[error("client closed without a request: it may not trust the issuing CA")]
    NoRequest,
}

impl FlowError {
    fn inner(&self) -> Option<&dyn Faulty> {
        match self {
            Self::Sniff(e) => Some(e),
            Self::Tls(e) => Some(e),
            Self::Http(e) => Some(e),
            Self::Forward(e) => Some(e),
            Self::Denied(e) => Some(e),
            Self::HandshakeTimeout | Self::NoRequest => None,
        }
    }
}

impl Faulty for FlowError {
    fn fault(&self) -> Fault {
        self.inner().map_or(Fault::Downstream, Faulty::fault)
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoRequest => "no_request",
            other => other.inner().map_or("flow_failed", Faulty::outcome),
        }
    }
}

/// What the exchanges of a flow have in common.
struct Flow {
    worker: Rc<Worker>,
    captured: Captured,
    identity: Rc<Identity>,
    standing: Standing,
    record: OpenFlow,
    /// Whose secrets its exchanges carry.
    scope: Arc<Scope>,
    /// Given back with the flow, which an upgraded connection outlives the HTTP server with.
    _place: Place,
}

impl Flow {
    /// What is looked for in recorded heads.
    fn lens(&self) -> Lens {
        self.worker.shared.inspection.lens(&self.scope)
    }

    /// Whether who vouches for the process is enough, now, for a host of this verified name.
    fn vouched(&self, verified_name: Option<&str>) -> Result<(), Denied> {
        let shared = &self.worker.shared;
        if !shared.engine.asks_identity() {
            return Ok(());
        }
        let verdict = self.standing.verdict(shared.seams.clock.wall());
        shared.engine.identity(verdict, verified_name)
    }

    /// How the person logs in whom nobody vouches for. A job's process is nobody's who could.
    async fn login_hint(&self) -> Option<String> {
        let (logins, process) = (self.worker.shared.logins.get()?, &self.captured.process);
        if process.anchor.is_some() {
            return None;
        }
        let boot = kernel_boot_id();
        logins.prompt(&Asker::of(boot, process.key, process.uid, &self.identity.cgroup)).await
    }
}

/// A flow whose requests can be served.
struct HttpFlow {
    flow: Rc<Flow>,
    permit: Permit,
    key: Key,
    /// Name that requests must be for; empty in the clear.
    name: Arc<str>,
    scheme: &'static str,
    downstream: Protocol,
    wire: Arc<WireCount>,
    /// Bytes read from the client when it had last finished a request.
    asked: Cell<u64>,
}

impl HttpFlow {
    /// Notes that the client owes nothing now.
    fn finished_asking(&self) {
        self.asked.set(self.wire.totals().0);
    }

    /// Whether the client sent nothing since its last request.
    fn is_between_requests(&self) -> bool {
        self.flow.record.exchanges() > 0 && self.asked.get() == self.wire.totals().0
    }
}

/// Detail of a flow whose process is not captured.
const SOCKET_MOVED: &str = "the socket was made inside the captured cgroup, the process is outside";

/// Runs one flow to its end and records it.
pub(super) async fn flow(
    worker: &Rc<Worker>,
    accepted: Accepted,
    permit: RecordPermit,
    place: Place,
) {
    let Accepted { stream, captured } = accepted;
    let wire = Wire::new(stream);
    let identity = worker.identifier.identify(&captured.process).await;
    let standing = standing(worker, &captured, &identity).await;
    let vouched = standing.who(worker.shared.seams.clock.wall());
    let identity = vouched.map_or(Rc::clone(&identity), |who| Rc::new(identity.acting_for(who)));
    let inspection = &worker.shared.inspection;
    let scope = inspection.scope(identity.session_id, &standing);
    if inspection.wants_environment(&scope, &captured.process) {
        if let Some(environment) = worker.identifier.secrets(&captured.process).await {
            inspection.learn(&scope, &environment);
        }
        inspection.saw_environment(&scope, &captured.process);
    }
    let ancestors =
        captured.process.ancestors.iter().map(|key| worker.identifier.exec_id(*key)).collect();
    let now = worker.shared.seams.clock.wall();
    let argv = mask::argv(&worker.shared.inspection.lens(&scope), &captured.process.argv);
    let record = OpenFlow::begin(&captured, &identity, argv, ancestors, now, wire.count(), permit);
    if captured.socket_moved {
        // The kernel's own event is the alarm.
        record.edit(|row| row.detail = SOCKET_MOVED.to_owned());
    }
    let flow = Rc::new(Flow {
        worker: Rc::clone(worker),
        captured,
        identity,
        standing,
        record,
        scope,
        _place: place,
    });
    // Who is revoked already is told so in words.
    let now = worker.shared.seams.clock.wall();
    let is_revoked = flow.standing.verdict(now) == Verdict::Revoked;
    let ended = tokio::select! {
        ended = Box::pin(stages(&flow, wire)) => ended,
        () = flow.standing.cut(), if !is_revoked => Err(Denied::IdentityRevoked.into()),
    };
    if let Err(error) = ended {
        worker.shared.metrics.failed(&error);
        tracing::debug!(%error, flow = %flow.record.id(), "flow ended");
        flow.record.failed(&error);
    }
}

/// Who vouches for a process: looked up in memory. Only of a job that has just begun is its token
/// waited for.
async fn standing(worker: &Worker, captured: &Captured, identity: &Identity) -> Standing {
    if !worker.shared.engine.asks_identity() {
        return Standing::unidentified();
    }
    let (process, registry) = (&captured.process, &worker.shared.registry);
    let session = || identity.session(process.uid);
    if let Some(member) = process.anchor {
        registry.await_job(member.id).await;
    }
    let standing = registry.look_up(process.anchor, identity.container_of(), session);
    standing.settle().await;
    standing
}

async fn stages(flow: &Rc<Flow>, mut wire: Wire) -> Result<(), FlowError> {
    let shared = &flow.worker.shared;
    let deadline = Instant::now() + shared.config.gateway.handshake_timeout;
    let first = sniff(&mut wire, deadline, shared.engine.forwards_opaque()).await;
    match first {
        Ok(Sniffed::Tls(hello)) => tls(flow, wire, *hello, deadline).await,
        Ok(Sniffed::Http { h2, read }) => {
            let permit = shared.engine.flow(FlowKind::PlainHttp)?;
            wire.unread(read);
            plain_http(flow, wire, permit, h2).await
        }
        Ok(Sniffed::Opaque { read }) => {
            let permit = shared.engine.flow(FlowKind::Opaque)?;
            flow.vouched(None)?;
            wire.unread(read);
            raw_tunnel(flow, wire, &permit).await
        }
        Err(error) => {
            if let SniffError::Hello { alert, .. } = &error {
                let own = fatal_alert(Alert::DecodeError);
                refuse(&mut wire, if alert.is_empty() { &own } else { alert }).await;
            }
            Err(error.into())
        }
    }
}

async fn tls(
    flow: &Rc<Flow>,
    mut wire: Wire,
    hello: ClientHello,
    deadline: Instant,
) -> Result<(), FlowError> {
    let sni = hello.sni.as_deref();
    flow.record.edit(|row| row.sni = sni.unwrap_or_default().to_owned());
    let kind = if hello.offers.h1 || hello.offers.h2 {
        FlowKind::Tls { sni }
    } else {
        FlowKind::TlsOther { sni }
    };
    let permit = match flow.worker.shared.engine.flow(kind) {
        Ok(permit) => permit,
        Err(denied) => {
            refuse(&mut wire, &fatal_alert(Alert::AccessDenied)).await;
            return Err(denied.into());
        }
    };
    if let Err(denied) = destination(flow, sni) {
        refuse(&mut wire, &fatal_alert(Alert::AccessDenied)).await;
        return Err(denied.into());
    }
    match permit.treatment() {
        Treatment::Terminate => terminate(flow, wire, hello, permit, deadline).await,
        Treatment::Passthrough | Treatment::Opaque | Treatment::Plain => {
            if let Err(denied) = flow.vouched(None) {
                refuse(&mut wire, &fatal_alert(Alert::AccessDenied)).await;
                return Err(denied.into());
            }
            wire.unread(hello.read);
            raw_tunnel(flow, wire, &permit).await
        }
    }
}

/// Whether the client was told this address for the name that it gives. An address without a name
/// claims nothing.
fn destination(flow: &Flow, sni: Option<&str>) -> Result<(), Denied> {
    let shared = &flow.worker.shared;
    let Some(name) = sni.filter(|_| shared.engine.checks_names()) else { return Ok(()) };
    let address = flow.captured.orig_dst.0.ip();
    let check = shared.journal.check(name, address, shared.seams.clock.mono());
    flow.record.edit(|row| row.dns_check = check.as_str());
    match check {
        NameCheck::Known => &shared.metrics.dns_check_known_total,
        NameCheck::Unknown => &shared.metrics.dns_check_unknown_total,
        NameCheck::Mismatch => &shared.metrics.dns_check_mismatch_total,
    }
    .inc();
    shared.engine.destination(check)
}

async fn terminate(
    flow: &Rc<Flow>,
    mut wire: Wire,
    hello: ClientHello,
    permit: Permit,
    deadline: Instant,
) -> Result<(), FlowError> {
    let shared = &flow.worker.shared;
    let dst = flow.captured.orig_dst;
    let name: Arc<str> = match &hello.sni {
        Some(sni) => sni.as_str().into(),
        None => dst.0.ip().to_string().into(),
    };
    flow.record.edit(|row| row.mode = permit.treatment().as_str());
    let key = Key { dst, name: Some(Arc::clone(&name)), h2: hello.offers.h2 };
    let dialling = Instant::now();
    let asked = async {
        // Nobody asks upstream for a client that gets no further than a refusal in words.
        flow.vouched(Some(&name))?;
        Ok(Box::pin(flow.worker.pool.protocol(&permit, &key)).await?)
    };
    let downstream = match asked.await {
        Ok(Protocol::H2) => Protocol::H2,
        Ok(Protocol::H1) => preferred(&hello),
        Err(FlowError::Forward(ForwardError::Tls(error @ TlsError::UpstreamCertificate(_)))) => {
            // Before our own certificate is shown: a bad one upstream is never covered up.
            refuse(&mut wire, &fatal_alert(Alert::BadCertificate)).await;
            return Err(error.into());
        }
        Err(error) => {
            // Not reachable now. The client is told so in HTTP, in words.
            tracing::debug!(%error, name = &*name, "upstream not reached before the handshake");
            preferred(&hello)
        }
    };
    // Upstream's time has its own bound and is not the client's.
    let deadline = deadline + dialling.elapsed();
    wire.unread(hello.rest);
    let count = wire.count();
    let accept = shared.terminator.accept(hello.accepted, wire, downstream, dst.0.ip());
    let stream = tokio::time::timeout_at(deadline, Box::pin(accept))
        .await
        .map_err(|_elapsed| FlowError::HandshakeTimeout)??;
    flow.record.edit(|row| row.alpn = downstream.alpn());
    let (scheme, flow_ref, asked) = ("https", Rc::clone(flow), Cell::new(0));
    let http =
        HttpFlow { flow: flow_ref, permit, key, name, scheme, downstream, wire: count, asked };
    let served = serve(http, stream).await;
    match served {
        // What the client did say and we could not read has its own name.
        Ok(()) | Err(FlowError::Http(HttpError::Closed(_) | HttpError::Connection(_)))
            if flow.record.exchanges() == 0 =>
        {
            Err(FlowError::NoRequest)
        }
        other => other,
    }
}

/// What a client speaks when upstream speaks HTTP/1.1.
fn preferred(hello: &ClientHello) -> Protocol {
    if hello.offers.h1 { Protocol::H1 } else { Protocol::H2 }
}

async fn plain_http(
    flow: &Rc<Flow>,
    wire: Wire,
    permit: Permit,
    h2: bool,
) -> Result<(), FlowError> {
    flow.record.edit(|row| row.mode = permit.treatment().as_str());
    let downstream = if h2 { Protocol::H2 } else { Protocol::H1 };
    let key = Key { dst: flow.captured.orig_dst, name: None, h2 };
    let (count, asked) = (wire.count(), Cell::new(0));
    let (flow, name, scheme) = (Rc::clone(flow), Arc::from(""), "http");
    let http = HttpFlow { flow, permit, key, name, scheme, downstream, wire: count, asked };
    serve(http, wire).await
}

async fn serve<IO>(http: HttpFlow, io: IO) -> Result<(), FlowError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&http.flow.worker.shared);
    let gateway = &shared.config.gateway;
    let downstream = http.downstream;
    let http = Rc::new(http);
    let handler = {
        let http = Rc::clone(&http);
        move |request| exchange::handle(Rc::clone(&http), request)
    };
    let (stop, metrics) = (&shared.shutdown, Arc::clone(&shared.metrics));
    let serving = server::serve(io, downstream, gateway.head_timeout, stop, metrics, handler);
    tokio::select! {
        served = Box::pin(serving) => match served {
            // The end of a connection that was kept alive for a request that never came.
            Err(HttpError::HeadTimeout) if http.is_between_requests() => Ok(()),
            // A response body that broke off: its exchange says so, and the client is not to blame.
            Err(HttpError::Connection(error)) if error.is_user() => Ok(()),
            served => Ok(served?),
        },
        () = tunnel::stalled(gateway.idle_timeout, || http.wire.totals()) => {
            Err(HttpError::Idle.into())
        }
    }
}

/// Forwards bytes as they are: pass-through TLS and opaque TCP.
async fn raw_tunnel(flow: &Rc<Flow>, wire: Wire, permit: &Permit) -> Result<(), FlowError> {
    flow.record.edit(|row| row.mode = permit.treatment().as_str());
    let gateway = &flow.worker.shared.config.gateway;
    let dst = flow.captured.orig_dst;
    let dialer = flow.worker.pool.dialer();
    let upstream = dial::tcp(permit, dialer, dst, gateway.connect_timeout).await?;
    let moved = Moved::default();
    Ok(tunnel::copy(wire, upstream, gateway.idle_timeout, &moved).await?)
}

/// Sends an alert and closes. The client may be gone: there is nobody left to tell.
async fn refuse(wire: &mut Wire, alert: &[u8]) {
    drop(wire.write_all(alert).await);
    drop(wire.shutdown().await);
}
