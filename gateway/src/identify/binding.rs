//! Whose token it is: the first process tree that presents a token, or a token of a job, keeps it.
//!
//! - input: a token that verified, the anchor that presents it
//! - output: nothing; the token may be used
//! - bound: `limits::MAX_REMEMBERED_TOKENS`, `limits::MAX_REMEMBERED_JOBS`, and shares of both for
//!   one anchor. Entries of an expired token go first; nothing is forgotten early to make room
//! - on failure: [`TokenError::Replayed`], [`TokenError::SecondAnchor`], [`TokenError::AnchorEnded`],
//!   [`TokenError::Full`]
//!
//! Possession of a token proves little on a host where jobs can read each other's environment. That
//! the second tree loses is not enough where the thief comes first: therefore the alarm, and the
//! times of a token against those of its anchor.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::oidc::TokenError;
use crate::capture::ProcessKey;
use crate::clock::WallUs;
use crate::limits::{
    JOB_MEMORY, MAX_REMEMBERED_JOBS, MAX_REMEMBERED_JOBS_PER_ANCHOR, MAX_REMEMBERED_TOKENS,
    MAX_REMEMBERED_TOKENS_PER_ANCHOR,
};

/// The root of a process tree that has one identity: a CI worker, a container, a login session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnchorId {
    /// Number of the anchor on this host.
    pub id: u64,
    /// The process that it began with.
    pub process: ProcessKey,
}

/// An anchor that presents a token. What belongs to one job has one anchor, containers that its CI
/// worker started included; otherwise the second one would look like a thief.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    /// Which.
    pub id: AnchorId,
    /// When it began, by the wall clock.
    pub started: WallUs,
}

/// What is remembered of a token.
pub(super) struct Presented<'a> {
    /// `iss`.
    pub(super) issuer: &'a str,
    /// What is unique to the token.
    pub(super) token: &'a str,
    /// What is unique to its job.
    pub(super) job: Option<Vec<&'a str>>,
    /// The token is of no use from then on.
    pub(super) forget_at: WallUs,
}

/// What an anchor presented, without any of it: hashes, and when each may be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Of tokens.
    pub tokens: Vec<(Key, WallUs)>,
    /// Of jobs.
    pub jobs: Vec<(Key, WallUs)>,
}

impl Remembered {
    /// Whether there is something that is not to be forgotten yet.
    pub fn lasts(&self, now: WallUs) -> bool {
        self.tokens.iter().chain(&self.jobs).any(|(_, forget_at)| forget_at.0 > now.0)
    }
}

/// Remembers who presented what. All threads share it.
#[derive(Debug, Default)]
pub struct Bindings(Mutex<Memory>);

/// SHA-256 over length-prefixed parts: no two lists of parts share one, and entries have one size.
pub type Key = [u8; 32];

#[derive(Debug, Default)]
struct Memory {
    tokens: Table,
    jobs: Table,
    /// Ended anchors, until the last job of theirs is forgotten.
    ended: HashMap<AnchorId, WallUs>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    per_anchor: HashMap<AnchorId, usize>,
}

#[derive(Debug)]
struct Entry {
    anchor: AnchorId,
    forget_at: WallUs,
}

impl Bindings {
    /// Binds a token, and the job that it speaks of, to an anchor.
    pub(super) fn bind(
        &self,
        presented: &Presented<'_>,
        anchor: AnchorId,
        now: WallUs,
    ) -> Result<(), TokenError> {
        let token = key(&[presented.issuer, presented.token]);
        let job = presented.job.as_ref().map(|job| {
            let mut parts = vec![presented.issuer];
            parts.extend(job);
            key(&parts)
        });
        // A panic inside would leave a table that is one entry short at worst.
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.ended.contains_key(&anchor) {
            return Err(TokenError::AnchorEnded);
        }
        // The job first: a second token of a stolen job is the graver finding.
        if job.is_some_and(|job| memory.jobs.is_anothers(job, anchor, now)) {
            return Err(TokenError::SecondAnchor);
        }
        if memory.tokens.is_anothers(token, anchor, now) {
            return Err(TokenError::Replayed);
        }
        let (all, own) = (MAX_REMEMBERED_TOKENS, MAX_REMEMBERED_TOKENS_PER_ANCHOR);
        memory.tokens.reserve(token, anchor, now, all, own)?;
        if let Some(job) = job {
            let (all, own) = (MAX_REMEMBERED_JOBS, MAX_REMEMBERED_JOBS_PER_ANCHOR);
            memory.jobs.reserve(job, anchor, now, all, own)?;
            let memory_us = i64::try_from(JOB_MEMORY.as_micros()).unwrap_or(i64::MAX);
            let until = now.0.saturating_add(memory_us).max(presented.forget_at.0);
            memory.jobs.keep(job, anchor, WallUs(until));
        }
        memory.tokens.keep(token, anchor, presented.forget_at);
        Ok(())
    }

