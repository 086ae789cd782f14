//! What names resolved to: the memory that server names are checked against.
//!
//! - input: addresses and aliases of answers, with their lifetimes
//! - output: [`NameCheck`] for a name and an address
//! - bound: [`MAX_NAMES`] names, the least recently noted goes first; [`MAX_ADDRESSES`] addresses
//!   and [`MAX_ALIASES`] aliases of each
//! - on failure: a forgotten name reads as unknown
//!
//! Addresses are noted for the name that was asked for, not for the aliases on the way: an answer
//! about one name says nothing about another.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Names remembered.
pub const MAX_NAMES: usize = 64 * 1024;
/// Addresses of one name; the one that expires first makes room.
pub const MAX_ADDRESSES: usize = 64;
/// Aliases of one name.
pub const MAX_ALIASES: usize = 8;
/// An answer counts at least so long: programs connect a moment after they have resolved.
pub const MIN_HOLD: Duration = Duration::from_secs(30);
/// And at most so long.
pub const MAX_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

const SHARDS: usize = 16;
/// Aliases of aliases that a check follows.
const MAX_STEPS: usize = 4;

/// What the journal says about a name and an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// The name was resolved to this address.
    Known,
    /// The name was not resolved here, or too long ago.
    Unknown,
    /// The name was resolved, and only to other addresses.
    Mismatch,
}

impl NameCheck {
    /// The recorded value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Unknown => "unknown",
            Self::Mismatch => "mismatch",
        }
    }
}

/// One for the whole host, shared by all workers.
#[derive(Debug)]
pub struct Journal {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    max_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    names: HashMap<Arc<str>, Entry>,
    /// Names by when they were noted last.
    order: BTreeMap<u64, Arc<str>>,
    noted: u64,
}

#[derive(Debug, Default)]
struct Entry {
    place: u64,
    addresses: Vec<(IpAddr, Instant)>,
    aliases: Vec<(Arc<str>, Instant)>,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(MAX_NAMES)
    }
}

impl Journal {
    /// Remembers about `max_names` names.
    pub fn new(max_names: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            max_per_shard: max_names.div_ceil(SHARDS).max(1),
        }
    }

    /// Notes what a name resolved to. A lifetime counts from `now`, within [`MIN_HOLD`] and
    /// [`MAX_HOLD`]; of several answers the latest end counts.
    pub fn note(
        &self,
        name: &str,
        addresses: &[(IpAddr, Duration)],
        aliases: &[(String, Duration)],
        now: Instant,
    ) {
        if addresses.is_empty() && aliases.is_empty() {
            return;
        }
        let name = canonical(name);
        self.with(&name, |shard| {
            let entry = shard.touch(&name);
            entry.expire(now);
            for (address, lifetime) in addresses {
                keep(&mut entry.addresses, address.to_canonical(), end(*lifetime, now));
                trim(&mut entry.addresses, MAX_ADDRESSES);
            }
            for (alias, lifetime) in aliases {
                keep(&mut entry.aliases, canonical(alias).into(), end(*lifetime, now));
                trim(&mut entry.aliases, MAX_ALIASES);
            }
            shard.evict(self.max_per_shard);
        });
    }

    /// Whether a name resolved to an address, directly or through an alias.
    pub fn check(&self, name: &str, address: IpAddr, now: Instant) -> NameCheck {
        let address = address.to_canonical();
        let mut found = NameCheck::Unknown;
        let mut names: Vec<Arc<str>> = vec![canonical(name).into()];
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            let (state, aliases) = self.look(&name, address, now);
            match state {
                NameCheck::Known => return NameCheck::Known,
                NameCheck::Mismatch => found = NameCheck::Mismatch,
                NameCheck::Unknown => {}
            }
            for alias in aliases {
                if names.len() <= MAX_STEPS * MAX_ALIASES && !names.contains(&alias) {
                    names.push(alias);
                }
            }
        }
        found
    }

    /// Names remembered now.
    pub fn names(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).names.len()).sum()
    }

    fn look(&self, name: &str, address: IpAddr, now: Instant) -> (NameCheck, Vec<Arc<str>>) {
        self.with(name, |shard| {
            let Some(entry) = shard.names.get_mut(name) else {
                return (NameCheck::Unknown, Vec::new());
            };
            entry.expire(now);
            let state = match &entry.addresses {
                all if all.iter().any(|(known, _)| *known == address) => NameCheck::Known,
                none if none.is_empty() => NameCheck::Unknown,
                _ => NameCheck::Mismatch,
            };
            (state, entry.aliases.iter().map(|(alias, _)| Arc::clone(alias)).collect())
        })
    }

    fn with<T>(&self, name: &str, work: impl FnOnce(&mut Shard) -> T) -> T {
        let hash = self.hasher.hash_one(name);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let [first, ..] = &self.shards;
        work(&mut lock(self.shards.get(index).unwrap_or(first)))
    }
}

/// A panic inside leaves at worst a name half noted.
fn lock(shard: &Mutex<Shard>) -> std::sync::MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shard {
    /// The entry of a name, now the latest noted.
    fn touch(&mut self, name: &str) -> &mut Entry {
        self.noted += 1;
        let name: Arc<str> = match self.names.get_key_value(name) {
            Some((known, entry)) => {
                self.order.remove(&entry.place);
                Arc::clone(known)
            }
            None => name.into(),
        };
        self.order.insert(self.noted, Arc::clone(&name));
        let entry = self.names.entry(name).or_default();
        entry.place = self.noted;
        entry
    }

    fn evict(&mut self, max: usize) {
        while self.names.len() > max {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.names.remove(&oldest);
        }
    }
}

