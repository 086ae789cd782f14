//! Who is who, over restarts and handovers: written when it changes, adopted from an earlier gateway.
//!
//! - input: jobs of this gateway; files of an earlier one
//! - output: files; jobs and people in the registry
//! - bound: see `identify::kept`; one write at a time
//! - on failure: an alarm; a job that cannot be kept lives as long as this process, one that cannot
//!   be read is unidentified

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Issuers;
use super::desk::Desk;
use super::job::Job;
use crate::app::Shared;
use crate::capture::anchors::{AnchorId, AnchorSource, Anchors};
use crate::capture::cgroup;
use crate::config::identity::Identity;
use crate::identify::binding;
use crate::identify::bound::{End, State};
use crate::identify::kept::{Changes, Held, Jobs, KeptJob};
use crate::identify::login::{Sessions, kept_people};
use crate::identify::process::kernel_boot_id;
use crate::identify::registry::MAX_JOBS;
use crate::record::{Alarm, Severity};

/// Between two looks whether an older gateway has let go.
const HOLD_RETRY: Duration = Duration::from_millis(50);
/// Jobs that are over and still have a name.
const MAX_OVER: usize = MAX_JOBS / 2;
/// After so many of them somebody should know.
const HOLD_TOLD: u32 = 1200;

/// The directory of jobs.
pub(super) struct Keeper {
    jobs: Jobs,
    /// One write at a time: the last one has the newest state. False when it is another gateway's
    /// turn.
    writing: tokio::sync::Mutex<bool>,
}

impl Keeper {
    /// `None` where no provider is configured, or the directory cannot be used.
    pub(super) fn open(config: &Identity) -> Option<Self> {
        if config.issuers.is_empty() {
            return None;
        }
        let jobs = Jobs::open(&config.state_dir)
            .inspect_err(|error| tracing::error!(%error, "jobs will not outlive a restart"))
            .ok()?;
        Some(Self { jobs, writing: tokio::sync::Mutex::new(true) })
    }

    /// Waits until no other gateway changes the directory.
    pub(super) async fn hold(&self) -> Option<Held> {
        let mut tries = 0_u32;
        loop {
            match self.jobs.hold() {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the directory of jobs cannot be held");
                    return None;
                }
            }
            tries = tries.saturating_add(1);
            if tries == HOLD_TOLD {
                let path = self.jobs.path().display();
                tracing::error!(%path, "another gateway does not let go of the directory of jobs");
            }
            tokio::time::sleep(HOLD_RETRY).await;
        }
    }

    /// Writes nothing any more, and lets another gateway do it.
    async fn release(&self, held: Option<Held>) {
        *self.writing.lock().await = false;
        drop(held);
    }
}

impl Desk {
    /// Takes over from an earlier gateway once it has let go. From then on all jobs are known here.
    pub(super) async fn take_over(self: &Rc<Self>) -> Option<Held> {
        let held = match &self.keeper {
            Some(keeper) => keeper.hold().await,
            None => None,
        };
        adopt(&self.shared, &self.issuers);
        self.resume();
        self.prune();
        self.shared.registry.completed();
        held
    }

    /// Lets a newer gateway take over.
    pub(super) async fn let_go(&self, held: Option<Held>) {
        if let Some(keeper) = &self.keeper {
            keeper.release(held).await;
        }
    }

    /// Keeps a job as it is now.
    pub(super) async fn keep(&self, job: &Job) {
        let Some(keeper) = &self.keeper else { return };
        let writing = keeper.writing.lock().await;
        if !*writing {
            return;
        }
        let (jobs, kept) = (keeper.jobs.clone(), self.kept(job));
        let saved = tokio::task::spawn_blocking(move || jobs.save(&kept)).await;
        if let Ok(Err(error)) = saved {
            let detail = format!("a job will not outlive a restart: {error}");
            tracing::error!("{detail}");
            self.shared.recorder.alarm(Alarm::new("identity_not_kept", Severity::Error, detail));
        }
    }

    /// The same, not waiting for it.
    pub(super) fn keep_soon(self: &Rc<Self>, job: &Rc<Job>) {
        let (desk, job) = (Rc::clone(self), Rc::clone(job));
        tokio::task::spawn_local(async move { desk.keep(&job).await });
    }

    /// Keeps who was revoked, before anybody is told so.
    pub(super) async fn keep_revoked(&self) {
        let revoked = |job: &Rc<Job>| job.bound.state() == State::Ended(End::Revoked);
        let jobs: Vec<Rc<Job>> =
            self.jobs.borrow().values().filter(|job| revoked(job)).map(Rc::clone).collect();
        for job in jobs {
            self.keep(&job).await;
        }
        if let Some(logins) = self.logins.as_ref().map(Arc::clone) {
            drop(tokio::task::spawn_blocking(move || logins.forget_revoked()).await);
        }
    }

    fn kept(&self, job: &Job) -> KeptJob {
        let id = AnchorId(job.anchor.id.id);
        let only = |cgroup: &String| self.shared.registry.only_job(cgroup) == Some(id);
        KeptJob {
            boot: kernel_boot_id(),
            anchor: job.anchor.id,
            state: job.bound.state(),
            who: job.bound.who(AnchorSource::Fork).map(|who| (*who).clone()),
            cgroup: job.cgroup.as_ref().map(|cgroup| (cgroup.clone(), only(cgroup))),
            remembered: self.issuers.verifier.presented(job.anchor.id),
        }
    }

