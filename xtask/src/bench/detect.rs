//! `xtask bench detect`: how many secrets are found, and how much else.

mod corpus;
mod score;
mod source;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use weir_inspect::engine::Engine;
use weir_inspect::known::Known;
use weir_inspect::own;

use corpus::Group;
use score::Score;

#[derive(Args)]
pub(crate) struct Options {
    /// Labelled texts, JSON lines of {"rule", "tp": [text], "fp": [text] | null}; default: weir's own samples
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Folders of ordinary source code, in which hardly anything should be found
    #[arg(long)]
    sources: Vec<PathBuf>,
    /// Print the texts that are judged wrongly
    #[arg(long)]
    wrong: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let groups = match &options.corpus {
        Some(path) => corpus::read(path)?,
        None => Vec::new(),
    };
    let engine = Engine::new(own::rules()?)?;
    println!("weir's own rules: {}", own::rules()?.len());
    let score = score(&groups, options.wrong, |text| {
        !engine.find(text.as_bytes(), &Known::default()).is_empty()
    });
    println!("{score}");
    if options.wrong {
        for group in &groups {
            for text in group.harmless() {
                for found in engine.find(text.as_bytes(), &Known::default()) {
                    if let weir_inspect::engine::By::Rule(index) = found.by {
                        let id = engine.rule(index).map(|rule| rule.id.to_string());
                        println!(
                            "   {} by {} {:?}",
                            group.rule,
                            id.unwrap_or_default(),
                            text.get(found.span)
                        );
                    }
                }
            }
        }
    }
    for folder in &options.sources {
        ordinary(&engine, folder, options.wrong)?;
    }
    Ok(())
}

/// Findings in source code.
fn ordinary(engine: &Engine, folder: &std::path::Path, wrong: bool) -> Result<()> {
    let files = source::files(folder)?;
    let began = std::time::Instant::now();
    let (mut bytes, mut findings) = (0, 0);
    for (path, text) in source::read(&files) {
        bytes += text.len();
        for found in engine.find(&text, &Known::default()) {
            findings += 1;
            if wrong && let weir_inspect::engine::By::Rule(index) = found.by {
                let id = engine.rule(index).map(|rule| rule.id.to_string());
                let line = text
                    .get(found.span.start.saturating_sub(40)..(found.span.end + 4).min(text.len()));
                println!(
                    "~ {} {} {:.160?}",
                    id.unwrap_or_default(),
                    path.display(),
                    String::from_utf8_lossy(line.unwrap_or_default())
                );
            }
        }
    }
    let megabytes = f64::from(u32::try_from(bytes)?) / 1e6;
    println!(
        "{}: {megabytes:.1} MB, {findings} findings, {:.2} for a MB, {:.1} s",
        folder.display(),
        f64::from(findings) / megabytes,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn score(groups: &[Group], wrong: bool, mut finds: impl FnMut(&str) -> bool) -> Score {
    let mut score = Score::default();
    for group in groups {
        let mut missed = 0;
        for text in group.secrets() {
            let found = finds(text);
            missed += u32::from(!found);
            if !found && wrong && missed < 3 {
                println!("- {} {text:.200?}", group.rule);
            }
        }
        if missed > 0 && wrong {
            println!("  {} missed {missed} of {}", group.rule, group.secrets().len());
        }
        let mut false_ones = 0;
        for text in group.harmless() {
            let found = finds(text);
            false_ones += u32::from(found);
            if found && wrong {
                println!("+ {} {text:.200?}", group.rule);
            }
        }
        score.add(group, missed, false_ones);
    }
    score
}
