//! A CI job from its hook to its end: anchor, token, identity.
//!
//! - input: a hook's order; the first process of the job
//! - output: a bound identity, which ends with that process
//! - bound: one task for each anchor; `limits::PROVIDER_TIMEOUT` for each question to a provider
//! - on failure: the job's processes are unidentified; a token of somebody else's raises an alarm

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::desk::{Desk, Refusal};
use super::lookup::Vouched;
use super::peer::Peer;
use crate::capture::ProcessKey;
use crate::capture::anchors::{self, AnchorSource, Anchors};
use crate::clock::WallUs;
use crate::config::identity::{Issuer, Kind};
use crate::identify::binding::{self, Anchor};
use crate::identify::bound::{Bound, End};
use crate::identify::registry::RegistryError;
use crate::identify::source::Environment;
use crate::identify::who::Who;
use crate::identify::wire::Person;

/// Tokens are renewed when a fifth of their life is left, but not more often than this.
const LEAST_RENEWAL: Duration = Duration::from_secs(10);

/// A living anchor.
pub(super) struct Job {
    pub(super) anchor: Anchor,
    pub(super) bound: Arc<Bound>,
    /// First level below the captured cgroup.
    pub(super) cgroup: Option<String>,
    /// Where another token comes from before this one expires.
    renewal: RefCell<Option<Renewal>>,
}

/// Where tokens come from.
#[derive(Clone)]
struct Renewal {
    issuer: Issuer,
    environment: Environment,
    at: tokio::time::Instant,
}

impl Desk {
    /// Registers the caller's job.
    pub(super) async fn job_start(
        self: &Rc<Self>,
        peer: &Peer,
        kind: &str,
        environment: BTreeMap<String, String>,
        pid: Option<u32>,
    ) -> Result<Person, Refusal> {
        let issuers = &self.shared.config.identity.issuers;
        let issuers: Vec<Issuer> =
            issuers.iter().filter(|issuer| issuer.kind.as_str() == kind).cloned().collect();
        let Some(kind) = issuers.first().map(|issuer| issuer.kind) else {
            return Err(Refusal::new(
                "no_issuer",
                format!("no issuer of kind {kind:?} is configured"),
            ));
        };
        if kind == Kind::People {
            return Err(Refusal::new("no_issuer", "people log in: weir login"));
        }
        let subject = pid.map_or_else(|| Ok(peer.clone()), Peer::numbered);
        let subject = subject.map_err(|e| Refusal::new("no_process", e.to_string()))?;
        let member = self.with_anchors(|anchors| anchors.member(subject.key.tgid))?;
        subject.lives().map_err(|e| Refusal::new("no_process", e.to_string()))?;
        let job = match member {
            // In a job already: whatever is presented is presented by that job.
            Some(member) if member.is_ended => {
                let refusal = Refusal::new("identity_expired", "the caller's job has ended");
                self.alarm("identity_refused", peer, &refusal.message).await;
                return Err(refusal);
            }
            Some(member) => {
                let jobs = self.jobs.borrow();
                let job = jobs.get(&member.id).map(Rc::clone);
                job.ok_or_else(|| Refusal::new("anchor_unknown", "the caller's job is not known"))?
            }
            None => {
                let root = pid.map_or_else(|| peer.job(kind), |_| Some(subject.key));
                let root = root.ok_or_else(|| {
                    Refusal::new(
                        "no_worker",
                        "no process above the caller is a worker of this kind",
                    )
                })?;
                self.begin(root, &subject)?
            }
        };
        let environment: Environment = environment.into_iter().collect();
        match self.present(&job, &issuers, &environment).await {
            Ok(who) => Ok(Person::of(&who, "active", Some(job.anchor.id.id))),
            Err(refusal) => {
                job.bound.refuse();
                let alarm = match refusal.outcome {
                    "token_second_anchor" => Some("token_second_anchor"),
                    "token_replayed" => Some("token_replayed"),
                    // A job that has no token, or a provider that is away, is no attempt.
                    "token_absent" | "token_not_found" | "lookup_hint" => None,
                    "lookup_credential" | "lookup_rate_limited" | "lookup_too_often" => None,
                    other if other.starts_with("provider_") => None,
                    _ => Some("identity_refused"),
                };
                if let Some(kind) = alarm {
                    self.alarm(kind, peer, &refusal.message).await;
                }
                Err(refusal)
            }
        }
    }