    /// Files of jobs that are over go when nothing that they presented can come again.
    pub(super) fn prune(&self) {
        let Some(keeper) = &self.keeper else { return };
        let living = self.jobs.borrow();
        let is_over = |job: &KeptJob| !living.contains_key(&AnchorId(job.anchor.id));
        if let Err(error) = keeper.jobs.prune(self.shared.seams.clock.wall(), is_over) {
            tracing::warn!(%error, "kept jobs are not tidied up");
        }
    }
}

/// Takes over who an earlier gateway knew, as far as the kernel says that it goes on. Also of one that
/// still runs: what changes there until it lets go is taken over by another call. Blocks.
pub(in crate::app) fn adopt(shared: &Shared, issuers: &Issuers) {
    let config = &shared.config.identity;
    let Some(keeper) = Keeper::open(config) else { return };
    match kept_people(&config.state_dir, &config.issuers, &sessions()) {
        Ok(people) => {
            let now = shared.seams.clock.wall();
            for (key, who, until) in people.into_iter().filter(|(_, _, until)| until.0 > now.0) {
                if let Err(error) = shared.registry.extend_person(key, who, until) {
                    tracing::debug!(%error, "a kept login is not taken over");
                }
            }
        }
        Err(error) => tracing::error!(%error, "people are not known until they are refreshed"),
    }
    let loaded = match keeper.jobs.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(%error, "jobs of an earlier gateway are not known any more");
            return;
        }
    };
    for name in loaded.broken {
        let detail =
            format!("{name} in the directory of jobs is no kept job: it counts for nothing");
        tracing::error!("{detail}");
        shared.recorder.alarm(Alarm::new("identity_state_broken", Severity::Error, detail));
    }
    let anchors = shared.maps.has("ANCHORS").then(|| Anchors::open(&shared.maps).ok()).flatten();
    // Living ones first: they must find room.
    let (living, over): (Vec<KeptJob>, Vec<KeptJob>) = loaded.jobs.into_iter().partition(|job| {
        let (id, root) = (AnchorId(job.anchor.id), job.anchor.process);
        let known = anchors.as_ref().is_some_and(|all| all.goes_on(id, root).unwrap_or(false));
        job.boot == kernel_boot_id() && known
    });
    for job in living {
        issuers.verifier.remember(job.anchor, &job.remembered);
        adopt_job(shared, job);
    }
    // The newest first, as long as there is room: it is only for the record.
    for (count, job) in over.into_iter().rev().enumerate() {
        let is_ours = job.boot == kernel_boot_id();
        // No anchor has number 0: what was presented in another boot is nobody's.
        let anchor = if is_ours { job.anchor } else { binding::AnchorId { id: 0, ..job.anchor } };
        issuers.verifier.remember(anchor, &job.remembered);
        issuers.verifier.anchor_ended(anchor);
        if is_ours && count < MAX_OVER {
            let state = match job.state {
                State::Ended(how) => State::Ended(how),
                _ => State::Ended(End::Over),
            };
            adopt_job(shared, KeptJob { state, ..job });
        }
    }
}

fn adopt_job(shared: &Shared, job: KeptJob) {
    let KeptJob { anchor, cgroup, who, state, .. } = job;
    let cgroup = cgroup.as_ref().map(|(name, is_only)| (name.as_str(), *is_only));
    let adopted = shared.registry.adopt(AnchorId(anchor.id), cgroup, who, state);
    if let Err(error) = adopted {
        tracing::debug!(%error, anchor = anchor.id, "a kept job is not taken over");
    }
}

/// This gateway has handed over: what becomes of its identities is told by the files of the newer one,
/// until nobody is left who has them.
pub(super) async fn follow(shared: &Arc<Shared>) {
    let config = &shared.config.identity;
    let Some(keeper) = Keeper::open(config) else { return };
    let told = |error: std::io::Error| {
        tracing::error!(%error, "revocations do not reach connections of this older gateway");
    };
    let watched = [config.state_dir.as_path(), keeper.jobs.path()];
    let mut changes = match Changes::of(&watched) {
        Ok(changes) => changes,
        Err(error) => return told(error),
    };
    let keeper = Arc::new(keeper);
    // What changed before somebody watched is there, too.
    loop {
        let (shared, keeper) = (Arc::clone(shared), Arc::clone(&keeper));
        drop(tokio::task::spawn_blocking(move || look(&shared, &keeper)).await);
        if let Err(error) = changes.next().await {
            return told(error);
        }
    }
}

/// What has become of this gateway's identities. Blocks.
fn look(shared: &Shared, keeper: &Keeper) {
    let config = &shared.config.identity;
    if shared.registry.has_people() {
        match kept_people(&config.state_dir, &config.issuers, &sessions()) {
            Ok(people) => shared.registry.follow_people(&people),
            Err(error) => tracing::error!(%error, "logins of the newer gateway cannot be seen"),
        }
    }
    for one in shared.registry.list() {
        let Some(id) = one.anchor.filter(|_| !matches!(one.state, State::Ended(_))) else {
            continue;
        };
        if let Some(job) = keeper.jobs.get(id.0).filter(|job| job.boot == kernel_boot_id()) {
            adopt_job(shared, KeptJob { cgroup: None, ..job });
        }
    }
}

/// Where login sessions are looked for.
pub(super) fn sessions() -> Sessions {
    Sessions::new(kernel_boot_id(), "/proc".into(), cgroup::mount().ok())
}
