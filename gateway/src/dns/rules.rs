//! Which names are refused.
//!
//! - input: a name of a question or of an alias in an answer
//! - output: yes or no
//! - bound: the list of `dns.refuse`, scanned once per name
//! - on failure: cannot fail

use hickory_proto::rr::Name;

use super::message;
use crate::config::HostPattern;

/// `dns.refuse`.
#[derive(Debug)]
pub struct Rules {
    refuse: Vec<HostPattern>,
}

impl Rules {
    /// Takes the patterns.
    pub fn new(refuse: Vec<HostPattern>) -> Self {
        Self { refuse }
    }

    /// Whether a name may not be looked up.
    pub fn refuses(&self, name: &Name) -> bool {
        if self.refuse.is_empty() {
            return false;
        }
        let name = message::text(name);
        self.refuse.iter().any(|pattern| pattern.matches(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_with_the_final_dot() {
        let rules = Rules::new(vec![
            HostPattern::parse("*.evil.example").unwrap(),
            HostPattern::parse("bad.example").unwrap(),
        ]);
        let refuses = |name: &str| rules.refuses(&Name::from_ascii(name).unwrap());
        assert!(
            refuses("a.EVIL.example.") && refuses("Bad.Example") && refuses("x.y.evil.example")
        );
        assert!(!refuses("evil.example.") && !refuses("notbad.example.") && !refuses("."));
    }
}
