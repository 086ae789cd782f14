//! Recall over all texts (micro) and as the mean of the rules (macro); share of harmless texts with a finding.

use std::fmt;

use super::corpus::Group;

#[derive(Debug, Default)]
pub(super) struct Score {
    secrets: u32,
    missed: u32,
    harmless: u32,
    false_ones: u32,
    recalls: Vec<f64>,
}

impl Score {
    pub(super) fn add(&mut self, group: &Group, missed: u32, false_ones: u32) {
        let count = |texts: Vec<&str>| u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let secrets = count(group.secrets());
        self.secrets += secrets;
        self.missed += missed;
        self.harmless += count(group.harmless());
        self.false_ones += false_ones;
        if secrets > 0 {
            self.recalls.push(1.0 - share(missed, secrets));
        }
    }

    pub(super) fn recall(&self) -> f64 {
        1.0 - share(self.missed, self.secrets)
    }

    pub(super) fn mean_recall(&self) -> f64 {
        let rules = u32::try_from(self.recalls.len()).unwrap_or(u32::MAX);
        self.recalls.iter().sum::<f64>() / f64::from(rules.max(1))
    }

    pub(super) fn false_rate(&self) -> f64 {
        share(self.false_ones, self.harmless)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "recall {:.3} ({} of {}), by rule {:.3}; false positives {:.3} ({} of {})",
            self.recall(),
            self.secrets - self.missed,
            self.secrets,
            self.mean_recall(),
            self.false_rate(),
            self.false_ones,
            self.harmless
        )
    }
}

fn share(part: u32, of: u32) -> f64 {
    f64::from(part) / f64::from(of.max(1))
}
