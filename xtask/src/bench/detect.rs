//! `xtask bench detect`: how many secrets are found, and how much else; beside scanners from PyPI.

mod corpus;
mod peers;
mod score;
mod source;
mod table;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use weir_inspect::engine::{By, Engine};
use weir_inspect::known::Known;
use weir_inspect::sample::{self, Random, Surroundings};
use weir_inspect::{import, own};

use crate::sh;
use corpus::Group;
use peers::Peer;
use score::Score;

/// Secrets of one kind in weir's own samples.
const SAMPLES: usize = 4;
const SEED: u64 = 11;

#[derive(Args)]
pub(crate) struct Options {
    /// Labelled texts: JSON lines of {"rule", "tp": [text], "fp": [text] | null}; else weir's own samples
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// A rule file of gitleaks or betterleaks, to be measured together with weir's rules
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Folders of ordinary source code, in which hardly anything should be found
    #[arg(long)]
    sources: Vec<PathBuf>,
    /// Scanners to compare with
    #[arg(long, value_delimiter = ',', default_value = "detect-secrets,kingfisher")]
    peers: Vec<Peer>,
    /// Without any of them
    #[arg(long)]
    alone: bool,
    /// Secrets, each of another rule, in the table of encodings; 0: no table
    #[arg(long, default_value_t = 219)]
    secrets: usize,
    /// Print the texts that are judged wrongly
    #[arg(long)]
    wrong: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let peers: &[Peer] = if options.alone { &[] } else { &options.peers };
    if !peers.is_empty() {
        peers::install()?;
    }
    let mut engines = vec![("weir", engine(None)?)];
    if let Some(path) = &options.rules {
        engines.push(("weir and imported rules", engine(Some(path))?));
    }
    let groups = match &options.corpus {
        Some(path) => corpus::read(path)?,
        None => samples()?,
    };
    recall(&groups, &engines, peers, options.wrong)?;
    for folder in &options.sources {
        for (name, engine) in &engines {
            ordinary(name, engine, folder, options.wrong)?;
        }
    }
    if let (Some((_, engine)), 1..) = (engines.first(), options.secrets) {
        encodings(engine, peers, options)?;
    }
    Ok(())
}

fn engine(imported: Option<&Path>) -> Result<Engine> {
    let mut rules = own::rules()?;
    let own = rules.len();
    if let Some(path) = imported {
        let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        rules.extend(import::import(&file)?.rules);
    }
    println!("rules: {own} of weir, {} imported", rules.len() - own);
    Ok(Engine::new(rules)?)
}

/// Weir's own samples as a corpus.
fn samples() -> Result<Vec<Group>> {
    let mut random = Random::new(SEED);
    let mut groups = Vec::new();
    for definition in own::definitions()? {
        let places = Surroundings::ALL.into_iter().take(SAMPLES);
        let secrets = places.filter_map(|place| sample::secret(&definition, &mut random, place));
        let secrets = secrets.map(|sample| sample.text).collect();
        groups.push(Group::new(
            &definition.id,
            secrets,
            sample::stand_ins(&definition, &mut random),
        ));
    }
    Ok(groups)
}

fn recall(groups: &[Group], engines: &[(&str, Engine)], peers: &[Peer], wrong: bool) -> Result<()> {
    for (name, engine) in engines {
        let finds = |text: &str| !engine.find(text.as_bytes(), &Known::default()).is_empty();
        println!("{name:24} {}", score(groups, wrong, finds));
    }
    let all = groups.iter().flat_map(|group| group.secrets().into_iter().chain(group.harmless()));
    let texts: Vec<Vec<u8>> = all.map(|text| text.as_bytes().to_vec()).collect();
    for peer in peers {
        sh::check()?;
        // In the order in which they are asked for.
        let mut answers = peer.finds(&texts)?.into_iter();
        println!("{:24} {}", peer.name(), score(groups, false, |_| answers.next() == Some(true)));
    }
    Ok(())
}

fn score(groups: &[Group], wrong: bool, mut finds: impl FnMut(&str) -> bool) -> Score {
    let mut score = Score::default();
    for group in groups {
        let mut count = |texts: Vec<&str>, expected: bool| {
            let judged: Vec<&str> =
                texts.into_iter().filter(|text| finds(text) != expected).collect();
            if wrong {
                let sign = if expected { "missed" } else { "false" };
                judged.iter().for_each(|text| println!("{sign} {} {text:.200?}", group.rule));
            }
            u32::try_from(judged.len()).unwrap_or(u32::MAX)
        };
        let missed = count(group.secrets(), true);
        let false_ones = count(group.harmless(), false);
        score.add(group, missed, false_ones);
    }
    score
}

/// Findings in source code.
fn ordinary(name: &str, engine: &Engine, folder: &Path, wrong: bool) -> Result<()> {
    let files = source::files(folder)?;
    let began = Instant::now();
    let (mut bytes, mut findings) = (0, 0);
    for (path, text) in source::read(&files) {
        bytes += text.len();
        for found in engine.find(&text, &Known::default()) {
            findings += 1;
            let By::Rule(index) = found.by else { continue };
            let rule = engine.rule(index).map(|rule| rule.id.to_string()).unwrap_or_default();
            let value = String::from_utf8_lossy(text.get(found.span).unwrap_or_default());
            if wrong {
                println!("found {rule} {} {value:.100?}", path.display());
            }
        }
    }
    ensure!(bytes > 0, "no source code in {}", folder.display());
    let megabytes = f64::from(u32::try_from(bytes)?) / 1e6;
    println!(
        "{name:24} {:.2} findings for a MB of {}: {findings} in {megabytes:.1} MB, {:.1} s",
        f64::from(findings) / megabytes,
        folder.display(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The table of encodings: secrets found, of all, by each tool.
fn encodings(engine: &Engine, peers: &[Peer], options: &Options) -> Result<()> {
    let secrets = table::secrets(options.secrets)?;
    let names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
    println!("\n{} secrets, each of another rule; found at every split position:", secrets.len());
    println!("| encoding | splits | weir | {} |", names.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(names.len()));
    for row in table::ROWS {
        sh::check()?;
        let mut masked = 0;
        let mut texts = Vec::new();
        for secret in &secrets {
            let mut all = true;
            for shift in 0..row.shifts() {
                let bytes = row.encode(&secret.text, shift)?;
                let is_masked = row.is_masked(engine, &bytes, secret.value());
                if !is_masked && options.wrong {
                    println!("missed {} at {shift}: {:?}", row.name(), secret.text);
                }
                all &= is_masked;
                if shift == 0 {
                    texts.push(bytes);
                }
            }
            masked += u32::from(all);
        }
        let mut line = format!("| {} | {} | {masked} |", row.name(), row.shifts());
        for peer in peers {
            let hits = peer.finds(&texts)?.into_iter().filter(|found| *found).count();
            write!(line, " {hits} |")?;
        }
        println!("{line}");
    }
    Ok(())
}
