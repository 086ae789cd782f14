//! What the hooks add to `connect(2)`, without any proxy: `weir-test-connect` measures, this adds up.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::sh;

const LIMIT: Duration = Duration::from_secs(120);
/// Connects of each way in one round: short, so that a busy moment of the machine meets all ways.
const COUNT: &str = "300";

/// Measures; answers a table and all samples.
pub(crate) fn run(release: &Path, quick: bool) -> Result<(String, Value)> {
    let mut command = std::process::Command::new(release.join("weir-test-connect"));
    command.args([if quick { "100" } else { "300" }, COUNT]);
    let text = sh::output(&mut command, LIMIT)?;
    let samples: Value = serde_json::from_str(text.trim()).context("read the samples")?;
    Ok((table(&samples)?, samples))
}

/// Differences are taken within each round, so that the machine's moods cancel out.
fn table(samples: &Value) -> Result<String> {
    let mut out =
        "| g connect over loopback (µs) | p50 | p99 | added p50 | its quartiles |\n|---|--:|--:|--:|--:|\n"
            .to_owned();
    for (key, what) in [("connect", "connect(2)"), ("whole", "socket, connect, close")] {
        let direct = numbers(samples, "direct", key, "p50")?;
        for way in ["direct", "redirected", "excluded"] {
            let p50 = numbers(samples, way, key, "p50")?;
            let p99 = numbers(samples, way, key, "p99")?;
            let added: Vec<f64> = p50.iter().zip(&direct).map(|(one, base)| one - base).collect();
            let row = [quantile(p50, 2), quantile(p99, 2)].map(|us| format!("{us:.2}")).join(" | ");
            let [low, middle, high] = [1, 2, 3].map(|quarters| quantile(added.clone(), quarters));
            let added = match way {
                "direct" => "– | –".to_owned(),
                _ => format!("{middle:.2} | {low:.2} to {high:.2}"),
            };
            out.push_str(&format!("| {what}, {way} | {row} | {added} |\n"));
        }
    }
    Ok(out)
}

/// One figure of all rounds, in microseconds.
fn numbers(samples: &Value, way: &str, key: &str, figure: &str) -> Result<Vec<f64>> {
    let rounds = samples.get(way).and_then(Value::as_array).with_context(|| format!("no {way}"))?;
    let one = |round: &Value| round.get(key)?.get(figure)?.as_f64().map(|ns| ns / 1000.0);
    rounds.iter().map(|round| one(round).with_context(|| format!("no {key} {figure}"))).collect()
}

/// The value at so many quarters of the sorted list.
fn quantile(mut all: Vec<f64>, quarters: usize) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() * quarters / 4).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn differences_are_taken_within_rounds() {
        let round = |us: f64| {
            let figures = json!({ "p50": us * 1000.0, "p99": us * 2000.0 });
            json!({ "connect": figures, "whole": figures })
        };
        let samples = json!({
            "direct": [round(10.0), round(20.0), round(30.0)],
            "redirected": [round(14.0), round(24.0), round(34.0)],
            "excluded": [round(10.5), round(20.5), round(30.5)],
        });
        let table = super::table(&samples).unwrap();
        let line = "| connect(2), redirected | 24.00 | 48.00 | 4.00 | 4.00 to 4.00 |";
        assert!(table.contains(line), "{table}");
        assert!(table.contains("| connect(2), direct | 20.00 | 40.00 | – | – |"), "{table}");
    }
}