    /// What an anchor presented, to be kept over a restart.
    pub(super) fn of(&self, anchor: AnchorId) -> Remembered {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Remembered { tokens: memory.tokens.of(anchor), jobs: memory.jobs.of(anchor) }
    }

    /// The same, after a restart. What somebody else has presented meanwhile stays theirs.
    pub(super) fn remember(&self, anchor: AnchorId, kept: &Remembered, now: WallUs) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.tokens.restore(anchor, &kept.tokens, now, MAX_REMEMBERED_TOKENS);
        memory.jobs.restore(anchor, &kept.jobs, now, MAX_REMEMBERED_JOBS);
    }

    /// Takes no more tokens from an anchor. Its tokens and jobs stay taken.
    pub(super) fn end(&self, anchor: AnchorId, now: WallUs) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.ended.len() >= MAX_REMEMBERED_JOBS {
            memory.ended.retain(|_, forget_at| forget_at.0 > now.0);
        }
        // Beyond the bound the anchor's own end is what keeps it from presenting anything.
        if memory.ended.len() < MAX_REMEMBERED_JOBS {
            let memory_us = i64::try_from(JOB_MEMORY.as_micros()).unwrap_or(i64::MAX);
            memory.ended.insert(anchor, WallUs(now.0.saturating_add(memory_us)));
        }
    }
}

impl Table {
    fn is_anothers(&self, key: Key, anchor: AnchorId, now: WallUs) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| entry.anchor != anchor && entry.forget_at.0 > now.0)
    }

    /// Makes sure that [`Table::keep`] stays within the bounds.
    fn reserve(
        &mut self,
        key: Key,
        anchor: AnchorId,
        now: WallUs,
        all: usize,
        own: usize,
    ) -> Result<(), TokenError> {
        if self.entries.get(&key).is_some_and(|entry| entry.anchor == anchor) {
            return Ok(());
        }
        let full = |table: &Self| {
            table.entries.len() >= all
                || table.per_anchor.get(&anchor).is_some_and(|count| *count >= own)
        };
        if full(self) {
            self.forget(now);
        }
        if full(self) { Err(TokenError::Full) } else { Ok(()) }
    }

    fn keep(&mut self, key: Key, anchor: AnchorId, forget_at: WallUs) {
        let before = self.entries.insert(key, Entry { anchor, forget_at });
        match before {
            Some(before) if before.anchor == anchor => {}
            Some(before) => {
                self.uncount(before.anchor);
                *self.per_anchor.entry(anchor).or_default() += 1;
            }
            None => *self.per_anchor.entry(anchor).or_default() += 1,
        }
    }

    fn of(&self, anchor: AnchorId) -> Vec<(Key, WallUs)> {
        let own = self.entries.iter().filter(|(_, entry)| entry.anchor == anchor);
        let mut own: Vec<_> = own.map(|(key, entry)| (*key, entry.forget_at)).collect();
        own.sort_unstable_by_key(|(key, _)| *key);
        own
    }

    fn restore(&mut self, anchor: AnchorId, kept: &[(Key, WallUs)], now: WallUs, all: usize) {
        for (key, forget_at) in kept.iter().filter(|(_, forget_at)| forget_at.0 > now.0) {
            let has_room = self.entries.len() < all || self.entries.contains_key(key);
            if has_room && !self.is_anothers(*key, anchor, now) {
                self.keep(*key, anchor, *forget_at);
            }
        }
    }

    fn forget(&mut self, now: WallUs) {
        let gone = self.entries.extract_if(|_, entry| entry.forget_at.0 <= now.0);
        let gone: Vec<AnchorId> = gone.map(|(_, entry)| entry.anchor).collect();
        for anchor in gone {
            self.uncount(anchor);
        }
    }

    fn uncount(&mut self, anchor: AnchorId) {
        if let Some(count) = self.per_anchor.get_mut(&anchor) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_anchor.remove(&anchor);
            }
        }
    }
}