    /// The caller's job is over. On GitHub the worker still sends the job's logs: there the job ends
    /// with its worker.
    pub(super) fn job_end(self: &Rc<Self>, peer: &Peer, kind: &str) -> Result<usize, Refusal> {
        let member = self.with_anchors(|anchors| anchors.member(peer.key.tgid))?;
        let Some(member) = member.filter(|member| !member.is_ended) else { return Ok(0) };
        if kind != Kind::Github.as_str() {
            let job = self.jobs.borrow().get(&member.id).map(Rc::clone);
            self.end(member.id, job.as_ref());
        }
        Ok(1)
    }

    fn begin(self: &Rc<Self>, root: ProcessKey, subject: &Peer) -> Result<Rc<Job>, Refusal> {
        let anchor = self.with_anchors(|anchors| anchors.begin(root.tgid))?;
        if anchor.started_ns != root.start_time_ns || subject.lives().is_err() {
            self.end(anchor.id, None);
            return Err(Refusal::new("no_process", "the worker or the caller has ended"));
        }
        let path = subject.cgroup().unwrap_or_default();
        let cgroup = self.job_cgroup(&path).map(str::to_owned);
        let id = anchor.id;
        let followed = self.enter(id, cgroup.as_deref());
        followed.and_then(|bound| self.follow(anchor, bound, cgroup)).inspect_err(|_refusal| {
            self.end(id, None);
        })
    }

    /// A job begins in a cgroup, of which another may have been the only one until now.
    fn enter(
        self: &Rc<Self>,
        id: anchors::AnchorId,
        cgroup: Option<&str>,
    ) -> Result<Arc<Bound>, Refusal> {
        let registry = &self.shared.registry;
        let first = cgroup.and_then(|cgroup| registry.only_job(cgroup));
        let bound = registry.begin_job(id, cgroup);
        let bound = bound.map_err(|e| Refusal::new("registry_full", e.to_string()))?;
        let first = first.and_then(|first| self.jobs.borrow().get(&first).map(Rc::clone));
        if let Some(first) = first {
            self.keep_soon(&first);
        }
        Ok(bound)
    }

