//! `weir rules`: what secrets look like, and trying it out.
//!
//! - input: `[inspect]`, rule files, text
//! - output: a summary, a list, or what was found, with the secrets masked
//! - bound: [`MAX_TEXT_BYTES`] of text
//! - on failure: says which file or rule

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use weir_inspect::engine::{By, Engine};
use weir_inspect::import::{Imported, Outcome};
use weir_inspect::known::Known;
use weir_inspect::rule::{Confidence, Rule, Tier};

use super::{CliError, Context};
use crate::inspect::rules::{self, RuleFile, RulesError};
use crate::query::sql::new_table;
use crate::query::terminal;

/// Of text for `weir rules test`.
const MAX_TEXT_BYTES: u64 = 16 * 1024 * 1024;
/// Where imported files go when nothing else is said.
const DEFAULT_DIR: &str = "/etc/weir/rules";

/// Arguments of `weir rules`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a rule file of gitleaks or betterleaks, copy it, and print how to put it in force
    Import {
        /// The file
        file: PathBuf,
        /// Directory for the copy
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        out: PathBuf,
    },
    /// List the rules in force
    List {
        /// As JSON, one object for each rule
        #[arg(long)]
        json: bool,
    },
    /// Check a rule file without putting it anywhere: weir's shape, gitleaks', betterleaks'
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show what the rules find in a text; the secrets are masked
    Test {
        /// The text; "-" reads standard input
        text: String,
        /// Only the rules of this file instead of those in force
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
    },
}

/// Answers on `out`.
///
/// # Errors
/// See [`CliError`].
pub fn run(args: &Args, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
    match &args.command {
        Command::Import { file, out: dir } => import(file, dir, out),
        Command::List { json } => list(&in_force(context)?, *json, out),
        Command::Check { file } => check(file, out),
        Command::Test { text, rules } => {
            let rules = match rules {
                Some(file) => of_file(file)?,
                None => in_force(context)?,
            };
            test(rules, &text_of(text)?, out)
        }
    }
}

fn in_force(context: &Context) -> Result<Vec<Rule>, CliError> {
    Ok(rules::load(&context.config()?.inspect)?)
}

/// Rules of either shape.
fn of_file(file: &Path) -> Result<Vec<Rule>, RulesError> {
    match rules::operators(file) {
        Ok(rules) if !rules.is_empty() => Ok(rules),
        // Its errors are about a shape that the file does not have.
        Ok(_) | Err(RulesError::Own { .. }) if is_foreign(file)? => {
            Ok(rules::open(file)?.imported.rules)
        }
        other => other,
    }
}

