//! Who is who right now: jobs by anchor, people by login session.
//!
//! - input: what was verified, and when it ends; at connect, a process
//! - output: [`Standing`]: who the process acts for, and whether that still holds
//! - bound: [`MAX_JOBS`] and [`MAX_PEOPLE`]; a look-up is one read lock and one map, no network
//! - on failure: [`RegistryError`]; whoever is not here is unidentified
//!
//! Everything is in memory; what an earlier gateway knew is adopted from files. A process with an anchor is its job's or nobody's: it is never looked up
//! by cgroup or session, so that an orphan does not become the next job's.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::Identity;
use super::bound::{Bound, End, State};
use super::standing::{PENDING, Standing};
use super::who::Who;
use crate::capture::Process;
use crate::capture::anchors::{AnchorId, AnchorSource, Membership};
use crate::capture::session::Login;
use crate::clock::WallUs;

/// Jobs, those that ended not long ago included.
pub const MAX_JOBS: usize = 1024;
/// People who are logged in.
pub const MAX_PEOPLE: usize = 4096;
/// Cgroups of jobs whose containers are known by them.
const MAX_CGROUPS: usize = 4096;

/// A login of a user of this boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Who logged in; without a session, whose process it is.
    pub uid: u32,
    /// Which login; `None` on hosts that record none: then all of the user's processes share one.
    pub login: Option<Login>,
}

impl SessionKey {
    /// The session of a process. Through `su` and `sudo` it stays that of the login.
    pub fn of(uid: u32, login: Option<Login>) -> Self {
        Self { uid: login.as_ref().map_or(uid, Login::uid), login }
    }
}

/// Why something is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Too many live ones.
    #[error("registering an identity: there are too many")]
    Full,
    /// The job has ended, or was revoked.
    #[error("registering an identity: the job has ended")]
    Ended,
    /// The process tree has another identity already, and keeps it.
    #[error("registering an identity: the process tree has another one")]
    Another,
}

/// What `weir identities` lists.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Whose.
    pub who: Arc<Who>,
    /// Where it stands.
    pub state: State,
    /// A job's anchor.
    pub anchor: Option<AnchorId>,
    /// A person's login.
    pub session: Option<SessionKey>,
}

/// All of them. Threads share it.
#[derive(Debug, Default)]
pub struct Registry {
    jobs: RwLock<BTreeMap<AnchorId, Arc<Bound>>>,
    people: RwLock<HashMap<SessionKey, Arc<Bound>>>,
    /// First levels below the captured cgroup with the only job that ever began in each; `None` for
    /// those that more than one did.
    cgroups: RwLock<HashMap<Arc<str>, Option<AnchorId>>>,
    /// Nobody else knows a job that we do not: no older gateway registers any more.
    complete: CancellationToken,
}

impl Registry {
    /// A job begins: its processes wait for what becomes of it. `cgroup` is the first level below the
    /// captured cgroup, where it has one.
    ///
    /// # Errors
    /// [`RegistryError::Full`]
    pub fn begin_job(
        &self,
        anchor: AnchorId,
        cgroup: Option<&str>,
    ) -> Result<Arc<Bound>, RegistryError> {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MAX_JOBS {
            let ended = jobs.iter().find(|(_, job)| job.has_ended()).map(|(id, _)| *id);
            jobs.remove(&ended.ok_or(RegistryError::Full)?);
        }
        let job = Arc::new(Bound::pending());
        jobs.insert(anchor, Arc::clone(&job));
        drop(jobs);
        if let Some(cgroup) = cgroup {
            self.enter(cgroup, Some(anchor));
        }
        Ok(job)
    }

