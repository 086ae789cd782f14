//! What may be asked about identities, by whom, and what becomes of it.
//!
//! - input: an order and who gives it
//! - output: a reply; changes of the registry
//! - bound: see the registry and the anchors
//! - on failure: [`Refusal`]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Issuers;
use super::job::Job;
use super::keeper::Keeper;
use super::peer::Peer;
use super::people;
use crate::app::Shared;
use crate::app::worker::identifier;
use crate::capture::anchors::{AnchorError, AnchorId, Anchors, Membership};
use crate::capture::container::container_id;
use crate::error::Faulty;
use crate::identify::bound::{End, State};
use crate::identify::login::Logins;
use crate::identify::registry::{Listed, SessionKey};
use crate::identify::standing::{Standing, Verdict};
use crate::identify::wire::{Order, Person, Reply};
use crate::identify::{HOST_JOB, Identifier, job_of, process};
use crate::inspect::mask;
use crate::record::alarm::Subject;
use crate::record::{Alarm, Severity};

/// Why an order is not obeyed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(outcome: &'static str, message: impl Into<String>) -> Self {
        Self { outcome, message: message.into() }
    }
}

impl<T: Faulty> From<T> for Refusal {
    fn from(error: T) -> Self {
        Self::new(error.outcome(), error.to_string())
    }
}

/// The state of the thread.
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) issuers: Issuers,
    /// `None` where nothing is attached.
    pub(super) anchors: RefCell<Option<Anchors>>,
    /// Of every living anchor, what presents its tokens.
    pub(super) jobs: RefCell<BTreeMap<AnchorId, Rc<Job>>>,
    /// Users that may register jobs.
    runners: Vec<u32>,
    identifier: Identifier,
    /// `None` where people cannot log in.
    pub(super) logins: Option<Arc<Logins>>,
    /// `None` where jobs cannot be kept over a restart.
    pub(super) keeper: Option<Keeper>,
}

impl Desk {
    pub(super) fn open(shared: Arc<Shared>, issuers: Issuers) -> Self {
        let anchors = if shared.maps.has("ANCHORS") {
            Anchors::open(&shared.maps)
                .inspect_err(|error| tracing::error!(%error, "ci jobs cannot be registered"))
                .ok()
        } else {
            None
        };
        let runners = shared.config.identity.runners.iter().filter_map(|name| user(name)).collect();
        let identifier = identifier(&shared);
        let logins = people::logins(&shared, &issuers);
        if let Some(logins) = &logins {
            // Set once: there is one desk.
            drop(shared.logins.set(Arc::clone(logins)));
        }
        let keeper = Keeper::open(&shared.config.identity);
        Self {
            shared,
            issuers,
            anchors: RefCell::new(anchors),
            jobs: RefCell::default(),
            runners,
            identifier,
            logins,
            keeper,
        }
    }

    pub(super) async fn obey(self: &Rc<Self>, peer: &Peer, order: Order) -> Result<Reply, Refusal> {
        match order {
            Order::JobStart { kind, environment, pid } => {
                self.may_register(peer, pid).await?;
                let who = self.job_start(peer, &kind, environment, pid).await?;
                Ok(Reply::People { people: vec![who] })
            }
            Order::JobEnd { kind } => {
                self.may_register(peer, None).await?;
                Ok(Reply::Done { count: self.job_end(peer, &kind)? })
            }
            Order::LoginCode { issuer, redirect } => {
                self.login_code(peer, issuer.as_deref(), &redirect).await
            }
            Order::LoginAnswer { id, answer } => self.login_answer(peer, id, &answer).await,
            // Answered by who has the connection.
            Order::LoginDevice { .. } => Err(Refusal::new("not_allowed", "not here")),
            Order::Logout => self.logout(peer).await,
            Order::Whoami => Ok(Reply::People { people: vec![self.person(peer)] }),
            Order::Whois { pid } => {
                let other = Peer::numbered(pid);
                let other = other.map_err(|e| Refusal::new("no_process", e.to_string()))?;
                if peer.uid != 0 && peer.uid != other.uid {
                    return Err(Refusal::new("not_allowed", "that is another user's process"));
                }
                Ok(Reply::People { people: vec![self.person(&other)] })
            }
            Order::List => {
                only_root(peer)?;
                let people = self.shared.registry.list().iter().map(listed).collect();
                Ok(Reply::People { people })
            }
            Order::Revoke { name } => {
                only_root(peer)?;
                let count = self.shared.registry.revoke(&name);
                tracing::info!(name, count, "identities revoked");
                self.keep_revoked().await;
                Ok(Reply::Done { count })
            }
        }
    }

