//! Medians, ratios and the table.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Metrics that count relative to the way without a proxy.
const ADDED: [&str; 4] =
    ["a latency p50 (us)", "a latency p99 (us)", "e SSE delay p50 (us)", "e SSE delay p99 (us)"];
const YARDSTICK: &str = "haproxy";

/// Samples by metric and peer.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>);

impl Results {
    pub(crate) fn add(&mut self, metric: &str, peer: &'static str, value: f64) {
        self.0.entry(metric.to_owned()).or_default().entry(peer).or_default().push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn median(&self, metric: &str, peer: &str) -> Option<f64> {
        let mut samples = self.0.get(metric)?.get(peer)?.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        let upper = *samples.get(middle)?;
        if samples.len() % 2 == 1 {
            return Some(upper);
        }
        Some((samples.get(middle.checked_sub(1)?)? + upper) / 2.0)
    }

    /// The figure shown: what the peer adds, or the median itself.
    fn figure(&self, metric: &str, peer: &str) -> Option<f64> {
        let median = self.median(metric, peer)?;
        if ADDED.contains(&metric) && peer != "direct" {
            return Some(median - self.median(metric, "direct")?);
        }
        Some(median)
    }

    /// Markdown, with the ratio to haproxy in brackets.
    pub(crate) fn table(&self, peers: &[&str]) -> String {
        let mut out = format!("| | {} |\n|---|{}\n", peers.join(" | "), "--:|".repeat(peers.len()));
        for metric in self.0.keys() {
            let added = if ADDED.contains(&metric.as_str()) { ", added" } else { "" };
            out.push_str(&format!("| {metric}{added} |"));
            for peer in peers {
                let cell = match self.figure(metric, peer) {
                    None => "–".to_owned(),
                    Some(value) if *peer == "direct" && !added.is_empty() => {
                        format!("({})", short(value))
                    }
                    Some(value) => self.with_ratio(metric, peer, value),
                };
                out.push_str(&format!(" {cell} |"));
            }
            out.push('\n');
        }
        out
    }

    fn with_ratio(&self, metric: &str, peer: &str, value: f64) -> String {
        match self.figure(metric, YARDSTICK) {
            Some(yardstick) if yardstick > 0.0 && peer != YARDSTICK => {
                format!("{} ({:.2}x)", short(value), value / yardstick)
            }
            _ => short(value),
        }
    }

    /// All samples, with those of `connect`.
    pub(crate) fn json(&self, connect: Value) -> Value {
        json!({"samples": self.0, "connect_ns": connect, "note": "medians are compared within one run only"})
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_medians_added_values_and_ratios() {
        let mut results = Results::default();
        for (peer, values) in
            [("direct", [10.0, 12.0, 11.0]), ("haproxy", [31.0, 30.0, 90.0]), ("weir", [51.0; 3])]
        {
            values.iter().for_each(|value| results.add(ADDED[0], peer, *value));
        }
        let table = results.table(&["direct", "haproxy", "weir"]);
        assert!(table.contains("| a latency p50 (us), added | (11.0) | 20.0 | 40.0 (2.00x) |"));
    }
}
