//! Remembers strings of messages in which nothing was found in any view: they need not even be decoded.
//!
//! - input: digests of strings as they are on the wire
//! - output: whether such a string was clean
//! - bound: `limits::MAX_CACHED`
//! - on failure: cannot fail; what is not remembered is searched

use std::collections::HashSet;

use super::digest::Digest;
use crate::limits;

/// A string, under one engine and one set of known values.
pub(super) type Name = (u64, u64, Digest);

/// Two generations, as in [`super::Texts`].
#[derive(Debug, Default)]
pub(super) struct Clean {
    young: HashSet<Name>,
    old: HashSet<Name>,
}

impl Clean {
    pub(super) fn has(&mut self, name: &Name) -> bool {
        if self.young.contains(name) {
            return true;
        }
        let known = self.old.remove(name);
        if known {
            self.add(*name);
        }
        known
    }

    pub(super) fn add(&mut self, name: Name) {
        if self.young.len() >= limits::MAX_CACHED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}