impl Entry {
    fn expire(&mut self, now: Instant) {
        self.addresses.retain(|(_, end)| *end > now);
        self.aliases.retain(|(_, end)| *end > now);
    }
}

fn keep<T: PartialEq>(all: &mut Vec<(T, Instant)>, item: T, until: Instant) {
    match all.iter_mut().find(|(known, _)| *known == item) {
        Some((_, end)) => *end = until.max(*end),
        None => all.push((item, until)),
    }
}

fn trim<T>(all: &mut Vec<(T, Instant)>, max: usize) {
    if all.len() > max {
        let first = all.iter().enumerate().min_by_key(|(_, (_, end))| *end).map(|(i, _)| i);
        if let Some(index) = first {
            all.swap_remove(index);
        }
    }
}

fn end(lifetime: Duration, now: Instant) -> Instant {
    now + lifetime.clamp(MIN_HOLD, MAX_HOLD)
}

/// Lower case, without the final dot.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn known_other_and_forgotten_names() {
        let (journal, now) = (Journal::default(), Instant::now());
        journal.note("A.example.", &[(ip("192.0.2.1"), MINUTE)], &[], now);
        let check = |name, addr, later| journal.check(name, ip(addr), now + later);
        let soon = Duration::from_secs(59);
        assert_eq!(check("a.EXAMPLE", "192.0.2.1", soon), NameCheck::Known);
        assert_eq!(check("a.example", "::ffff:192.0.2.1", soon), NameCheck::Known);
        assert_eq!(check("a.example", "192.0.2.2", soon), NameCheck::Mismatch);
        assert_eq!(check("b.example", "192.0.2.1", soon), NameCheck::Unknown);
        assert_eq!(check("a.example", "192.0.2.1", MINUTE), NameCheck::Unknown);
    }

    #[test]
    fn lifetimes_are_held_between_half_a_minute_and_a_day() {
        let (journal, now) = (Journal::default(), Instant::now());
        let week = 7 * MAX_HOLD;
        journal.note("a", &[(ip("::1"), Duration::ZERO), (ip("::2"), week)], &[], now);
        let check = |addr, later| journal.check("a", ip(addr), now + later);
        let second = Duration::from_secs(1);
        assert_eq!(check("::1", MIN_HOLD - second), NameCheck::Known);
        assert_eq!(check("::2", MAX_HOLD - second), NameCheck::Known);
        assert_eq!(check("::1", MIN_HOLD), NameCheck::Mismatch);
        assert_eq!(check("::2", MAX_HOLD), NameCheck::Unknown);
    }

    #[test]
    fn a_shorter_answer_does_not_shorten_a_longer_one() {
        let (journal, now) = (Journal::default(), Instant::now());
        journal.note("a", &[(ip("::1"), 10 * MINUTE)], &[], now);
        journal.note("a", &[(ip("::1"), MINUTE)], &[], now);
        assert_eq!(journal.check("a", ip("::1"), now + 9 * MINUTE), NameCheck::Known);
    }

    #[test]
    fn aliases_are_followed_but_not_in_circles_and_not_backwards() {
        let (journal, now) = (Journal::default(), Instant::now());
        let to = |name: &str| [(name.to_owned(), MINUTE)];
        journal.note("a", &[], &to("b"), now);
        journal.note("b", &[(ip("192.0.2.9"), MINUTE)], &to("a"), now);
        assert_eq!(journal.check("a", ip("192.0.2.9"), now), NameCheck::Known);
        assert_eq!(journal.check("a", ip("192.0.2.8"), now), NameCheck::Mismatch);
        journal.note("c", &[(ip("192.0.2.7"), MINUTE)], &to("d"), now);
        assert_eq!(journal.check("d", ip("192.0.2.7"), now), NameCheck::Unknown);
    }

    #[test]
    fn the_oldest_names_and_addresses_make_room() {
        let (journal, now) = (Journal::new(SHARDS * 4), Instant::now());
        for n in 0..1000 {
            journal.note(&format!("n{n}"), &[(ip("::1"), MINUTE)], &[], now);
            journal.note("busy", &[(ip("::1"), MINUTE)], &[], now);
        }
        assert!(journal.names() <= SHARDS * 4, "{}", journal.names());
        assert_eq!(journal.check("busy", ip("::1"), now), NameCheck::Known);
        assert_eq!(journal.check("n0", ip("::1"), now), NameCheck::Unknown);
        for shard in &journal.shards {
            let shard = lock(shard);
            assert_eq!(shard.order.len(), shard.names.len());
        }
        let many: Vec<(IpAddr, Duration)> = (0..200_u16)
            .map(|n| {
                (IpAddr::from([0, 0, 0, 0, 0, 0, 9, n]), MINUTE + Duration::from_secs(n.into()))
            })
            .collect();
        journal.note("wide", &many, &[], now);
        assert_eq!(journal.check("wide", ip("::9:0"), now), NameCheck::Mismatch);
        assert_eq!(journal.check("wide", ip("::9:c7"), now), NameCheck::Known);
    }
}