/// Whether a file has `[[rules]]` instead of `[[rule]]`.
fn is_foreign(file: &Path) -> Result<bool, RulesError> {
    use weir_inspect::import::ImportError;
    match rules::open(file) {
        Ok(_) => Ok(true),
        Err(RulesError::Import { source: ImportError::Empty | ImportError::Toml(_), .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn import(file: &Path, dir: &Path, out: &mut dyn Write) -> Result<(), CliError> {
    let opened = rules::open(file)?;
    // The gateway would refuse to start with what its engine does not take.
    engine(opened.imported.rules.clone())?;
    summary(&opened.imported, out)?;
    let path = copy(&opened, file, dir)?;
    writeln!(out, "\ncopied to {}; to put it in force:\n", path.display())?;
    writeln!(out, "[[inspect.import]]")?;
    writeln!(out, "file = {:?}", path.display().to_string())?;
    writeln!(out, "sha256 = \"{}\"", hex::encode(opened.sha256))?;
    Ok(())
}

/// Named by its content, so that no file that is pinned ever changes.
fn copy(opened: &RuleFile, file: &Path, dir: &Path) -> Result<PathBuf, CliError> {
    let failed = |what: &Path, error: std::io::Error| {
        CliError::Failed(format!("copying to {}: {error}", what.display()))
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let dir = dir.canonicalize().map_err(|error| failed(dir, error))?;
    let name = file.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).take(64).collect();
    let digest: String = hex::encode(opened.sha256).chars().take(12).collect();
    let path = dir.join(format!("{name}-{digest}.toml"));
    let partial = dir.join(format!(".{name}-{digest}.{}", std::process::id()));
    std::fs::write(&partial, &opened.bytes).map_err(|error| failed(&partial, error))?;
    std::fs::rename(&partial, &path).map_err(|error| failed(&path, error))?;
    Ok(path)
}

fn check(file: &Path, out: &mut dyn Write) -> Result<(), CliError> {
    let rules = if is_foreign(file)? {
        let imported = rules::open(file)?.imported;
        summary(&imported, out)?;
        imported.rules
    } else {
        let rules = rules::operators(file)?;
        writeln!(out, "{} rules", rules.len())?;
        rules
    };
    engine(rules).map(|_| ())
}

fn engine(rules: Vec<Rule>) -> Result<Engine, CliError> {
    Engine::new(rules).map_err(|error| CliError::Failed(error.to_string()))
}

/// How many rules, and what became of the others: equal reasons together.
fn summary(imported: &Imported, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(
        out,
        "{} rules taken over, {} refused; {} KiB of automata",
        imported.rules.len(),
        imported.count(Outcome::Refused),
        imported.compiled_bytes / 1024
    )?;
    for (outcome, title) in [
        (Outcome::Refused, "refused"),
        (Outcome::Widened, "finds more than in its own scanner"),
        (Outcome::Ignored, "without effect here"),
    ] {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for note in imported.notes.iter().filter(|note| note.outcome == outcome) {
            let of = note.rule.as_deref().unwrap_or("the whole file");
            reasons.entry(&note.reason).or_default().push(of);
        }
        for (reason, ids) in reasons {
            writeln!(out, "\n{title}: {}", terminal::line(reason))?;
            writeln!(out, "  {}", ids.join(" "))?;
        }
    }
    Ok(())
}

fn list(rules: &[Rule], json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    if json {
        for rule in rules {
            let object = serde_json::json!({
                "id": &*rule.id,
                "description": rule.description,
                "tier": tier(rule.tier),
                "confidence": confidence(rule.confidence),
                "keywords": rule.keywords,
                "hosts": rule.hosts,
                "source": rule.source,
            });
            writeln!(out, "{object}")?;
        }
        return Ok(());
    }
    let mut table = new_table();
    table.set_header(["RULE", "TIER", "CONFIDENCE", "DESCRIPTION"]);
    for rule in rules {
        table.add_row([
            terminal::line(&rule.id).into_owned(),
            tier(rule.tier).to_owned(),
            confidence(rule.confidence).to_owned(),
            terminal::line(&rule.description).into_owned(),
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}

fn text_of(text: &str) -> Result<Vec<u8>, CliError> {
    if text != "-" {
        return Ok(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_TEXT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn test(rules: Vec<Rule>, text: &[u8], out: &mut dyn Write) -> Result<(), CliError> {
    let engine = engine(rules)?;
    let found = engine.find(text, &Known::default());
    if found.is_empty() {
        writeln!(out, "nothing found")?;
        return Ok(());
    }
    let mut table = new_table();
    table.set_header(["LINE", "COLUMN", "RULE", "TIER", "CONFIDENCE", "SECRET"]);
    for one in found {
        let before = text.get(..one.span.start).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().len() + 1;
        let By::Rule(index) = one.by else { continue };
        let Some(rule) = engine.rule(index) else { continue };
        table.add_row([
            line.to_string(),
            column.to_string(),
            rule.id.to_string(),
            tier(rule.tier).to_owned(),
            confidence(one.confidence).to_owned(),
            masked(text.get(one.span).unwrap_or_default()),
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}

/// The first bytes of a long secret, as they tell the provider, and its length.
fn masked(secret: &[u8]) -> String {
    let shown = if secret.len() >= 16 { secret.get(..4).unwrap_or_default() } else { &[] };
    let shown = String::from_utf8_lossy(shown);
    format!("{}… ({} bytes)", terminal::line(&shown), secret.len())
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Known => "known",
        Tier::Prefixed => "prefixed",
        Tier::Contextual => "contextual",
    }
}

fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

#[cfg(test)]
mod tests;