    /// A job that an earlier gateway knew, or another one knows now: begins it here, or follows what
    /// became of it there. `cgroup` comes with whether the job is the only one that ever began in it.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn adopt(
        &self,
        anchor: AnchorId,
        cgroup: Option<(&str, bool)>,
        who: Option<Who>,
        state: State,
    ) -> Result<(), RegistryError> {
        let job = match self.job(anchor) {
            Some(job) => job,
            None => self.begin_job(anchor, None)?,
        };
        if let Some((cgroup, is_only)) = cgroup {
            self.enter(cgroup, is_only.then_some(anchor));
        }
        if let Some(who) = who.filter(|_| !job.has_ended()) {
            // What has ended was good for some time, for the record.
            let until = if let State::Active(until) = state { until } else { WallUs(0) };
            job.bind(who, until)?;
        }
        match state {
            State::Ended(how) => job.end(how),
            State::Pending | State::Refused => job.refuse(),
            State::Active(_) => {}
        }
        Ok(())
    }

    /// A job in a cgroup; `None` for more than one.
    fn enter(&self, cgroup: &str, job: Option<AnchorId>) {
        let mut cgroups = self.cgroups.write().unwrap_or_else(PoisonError::into_inner);
        // Without a place its containers are unidentified.
        let has_room = cgroups.len() < MAX_CGROUPS;
        match cgroups.get_mut(cgroup) {
            Some(first) if *first == job => {}
            Some(first) => *first = None,
            None if has_room => drop(cgroups.insert(cgroup.into(), job)),
            None => {}
        }
    }

    /// The only job that ever began in a cgroup.
    pub fn only_job(&self, cgroup: &str) -> Option<AnchorId> {
        let cgroups = self.cgroups.read().unwrap_or_else(PoisonError::into_inner);
        cgroups.get(cgroup).copied().flatten()
    }

    /// Every job that any gateway registered is known here.
    pub fn completed(&self) {
        self.complete.cancel();
    }

    /// Waits until every job is known, while an older gateway may have registered this one: not for
    /// long.
    pub async fn await_job(&self, anchor: AnchorId) {
        if !self.complete.is_cancelled() && self.job(anchor).is_none() {
            // Late is the same as never: unidentified.
            drop(tokio::time::timeout(PENDING, self.complete.cancelled()).await);
        }
    }

    /// The job of an anchor.
    pub fn job(&self, anchor: AnchorId) -> Option<Arc<Bound>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&anchor).map(Arc::clone)
    }

    /// A person has logged in, or has logged in again: then their connections go on.
    ///
    /// # Errors
    /// [`RegistryError::Full`]
    pub fn bind_person(
        &self,
        key: SessionKey,
        who: Who,
        expires_at: WallUs,
    ) -> Result<(), RegistryError> {
        let mut people = self.people.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = people.get(&key) {
            if before.bind(who.clone(), expires_at).is_ok() {
                return Ok(());
            }
            before.end(End::Over);
        }
        if people.len() >= MAX_PEOPLE && !people.contains_key(&key) {
            people.retain(|_, person| !person.has_ended());
        }
        if people.len() >= MAX_PEOPLE && !people.contains_key(&key) {
            return Err(RegistryError::Full);
        }
        let person = Bound::pending();
        person.bind(who, expires_at)?;
        people.insert(key, Arc::new(person));
        Ok(())
    }

    /// A person's login was refreshed, which brings back nobody who was revoked meanwhile.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn extend_person(
        &self,
        key: SessionKey,
        who: Who,
        expires_at: WallUs,
    ) -> Result<(), RegistryError> {
        match self.person(&key) {
            Some(person) => person.bind(who, expires_at),
            None => self.bind_person(key, who, expires_at),
        }
    }

    /// Everybody who is logged in, by another gateway, which serves now: others are cut here.
    pub fn follow_people(&self, all: &[(SessionKey, Who, WallUs)]) {
        let all: HashMap<_, _> = all.iter().map(|(key, who, until)| (key, (who, until))).collect();
        let mut people = self.people.write().unwrap_or_else(PoisonError::into_inner);
        people.retain(|key, person| {
            let now = all.get(key);
            let goes_on =
                now.is_some_and(|(who, until)| person.bind((*who).clone(), **until).is_ok());
            if !goes_on {
                person.end(End::Revoked);
            }
            goes_on
        });
    }

    /// A person has logged out, or their session is over. Open connections are cut.
    pub fn unbind_person(&self, key: &SessionKey) {
        let mut people = self.people.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(person) = people.remove(key) {
            person.end(End::Revoked);
        }
    }

    /// The person of a session, where somebody is logged in.
    pub fn person(&self, key: &SessionKey) -> Option<Arc<Bound>> {
        let people = self.people.read().unwrap_or_else(PoisonError::into_inner);
        people.get(key).map(Arc::clone)
    }

    /// Whether anybody is logged in: without, nobody's session needs to be known.
    pub fn has_people(&self) -> bool {
        !self.people.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Who a process acts for. `container_of` is the first level of its cgroup if it runs in a
    /// container; `session` is asked only when it is needed.
    pub fn look_up(
        &self,
        anchor: Option<Membership>,
        container_of: Option<&str>,
        session: impl FnOnce() -> SessionKey,
    ) -> Standing {
        if let Some(member) = anchor {
            return Standing::of_job(self.job(member.id), member.source, member.is_ended);
        }
        let only = container_of.and_then(|cgroup| self.only_job(cgroup));
        if let Some(job) = only.and_then(|id| self.job(id)) {
            return Standing::of_job(Some(job), AnchorSource::Cgroup, false);
        }
        if self.has_people() {
            return Standing::of_person(self.person(&session()));
        }
        Standing::unidentified()
    }

    /// A process as it acts now: for whom somebody vouches, or else for its user. Unlike connections, it
    /// does not wait for the token of a job that has just begun.
    pub async fn acting(
        &self,
        process: &Process,
        identity: Rc<Identity>,
        now: WallUs,
    ) -> Rc<Identity> {
        if let Some(member) = process.anchor {
            self.await_job(member.id).await;
        }
        let session = || identity.session(process.uid);
        let standing = self.look_up(process.anchor, identity.container_of(), session);
        standing
            .who(now)
            .map_or_else(|| Rc::clone(&identity), |who| identity.acting_for(who).into())
    }

    /// Takes an identity back: by what it is called, by its subject, or by its anchor's number.
    /// Connections are cut; answers how many identities it was.
    pub fn revoke(&self, name: &str) -> usize {
        let number = name.parse::<u64>().ok().map(AnchorId);
        let mut revoked = 0;
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let people = self.people.read().unwrap_or_else(PoisonError::into_inner);
        let jobs = jobs.iter().map(|(id, job)| (Some(*id), job));
        for (id, bound) in jobs.chain(people.values().map(|person| (None, person))) {
            let is_it = (id.is_some() && id == number) || bound.is_called(name);
            if is_it && !bound.has_ended() {
                bound.end(End::Revoked);
                revoked += 1;
            }
        }
        revoked
    }

    /// Everybody, jobs first.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |bound: &Bound, source, anchor, session| {
            bound.who(source).map(|who| Listed { who, state: bound.state(), anchor, session })
        };
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let people = self.people.read().unwrap_or_else(PoisonError::into_inner);
        let jobs = jobs.iter().map(|(id, job)| listed(job, AnchorSource::Fork, Some(*id), None));
        let people = people
            .iter()
            .map(|(key, person)| listed(person, AnchorSource::Session, None, Some(key.clone())));
        jobs.chain(people).flatten().collect()
    }
}

#[cfg(test)]
mod tests;
