//! `xtask bench mask`: how fast secrets are found, and how long streamed text waits.
//!
//! Texts are weir's own sources and documents. Figures are of one core; nothing is asserted.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::time::{ClockId, clock_gettime};
use weir_inspect::cache::Cache;
use weir_inspect::engine::{Channel, End, Engine, Piece};
use weir_inspect::known::Known;
use weir_inspect::rule::{Rule, Tier};
use weir_inspect::{import, own};

use crate::sh;

const PROMPT: usize = 200 * 1000;
const ADDED: usize = 10 * 1000;
/// Strings of a conversation.
const STRING: usize = 4000;
const ENOUGH: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Options {
    /// Rule files of gitleaks or betterleaks, besides weir's own rules
    #[arg(long)]
    rules: Vec<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        let mut command = sh::cargo(&["run", "--release", "-p", "xtask", "--", "bench", "mask"]);
        for path in &options.rules {
            command.arg("--rules").arg(std::path::absolute(path)?);
        }
        return sh::run(&mut command);
    }
    let mut rules = own::rules()?;
    for path in &options.rules {
        let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut imported = import::import(&file)?.rules;
        imported.retain(|rule| rules.iter().all(|own| own.id != rule.id));
        rules.append(&mut imported);
    }
    let mut texts = Vec::new();
    for folder in ["gateway/src", "docs", "tests/src"] {
        collect(&sh::root().join(folder), &mut texts)?;
    }
    texts.sort();
    let all = texts.concat();
    ensure!(all.len() > 2 * PROMPT, "too few texts");
    let known: Vec<_> =
        (0..40).map(|n| (n, format!("kn0wn-v4lue-{n:08}-{}", n * n).into_bytes())).collect();
    let known = Known::new(known);

    println!("{} rules, {} bytes of text\n", rules.len(), all.len());
    let began = Instant::now();
    let engine = Engine::new(rules.clone())?;
    println!("engine made in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    for rule in engine.slow_rules() {
        println!("tried everywhere: {}", rule.id);
    }
    throughput(&rules, &engine, &all)?;
    conversation(&engine, &known, &all);
    stream("all rules", &engine, &known, &texts);
    let early: Vec<_> = engine.early_rules().map(|rule| rule.id.clone()).collect();
    println!("rules that begin before they are noticed: {early:?}");
    rules.retain(|rule| !early.contains(&rule.id));
    stream("without them", &Engine::new(rules)?, &known, &texts);
    Ok(())
}

fn collect(folder: &Path, texts: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, texts)?;
        } else if path.extension().is_some_and(|end| end == "rs" || end == "md") {
            texts.push(std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Processor time of this thread: other load does not count.
fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map(Duration::from).unwrap_or_default()
}

/// Median time of a run, over at least a second.
fn time(mut run: impl FnMut()) -> Duration {
    run();
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < ENOUGH || samples.len() < 5 {
        let one = now();
        run();
        samples.push(now().saturating_sub(one));
    }
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn throughput(rules: &[Rule], engine: &Engine, text: &str) -> Result<()> {
    println!("\n| | rules | GB/s |\n|---|--:|--:|");
    let text = text.as_bytes();
    let line = |name: &str, rules: usize, taken: Duration| {
        let bytes = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
        println!("| {name} | {rules} | {:.2} |", bytes / taken.as_secs_f64() / 1e9);
    };
    line(
        "prefilter only",
        rules.len(),
        time(|| {
            black_box(engine.noticed(text));
        }),
    );
    let none = Known::default();
    for (name, tier) in
        [("prefixed", Some(Tier::Prefixed)), ("contextual", Some(Tier::Contextual)), ("all", None)]
    {
        let of = |rule: &&Rule| tier.is_none_or(|tier| rule.tier == tier);
        let some: Vec<Rule> = rules.iter().filter(of).cloned().collect();
        let count = some.len();
        let engine = Engine::new(some)?;
        line(
            name,
            count,
            time(|| {
                black_box(engine.find(text, &none));
            }),
        );
    }
    println!();
    println!("places noticed in each KB: {:.1}", per_kb(engine.noticed(text), text.len()));
    println!("matches in all: {}", engine.find(text, &none).len());
    Ok(())
}

fn per_kb(count: usize, bytes: usize) -> f64 {
    let wide = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    wide(count) * 1e3 / wide(bytes)
}

fn conversation(engine: &Engine, known: &Known, text: &str) {
    let bytes = text.as_bytes();
    let (prompt, rest) = bytes.split_at(PROMPT.min(bytes.len()));
    let taken = time(|| {
        black_box(engine.find(prompt, known));
    });
    println!("200 KB cold: {:.2} ms", taken.as_secs_f64() * 1e3);
    let strings: Vec<&[u8]> = prompt.chunks(STRING).collect();
    let (old, _) = strings.split_at(strings.len() - ADDED.div_ceil(STRING).min(strings.len()));
    let mut fresh = rest.chunks_exact(ADDED).cycle();
    let cache = Cache::default();
    let mut samples = Vec::new();
    for _ in 0..rest.len() / ADDED {
        let fresh = fresh.next().unwrap_or_default();
        let began = now();
        for string in old.iter().copied().chain(fresh.chunks(STRING)) {
            black_box(cache.find(engine, known, string));
        }
        samples.push(now().saturating_sub(began));
    }
    // The first one meets an empty cache.
    let mut samples = samples.split_off(1);
    samples.sort_unstable();
    let median = samples.get(samples.len() / 2).copied().unwrap_or_default();
    println!(
        "190 KB remembered and 10 KB new, in strings of 4 KB: {:.0} us",
        median.as_secs_f64() * 1e6
    );
}

/// Every text is streamed in deltas of 3 to 6 characters.
fn stream(name: &str, engine: &Engine, known: &Known, texts: &[String]) {
    let mut random = 0x9E37_79B9_u32;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    let mut delays: Vec<usize> = Vec::new();
    let mut most_held = 0;
    let mut taken = Duration::ZERO;
    for text in texts {
        let mut channel = Channel::default();
        let mut out = Vec::new();
        // Where each delta ends, and how much of the text has been judged after it.
        let (mut ends, mut judged) = (Vec::new(), Vec::new());
        let mut end = 0;
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let length = usize::try_from(next() % 4).unwrap_or(0) + 3;
            let at = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
            let (delta, after) = rest.split_at(at);
            let began = now();
            channel.push(engine, known, delta.as_bytes(), &mut out);
            taken += now().saturating_sub(began);
            rest = after;
            end += delta.len();
            ends.push(end);
            judged.push(end - channel.held());
            most_held = most_held.max(channel.held());
        }
        channel.finish(engine, known, End::Complete, &mut out);
        black_box::<&[Piece]>(&out);
        for (index, end) in ends.iter().enumerate() {
            let later = judged.iter().skip(index);
            delays.push(later.take_while(|judged| *judged < end).count());
        }
    }
    delays.sort_unstable();
    let at = |part: usize| delays.get(delays.len() * part / 1000).copied().unwrap_or_default();
    println!(
        "{name}, {} deltas of 3 to 6 characters: held back by {} deltas in the median, {} at 95 %, {} at 99 %, \
         {} at 99.9 %, {} at most; at most {most_held} bytes held; {:.2} us for each",
        delays.len(),
        at(500),
        at(950),
        at(990),
        at(999),
        delays.last().copied().unwrap_or_default(),
        taken.as_secs_f64() * 1e6
            / f64::from(u32::try_from(delays.len().max(1)).unwrap_or(u32::MAX)),
    );
}