    async fn may_register(&self, peer: &Peer, pid: Option<u32>) -> Result<(), Refusal> {
        if peer.uid == 0 || (pid.is_none() && self.runners.contains(&peer.uid)) {
            return Ok(());
        }
        let refusal = Refusal::new("not_allowed", "the user is none of identity.runners");
        self.alarm("identity_refused", peer, &refusal.message).await;
        Err(refusal)
    }

    /// Who a process acts for, as a connection of it would be seen.
    fn person(&self, peer: &Peer) -> Person {
        let standing = self.standing(peer);
        let now = self.shared.seams.clock.wall();
        let state = match standing.verdict(now) {
            Verdict::Verified => "active",
            Verdict::Expired => "expired",
            Verdict::Revoked => "revoked",
            Verdict::Unidentified => "unidentified",
        };
        let anchor = self.member(peer).map(|member| member.id.0);
        match standing.who(now) {
            Some(who) => Person::of(&who, state, anchor),
            None => Person { anchor, ..Person::nobody() },
        }
    }

    fn member(&self, peer: &Peer) -> Option<Membership> {
        let anchors = self.anchors.borrow();
        anchors.as_ref()?.member(peer.key.tgid).ok()?
    }

    fn standing(&self, peer: &Peer) -> Standing {
        let path = peer.cgroup().unwrap_or_default();
        let container = container_id(&path).and_then(|_| self.job_cgroup(&path));
        let session = || SessionKey::of(peer.uid, process::login(peer.key, &path));
        self.shared.registry.look_up(self.member(peer), container, session)
    }

    /// The first level below the captured cgroup.
    pub(super) fn job_cgroup<'a>(&self, path: &'a str) -> Option<&'a str> {
        let captured = self.shared.config.capture.cgroup.to_str()?;
        let below = path.trim_start_matches('/').strip_prefix(captured)?.strip_prefix('/')?;
        Some(job_of(below)).filter(|job| !job.is_empty() && *job != HOST_JOB)
    }

    /// Tells of something that a process tried.
    pub(super) async fn alarm(&self, kind: &'static str, peer: &Peer, detail: &str) {
        let process = peer.process();
        let mut identity = (*self.identifier.identify(&process).await).clone();
        if let Some(who) = self.standing(peer).who(self.shared.seams.clock.wall()) {
            identity = identity.acting_for(who);
        }
        let argv = mask::argv(&self.shared.inspection.own_lens(), &process.argv);
        let subject = Subject { process, identity, argv, ancestors: Vec::new() };
        let mut alarm = Alarm::new(kind, Severity::Error, detail);
        alarm.process = Some(Box::new(subject));
        self.shared.recorder.alarm(alarm);
    }

    /// The kernel's anchors, if something is attached.
    pub(super) fn with_anchors<T>(
        &self,
        use_them: impl FnOnce(&mut Anchors) -> Result<T, AnchorError>,
    ) -> Result<T, Refusal> {
        let mut anchors = self.anchors.borrow_mut();
        let anchors = anchors.as_mut();
        let anchors = anchors.ok_or_else(|| Refusal::new("not_attached", "nothing is captured"))?;
        Ok(use_them(anchors)?)
    }

    pub(super) fn sweep(&self) {
        if let Err(refusal) = self.with_anchors(Anchors::sweep)
            && refusal.outcome != "not_attached"
        {
            tracing::warn!(error = %refusal.message, "anchored processes not swept");
        }
    }

    pub(super) async fn refresh_keys(&self) -> std::time::Duration {
        self.issuers.verifier.refresh_keys().await
    }
}

fn only_root(peer: &Peer) -> Result<(), Refusal> {
    if peer.uid == 0 { Ok(()) } else { Err(Refusal::new("not_allowed", "only root may do this")) }
}

fn listed(one: &Listed) -> Person {
    let state = match one.state {
        State::Pending => "pending",
        State::Refused => "refused",
        State::Active(_) => "active",
        State::Ended(End::Over) => "expired",
        State::Ended(End::Revoked) => "revoked",
    };
    Person::of(&one.who, state, one.anchor.map(|id| id.0))
}

/// By name or number.
fn user(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Some(user.uid.as_raw()),
        Ok(None) | Err(_) => {
            tracing::warn!(name, "identity.runners: there is no such user");
            None
        }
    }
}