fn key(parts: &[&str]) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Faulty as _;

    const HOUR_US: i64 = 3_600_000_000;

    fn anchor(id: u64) -> AnchorId {
        AnchorId { id, process: ProcessKey { tgid: 7, start_time_ns: id } }
    }

    fn bind(all: &Bindings, token: &str, job: Option<&str>, by: u64, now: i64) -> &'static str {
        let presented = Presented {
            issuer: "https://i",
            token,
            job: job.map(|job| vec![job]),
            forget_at: WallUs(HOUR_US),
        };
        let bound = all.bind(&presented, anchor(by), WallUs(now));
        bound.err().map_or("ok", |e| e.outcome())
    }

    #[test]
    fn the_first_anchor_keeps_token_and_job() {
        let all = Bindings::default();
        assert_eq!(bind(&all, "t1", Some("j"), 1, 0), "ok");
        assert_eq!(bind(&all, "t1", Some("j"), 1, 0), "ok");
        assert_eq!(bind(&all, "t2", Some("j"), 1, 0), "ok");
        assert_eq!(bind(&all, "t3", Some("j"), 2, 0), "token_second_anchor");
        assert_eq!(bind(&all, "t1", None, 2, 0), "token_replayed");
        // A refused presentation takes nothing.
        assert_eq!(bind(&all, "t3", None, 3, 0), "ok");
    }

    #[test]
    fn a_job_outlives_its_tokens_and_its_anchor() {
        let all = Bindings::default();
        assert_eq!(bind(&all, "t1", Some("j"), 1, 0), "ok");
        all.end(anchor(1), WallUs(0));
        assert_eq!(bind(&all, "t2", None, 1, 0), "token_anchor_ended");
        assert_eq!(bind(&all, "t3", Some("j"), 2, 24 * HOUR_US), "token_second_anchor");
        // The token itself has expired by then, and its name may come again.
        assert_eq!(bind(&all, "t1", None, 2, HOUR_US), "ok");
        assert_eq!(bind(&all, "t4", Some("j"), 2, 7 * 24 * HOUR_US), "ok");
    }

    #[test]
    fn one_anchor_cannot_use_up_the_room() {
        let all = Bindings::default();
        for i in 0..MAX_REMEMBERED_TOKENS_PER_ANCHOR {
            assert_eq!(bind(&all, &i.to_string(), None, 1, 0), "ok");
        }
        assert_eq!(bind(&all, "more", None, 1, 0), "token_binding_full");
        assert_eq!(bind(&all, "0", None, 1, 0), "ok");
        assert_eq!(bind(&all, "more", None, 2, 0), "ok");
        // Room comes back when tokens expire.
        assert_eq!(bind(&all, "later", None, 1, HOUR_US), "ok");
        let jobs = Bindings::default();
        for i in 0..MAX_REMEMBERED_JOBS_PER_ANCHOR {
            let name = i.to_string();
            assert_eq!(bind(&jobs, &name, Some(&name), 1, 0), "ok");
        }
        assert_eq!(bind(&jobs, "x", Some("x"), 1, 0), "token_binding_full");
    }

    #[test]
    fn what_was_presented_is_remembered_over_a_restart() {
        let all = Bindings::default();
        assert_eq!(bind(&all, "t1", Some("j"), 1, 0), "ok");
        let kept = all.of(anchor(1));
        assert_eq!((kept.tokens.len(), kept.jobs.len()), (1, 1));
        assert!(kept.lasts(WallUs(HOUR_US)) && !kept.lasts(WallUs(8 * 24 * HOUR_US)));
        let next = Bindings::default();
        next.remember(anchor(1), &kept, WallUs(0));
        assert_eq!(next.of(anchor(1)), kept);
        assert_eq!(bind(&next, "t2", Some("j"), 2, 0), "token_second_anchor");
        assert_eq!(bind(&next, "t1", None, 2, 0), "token_replayed");
        assert_eq!(bind(&next, "t1", Some("j"), 1, 0), "ok");
        // What is over is not brought back, and what is another's is not taken from them.
        let late = Bindings::default();
        late.remember(anchor(1), &kept, WallUs(HOUR_US));
        assert_eq!(bind(&late, "t1", None, 2, HOUR_US), "ok");
        let taken = Bindings::default();
        assert_eq!(bind(&taken, "t1", None, 2, 0), "ok");
        taken.remember(anchor(1), &kept, WallUs(0));
        assert_eq!(bind(&taken, "t1", None, 2, 0), "ok");
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }

    #[test]
    fn everything_is_forgotten_in_the_end() {
        let all = Bindings::default();
        for i in 0..300_u64 {
            assert_eq!(bind(&all, &i.to_string(), None, i, 0), "ok");
        }
        let mut memory = all.0.lock().unwrap();
        memory.tokens.forget(WallUs(HOUR_US));
        assert!(memory.tokens.entries.is_empty() && memory.tokens.per_anchor.is_empty());
    }
}