    /// Takes care of an anchor until it ends.
    fn follow(
        self: &Rc<Self>,
        anchor: anchors::Anchor,
        bound: Arc<Bound>,
        cgroup: Option<String>,
    ) -> Result<Rc<Job>, Refusal> {
        let id = anchor.id;
        let started = anchors::started_wall_us(&anchor, self.shared.seams.clock.wall().0)?;
        let process = ProcessKey { tgid: anchor.root, start_time_ns: anchor.started_ns };
        let job = Rc::new(Job {
            anchor: Anchor {
                id: binding::AnchorId { id: id.0, process },
                started: WallUs(started),
            },
            bound,
            cgroup,
            renewal: RefCell::default(),
        });
        self.jobs.borrow_mut().insert(id, Rc::clone(&job));
        let (desk, followed) = (Rc::clone(self), Rc::clone(&job));
        tokio::task::spawn_local(async move {
            tokio::select! {
                ended = anchor.ended() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the end of a job cannot be seen: it ends now");
                    }
                }
                () = desk.renew(&followed) => {}
                // It goes on with whoever comes next.
                () = desk.shared.shutdown.cancelled() => return,
            }
            desk.end(id, Some(&followed));
        });
        Ok(job)
    }

    /// Anchors of an earlier gateway go on, with who they are where that was kept; the hooks of others
    /// may say it again.
    pub(super) fn resume(self: &Rc<Self>) {
        let Ok(living) = self.with_anchors(Anchors::resume) else { return };
        for anchor in living {
            let id = anchor.id;
            let path = Peer::numbered(anchor.root).ok().and_then(|root| root.cgroup());
            let cgroup = path.as_deref().and_then(|path| self.job_cgroup(path));
            let cgroup = cgroup.map(str::to_owned);
            let bound = match self.shared.registry.job(id) {
                Some(kept) => Ok(kept),
                None => self.enter(id, cgroup.as_deref()).inspect(|bound| bound.refuse()),
            };
            if let Err(refusal) = bound.and_then(|bound| self.follow(anchor, bound, cgroup)) {
                tracing::warn!(error = %refusal.message, "a job of an earlier gateway ends");
                self.end(id, None);
            }
        }
    }

    fn end(self: &Rc<Self>, id: anchors::AnchorId, job: Option<&Rc<Job>>) {
        if let Err(refusal) = self.with_anchors(|anchors| anchors.end(id)) {
            tracing::error!(error = %refusal.message, "ending an anchor");
        }
        self.jobs.borrow_mut().remove(&id);
        if let Some(job) = job {
            job.bound.end(End::Over);
            self.issuers.verifier.anchor_ended(job.anchor.id);
            // The kernel knows, too: nothing depends on the file.
            self.keep_soon(job);
        }
    }

    /// Gets a token of one of these issuers, verifies it, and binds what it says.
    async fn present(
        &self,
        job: &Job,
        issuers: &[Issuer],
        environment: &Environment,
    ) -> Result<Arc<Who>, Refusal> {
        let mut refusal = Refusal::new("token_not_found", "no token was found");
        for issuer in issuers {
            match self.vouched(job, issuer, environment).await {
                Ok(vouched) => {
                    let bound = self.bind(job, issuer, environment, vouched);
                    // Before the hook is told, and whether the token was taken or only seen.
                    self.keep(job).await;
                    return bound;
                }
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    fn bind(
        &self,
        job: &Job,
        issuer: &Issuer,
        environment: &Environment,
        Vouched { who, until }: Vouched,
    ) -> Result<Arc<Who>, Refusal> {
        let refused = |error: RegistryError| {
            let outcome = match error {
                RegistryError::Ended => "identity_expired",
                RegistryError::Another => "identity_taken",
                RegistryError::Full => "registry_full",
            };
            Refusal::new(outcome, error.to_string())
        };
        tracing::info!(who = %who.display, method = who.method, anchor = job.anchor.id.id, "job identified");
        job.bound.bind(who.clone(), until).map_err(refused)?;
        let asks = matches!(issuer.kind, Kind::Github | Kind::Buildkite | Kind::AzureDevops);
        *job.renewal.borrow_mut() = asks.then(|| Renewal {
            issuer: issuer.clone(),
            environment: environment.clone(),
            at: self.renewal_at(until),
        });
        Ok(job.bound.who(AnchorSource::Fork).unwrap_or_else(|| Arc::new(who)))
    }

    fn renewal_at(&self, until: WallUs) -> tokio::time::Instant {
        let left_us = until.0.saturating_sub(self.shared.seams.clock.wall().0);
        let left = Duration::from_micros(u64::try_from(left_us).unwrap_or_default());
        tokio::time::Instant::now() + (left / 5 * 4).max(LEAST_RENEWAL)
    }

    /// Gets another token before each expires, where the CI system gives one on demand. Never ends.
    async fn renew(&self, job: &Job) {
        loop {
            let renewal = job.renewal.borrow().clone();
            let Some(Renewal { issuer, environment, at }) = renewal else {
                // Nothing to renew yet, or ever.
                tokio::time::sleep(LEAST_RENEWAL).await;
                continue;
            };
            tokio::time::sleep_until(at).await;
            if let Err(refusal) = self.present(job, &[issuer], &environment).await {
                tracing::warn!(outcome = refusal.outcome, error = %refusal.message, "token of a job not renewed");
                if let Some(renewal) = job.renewal.borrow_mut().as_mut() {
                    renewal.at = tokio::time::Instant::now() + LEAST_RENEWAL;
                }
            }
        }
    }
}
