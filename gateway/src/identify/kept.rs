//! Jobs that outlive a restart of the gateway: one file each, without any token.
//!
//! - input: [`KeptJob`]s: who it is, until when, and hashes of the tokens that were presented
//! - output: the same after a restart, after a crash, and for another gateway
//! - bound: `limits::MAX_KEPT_JOBS` files of `limits::MAX_KEPT_JOB_BYTES`
//! - on failure: the operating system's answer; a file that is no kept job is told and counts for nothing
//!
//! A file says nothing about whether its job goes on: that is the kernel's to say.

use std::io::Result;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::binding::{AnchorId, Remembered};
use super::bound::{End, State};
use super::oidc::claims;
use super::private::Dir;
pub use super::private::Held;
use super::who::Who;
use crate::capture::ProcessKey;
use crate::clock::WallUs;
use crate::limits::{MAX_KEPT_JOB_BYTES, MAX_KEPT_JOBS};

mod changes;

pub use changes::Changes;

const VERSION: u32 = 1;
/// Below `identity.state_dir`.
const DIRECTORY: &str = "jobs";

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptJob {
    /// Boot of the kernel that its anchor belongs to.
    pub boot: Uuid,
    /// Its anchor.
    pub anchor: AnchorId,
    /// Where it stood: pending is the same as refused.
    pub state: State,
    /// Who it is, if that was ever known.
    pub who: Option<Who>,
    /// First level below the captured cgroup, and whether it is the only job that ever began there.
    pub cgroup: Option<(String, bool)>,
    /// What it presented.
    pub remembered: Remembered,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Jobs, in the order in which they began.
    pub jobs: Vec<KeptJob>,
    /// Names of files that are none.
    pub broken: Vec<String>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    boot: Uuid,
    anchor: u64,
    root: u32,
    started_ns: u64,
    state: WrittenState,
    who: Option<WrittenWho>,
    cgroup: Option<(String, bool)>,
    tokens: Vec<(String, i64)>,
    jobs: Vec<(String, i64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenState {
    Nobody,
    ActiveUntil(i64),
    Over,
    Revoked,
}

/// [`Who`], but for what the process adds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWho {
    display: String,
    method: String,
    issuer: String,
    subject: String,
    groups: Vec<String>,
    repository: String,
    workflow: String,
    run: String,
    ci_job: String,
    actor: String,
    runner: String,
    ids: Vec<(String, String)>,
}

impl WrittenWho {
    pub(super) fn of(who: &Who) -> Self {
        let text = |text: &Arc<str>| text.to_string();
        Self {
            display: text(&who.display),
            method: who.method.to_owned(),
            issuer: text(&who.issuer),
            subject: text(&who.subject),
            groups: who.groups.iter().map(text).collect(),
            repository: text(&who.repository),
            workflow: text(&who.workflow),
            run: text(&who.run),
            ci_job: text(&who.ci_job),
            actor: text(&who.actor),
            runner: text(&who.runner),
            ids: who.ids.iter().map(|(name, id)| (text(name), text(id))).collect(),
        }
    }

    /// `None` for a method that this version does not know.
    pub(super) fn who(self) -> Option<Who> {
        Some(Who {
            display: self.display.into(),
            method: claims::method(&self.method)?,
            confidence: "",
            state: "active",
            issuer: self.issuer.into(),
            subject: self.subject.into(),
            groups: self.groups.into_iter().map(Into::into).collect(),
            repository: self.repository.into(),
            workflow: self.workflow.into(),
            run: self.run.into(),
            ci_job: self.ci_job.into(),
            actor: self.actor.into(),
            runner: self.runner.into(),
            ids: self.ids.into_iter().map(|(name, id)| (name.into(), id.into())).collect(),
        })
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Jobs(Dir);

impl Jobs {
    /// Makes the directory below `identity.state_dir`.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours.
    pub fn open(state_dir: &Path) -> Result<Self> {
        // First the parent, which others are not to look into either.
        Dir::open(state_dir)?;
        Ok(Self(Dir::open(&state_dir.join(DIRECTORY))?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Only one gateway changes the directory; `None` while another one does.
    ///
    /// # Errors
    /// The operating system's answer.
    pub fn hold(&self) -> Result<Option<Held>> {
        self.0.hold()
    }

    /// Writes a job, over an older state of it.
    ///
    /// # Errors
    /// The operating system's answer, or that there is no room.
    pub fn save(&self, job: &KeptJob) -> Result<()> {
        let bytes = serde_json::to_vec(&written(job))?;
        let name = name(job.anchor);
        let is_new = !self.0.path().join(&name).exists();
        let is_full = is_new && self.0.names()?.len() >= MAX_KEPT_JOBS;
        if is_full || bytes.len() > MAX_KEPT_JOB_BYTES {
            return Err(std::io::Error::other("there is no room for another job"));
        }
        self.0.write(&name, &bytes)
    }

    /// The job of this anchor, if it was kept. Changes nothing.
    pub fn get(&self, anchor: u64) -> Option<KeptJob> {
        let bytes = self.0.read(&format!("{anchor}.json"), MAX_KEPT_JOB_BYTES).ok().flatten()?;
        parse(&bytes).filter(|job| job.anchor.id == anchor)
    }

    /// All of them. Changes nothing: another gateway may be writing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        for name in self.0.names()? {
            if Dir::is_half(&name) {
                continue;
            }
            let job = self.0.read(&name, MAX_KEPT_JOB_BYTES).ok().flatten();
            match job.and_then(|bytes| parse(&bytes)).filter(|job| self::name(job.anchor) == name) {
                Some(job) if loaded.jobs.len() < MAX_KEPT_JOBS => loaded.jobs.push(job),
                // Removed meanwhile by the gateway that holds the directory.
                None if !self.0.path().join(&name).exists() => {}
                _ => loaded.broken.push(name),
            }
        }
        loaded.jobs.sort_unstable_by_key(|job| job.anchor.id);
        Ok(loaded)
    }

    /// Removes what is of no use any more: half-written files, and jobs of which `is_over` says that
    /// they have ended, once nothing that they presented can be presented again.
    ///
    /// # Errors
    /// The operating system's answer.
    pub fn prune(&self, now: WallUs, is_over: impl Fn(&KeptJob) -> bool) -> Result<()> {
        for half in self.0.names()?.iter().filter(|name| Dir::is_half(name)) {
            self.0.remove(half)?;
        }
        for job in self.load()?.jobs {
            if is_over(&job) && !job.remembered.lasts(now) {
                self.0.remove(&name(job.anchor))?;
            }
        }
        Ok(())
    }
}

fn name(anchor: AnchorId) -> String {
    format!("{}.json", anchor.id)
}

fn written(job: &KeptJob) -> Written {
    let hashes = |all: &[([u8; 32], WallUs)]| {
        all.iter().map(|(hash, until)| (hex::encode(hash), until.0)).collect()
    };
    Written {
        version: VERSION,
        boot: job.boot,
        anchor: job.anchor.id,
        root: job.anchor.process.tgid,
        started_ns: job.anchor.process.start_time_ns,
        state: match job.state {
            State::Pending | State::Refused => WrittenState::Nobody,
            State::Active(until) => WrittenState::ActiveUntil(until.0),
            State::Ended(End::Over) => WrittenState::Over,
            State::Ended(End::Revoked) => WrittenState::Revoked,
        },
        who: job.who.as_ref().map(WrittenWho::of),
        cgroup: job.cgroup.clone(),
        tokens: hashes(&job.remembered.tokens),
        jobs: hashes(&job.remembered.jobs),
    }
}

fn parse(bytes: &[u8]) -> Option<KeptJob> {
    let Written { version, boot, anchor, root, started_ns, state, who, cgroup, tokens, jobs } =
        serde_json::from_slice(bytes).ok()?;
    if version != VERSION {
        return None;
    }
    let hashes = |all: Vec<(String, i64)>| {
        let one = |(hash, until): (String, i64)| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(hash, &mut bytes).ok()?;
            Some((bytes, WallUs(until)))
        };
        all.into_iter().map(one).collect::<Option<Vec<_>>>()
    };
    let who = match who {
        Some(who) => Some(who.who()?),
        None => None,
    };
    let state = match state {
        WrittenState::Nobody => State::Refused,
        // Nobody is active who is not known.
        WrittenState::ActiveUntil(_) if who.is_none() => return None,
        WrittenState::ActiveUntil(until) => State::Active(WallUs(until)),
        WrittenState::Over => State::Ended(End::Over),
        WrittenState::Revoked => State::Ended(End::Revoked),
    };
    let process = ProcessKey { tgid: root, start_time_ns: started_ns };
    Some(KeptJob {
        boot,
        anchor: AnchorId { id: anchor, process },
        state,
        who,
        cgroup,
        remembered: Remembered { tokens: hashes(tokens)?, jobs: hashes(jobs)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt as _;

    fn job(id: u64) -> KeptJob {
        let process = ProcessKey { tgid: 7, start_time_ns: 70 };
        KeptJob {
            boot: Uuid::from_u128(1),
            anchor: AnchorId { id, process },
            state: State::Active(WallUs(500)),
            who: Some(Who {
                display: "acme/app#9".into(),
                method: "github_oidc",
                state: "active",
                groups: vec!["eng".into()],
                ids: vec![("repository_id".into(), "77".into())],
                ..Who::default()
            }),
            cgroup: Some(("runner".into(), true)),
            remembered: Remembered {
                tokens: vec![([1; 32], WallUs(400))],
                jobs: vec![([2; 32], WallUs(900))],
            },
        }
    }

    fn raw(jobs: &Jobs, name: &str, text: &str) {
        use std::io::Write as _;
        let mut options = fs::OpenOptions::new();
        let path = jobs.path().join(name);
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path);
        file.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn jobs_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(dir.path()).unwrap();
        let revoked = KeptJob { state: State::Ended(End::Revoked), ..job(3) };
        let nobody = KeptJob { state: State::Refused, who: None, cgroup: None, ..job(5) };
        for one in [&job(20), &revoked, &nobody] {
            jobs.save(one).unwrap();
        }
        let loaded = Jobs::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(loaded.jobs, [revoked, nobody, job(20)]);
        assert!(loaded.broken.is_empty());
    }

    #[test]
    fn broken_foreign_and_misnamed_files_count_for_nothing_and_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(dir.path()).unwrap();
        jobs.save(&job(1)).unwrap();
        let good = fs::read_to_string(jobs.path().join("1.json")).unwrap();
        let bad = [
            ("2.json", good.clone()),
            (
                "3.json",
                good.replace("\"anchor\":1", "\"anchor\":3").replace("github_oidc", "other"),
            ),
            ("4.json", good.chars().take(good.len() / 2).collect()),
            (
                "5.json",
                good.replace("\"anchor\":1", "\"anchor\":5")
                    .replace("\"version\":1", "\"version\":2"),
            ),
            ("6.json", String::new()),
        ];
        for (name, text) in &bad {
            raw(&jobs, name, text);
        }
        // Others could have written it.
        fs::write(jobs.path().join("7.json"), good.replace("\"anchor\":1", "\"anchor\":7"))
            .unwrap();
        raw(&jobs, "8.half", &good);
        let mut loaded = jobs.load().unwrap();
        loaded.broken.sort();
        assert_eq!(loaded.broken, ["2.json", "3.json", "4.json", "5.json", "6.json", "7.json"]);
        assert_eq!(loaded.jobs, [job(1)]);
    }

    #[test]
    fn what_can_be_presented_again_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(dir.path()).unwrap();
        jobs.save(&job(1)).unwrap();
        raw(&jobs, "8.half", "");
        jobs.prune(WallUs(899), |_| true).unwrap();
        jobs.prune(WallUs(1000), |_| false).unwrap();
        assert_eq!(jobs.load().unwrap().jobs.len(), 1);
        assert!(!jobs.path().join("8.half").exists());
        jobs.prune(WallUs(900), |_| true).unwrap();
        assert!(jobs.load().unwrap().jobs.is_empty());
    }

    proptest! {
        #[test]
        fn garbage_is_no_job(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(&bytes).is_none());
        }
    }
}
