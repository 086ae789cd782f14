//! Remembers what was found in texts that come again: clients of models send the whole
//! conversation with every turn.
//!
//! - input: texts, each a string of a message
//! - output: what [`Engine::find`] gives
//! - bound: `limits::MAX_CACHED`; places are remembered, never a text or a secret
//! - on failure: cannot fail; what is not remembered is searched
//!
//! A text is known by a keyed digest of 122 bits (`cache/digest.rs`). What rules say and what
//! known values say are remembered apart: a new known value costs one search for known values.

mod clean;
mod digest;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use self::clean::Clean;
use self::digest::{Digest, Key};
use crate::engine::{Engine, Match, RuleMatches};
use crate::known::Known;
use crate::limits;

/// Texts that are searched at once: looking them up would cost as much.
const MIN_BYTES: usize = 256;

/// See the module. May be shared between threads.
#[derive(Debug, Default)]
pub struct Cache {
    key: Key,
    texts: Mutex<Texts>,
    clean: Mutex<Clean>,
}

/// A string that may be clean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name(clean::Name);

/// Two generations: what was not asked for while the young one filled is forgotten.
#[derive(Debug, Default)]
struct Texts {
    young: HashMap<(u64, Digest), Entry>,
    old: HashMap<(u64, Digest), Entry>,
    /// Entries and matches of the young one.
    size: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    by_rules: RuleMatches,
    /// Of these known values.
    known: u64,
    all: Arc<[Match]>,
}

impl Cache {
    /// What [`Engine::find`] gives for `text`.
    pub fn find(&self, engine: &Engine, known: &Known, text: &[u8]) -> Arc<[Match]> {
        if text.len() < MIN_BYTES {
            return engine.find(text, known).into();
        }
        let name = (engine.number(), self.key.digest(text));
        let remembered = self.lock().get(&name);
        let by_rules = match remembered {
            Some(entry) if entry.known == known.number() => return entry.all,
            Some(entry) => entry.by_rules,
            None => engine.find_by_rules(text),
        };
        let all: Arc<[Match]> = engine.merge(text, known, &by_rules).into();
        let entry = Entry { by_rules, known: known.number(), all: Arc::clone(&all) };
        self.lock().put(name, entry);
        all
    }

    /// What stands for `string`, which is as it is on the wire, to ask whether it is clean. None: it is
    /// too short to be remembered.
    pub(crate) fn name(&self, engine: &Engine, known: &Known, string: &[u8]) -> Option<Name> {
        let long = string.len() >= MIN_BYTES;
        long.then(|| Name((engine.number(), known.number(), self.key.digest(string))))
    }

    /// Was nothing found in it, in any view?
    pub(crate) fn is_clean(&self, name: &Name) -> bool {
        self.clean.lock().unwrap_or_else(PoisonError::into_inner).has(&name.0)
    }

    /// Nothing was found in it, in any view.
    pub(crate) fn note_clean(&self, name: &Name) {
        self.clean.lock().unwrap_or_else(PoisonError::into_inner).add(name.0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Texts> {
        // Every change of the maps is whole before anything that could panic.
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Texts {
    fn get(&mut self, name: &(u64, Digest)) -> Option<Entry> {
        if let Some(entry) = self.young.get(name) {
            return Some(entry.clone());
        }
        let entry = self.old.remove(name)?;
        self.put(*name, entry.clone());
        Some(entry)
    }

    fn put(&mut self, name: (u64, Digest), entry: Entry) {
        let size = entry.size();
        if size > limits::MAX_CACHED / 8 {
            return;
        }
        if self.size.saturating_add(size) > limits::MAX_CACHED / 2 {
            self.old = std::mem::take(&mut self.young);
            self.size = 0;
        }
        self.size = self.size.saturating_add(size);
        if let Some(before) = self.young.insert(name, entry) {
            self.size = self.size.saturating_sub(before.size());
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        self.all.len().saturating_add(self.by_rules.len()).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::By;
    use crate::rule::{Confidence, Rule, Tier};

    fn engine(pattern: &str) -> Engine {
        let rule = Rule {
            id: Arc::from("one"),
            description: String::new(),
            tier: Tier::Prefixed,
            confidence: Confidence::Medium,
            pattern: pattern.to_owned(),
            keywords: Vec::new(),
            filter: Default::default(),
            hosts: Vec::new(),
            source: String::new(),
        };
        Engine::new(vec![rule]).unwrap()
    }

    fn text(number: usize) -> Vec<u8> {
        let filling = "x ".repeat(MIN_BYTES);
        format!("{filling}abc-{number:06} and hunter2-hunter2 {filling}").into_bytes()
    }

    #[test]
    fn a_remembered_answer_is_the_answer() {
        let cache = Cache::default();
        let known = Known::new([(3, b"hunter2-hunter2".to_vec())]);
        let engines = [engine("abc-[0-9]{6}"), engine("abc-[0-9]{5}")];
        for _ in 0..2 {
            for engine in &engines {
                for number in 0..50 {
                    let text = text(number);
                    let found = cache.find(engine, &known, &text);
                    assert_eq!(*found, *engine.find(&text, &known));
                    assert_eq!(found.len(), 2);
                }
            }
        }
    }

    #[test]
    fn a_new_known_value_is_found_in_a_remembered_text() {
        let cache = Cache::default();
        let engine = engine("abc-[0-9]{6}");
        let text = text(1);
        assert_eq!(cache.find(&engine, &Known::default(), &text).len(), 1);
        let known = Known::new([(3, b"hunter2-hunter2".to_vec())]);
        let found = cache.find(&engine, &known, &text);
        assert_eq!(
            found.iter().map(|found| found.by).collect::<Vec<_>>(),
            [By::Rule(0), By::Known(3)]
        );
        assert_eq!(cache.find(&engine, &Known::default(), &text).len(), 1);
    }

    #[test]
    fn it_forgets_what_is_not_asked_for() {
        let cache = Cache::default();
        let engine = engine("abc-[0-9]{6}");
        let often = text(0);
        for number in 1..limits::MAX_CACHED {
            cache.find(&engine, &Known::default(), &text(number));
            if number % 100 == 0 {
                cache.find(&engine, &Known::default(), &often);
            }
        }
        let mut texts = cache.lock();
        assert!(texts.young.len() + texts.old.len() <= limits::MAX_CACHED);
        let name = |text: &[u8]| (engine.number(), cache.key.digest(text));
        assert!(texts.get(&name(&often)).is_some());
        assert!(texts.get(&name(&text(1))).is_none());
    }
}
