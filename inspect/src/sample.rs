//! Made-up secrets of every rule, and texts that only look like them.
//!
//! - input: a [`Definition`], a seed
//! - output: [`Sample`]s, the same for the same seed
//! - bound: `MAX_DRAWS` for one value
//! - on failure: no sample, when the filter drops everything that is drawn

mod draw;

use std::ops::Range;

use crate::filter::Candidate;
use crate::own::Definition;

pub use draw::Random;
use draw::{Choice, draw, has_group};

/// Values that are tried until the filter of a rule lets one pass.
const MAX_DRAWS: usize = 400;

/// What people write where a secret is to be put in.
const STAND_INS: [&str; 4] =
    ["<YOUR_TOKEN>", "${TOKEN}", "{{ token }}", "xxxxxxxxxxxxxxxxxxxxxxxx"];

/// Where a value stands in what people write.
#[derive(Clone, Copy, Debug)]
pub enum Surroundings {
    /// A constant in code.
    Code,
    /// A line of an environment file.
    Env,
    /// A field of JSON.
    Json,
    /// A line of YAML.
    Yaml,
}

impl Surroundings {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Code, Self::Env, Self::Json, Self::Yaml];
}

/// A text with one secret in it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// All of it, in one line unless the rule wants more.
    pub text: String,
    /// The secret in it; what surrounds it is part of some rules' match.
    pub secret: Range<usize>,
}

impl Sample {
    /// The secret.
    pub fn value(&self) -> &str {
        self.text.get(self.secret.clone()).unwrap_or_default()
    }
}

/// A text in which the rule finds something.
pub fn secret(definition: &Definition, random: &mut Random, place: Surroundings) -> Option<Sample> {
    let pattern = definition.value.as_ref().or(definition.pattern.as_ref())?;
    let rule = definition.rule().ok()?;
    for _ in 0..MAX_DRAWS {
        let is_group = definition.pattern.as_ref().is_some_and(|pattern| has_group(pattern));
        let choice = if is_group { Choice::RandomGroup } else { Choice::Random };
        let drawn = draw(pattern, random, choice)?;
        let candidate = Candidate {
            text: drawn.text.as_bytes(),
            matched: 0..drawn.text.len(),
            secret: drawn.group.clone(),
        };
        if !rule.filter.drops(&candidate) {
            let name = name(definition, random, &drawn.text);
            return Some(embed(definition, &name, &drawn.text, &drawn.group, place));
        }
    }
    None
}

/// Texts in which the rule finds nothing: a byte too short, another beginning, no entropy, what
/// stands for a secret.
pub fn harmless(definition: &Definition, random: &mut Random) -> Vec<String> {
    let Some(pattern) = &definition.value else { return Vec::new() };
    let mut values = Vec::new();
    let Some(shortest) = draw(pattern, random, Choice::Shortest) else { return values };
    let text = shortest.text;
    let name = name(definition, random, &text);
    let other = if text.starts_with('q') { 'z' } else { 'q' };
    values.push(text.get(..text.len().saturating_sub(1)).unwrap_or_default().to_owned());
    if definition.is_prefixed() {
        values.push(format!("{other}{}", text.get(1..).unwrap_or_default()));
    }
    values.retain(|value| !draw::is_whole(pattern, value));
    if definition.filter.drops_runs() {
        let same = draw(pattern, random, Choice::First).map(|drawn| drawn.text);
        values.extend(same.filter(|text| draw::has_run(text)));
    }
    let mut texts = stand_ins(definition, random);
    texts.extend(values.iter().flat_map(|value| in_all_places(definition, &name, value)));
    texts
}

/// Texts in which something stands for a secret of the rule; no rule finds anything in them.
pub fn stand_ins(definition: &Definition, random: &mut Random) -> Vec<String> {
    let Some(value) = &definition.value else { return Vec::new() };
    let shortest = draw(value, random, Choice::Shortest).map(|drawn| drawn.text);
    let name = name(definition, random, &shortest.unwrap_or_default());
    STAND_INS.iter().flat_map(|value| in_all_places(definition, &name, value)).collect()
}

fn in_all_places(definition: &Definition, name: &str, value: &str) -> [String; 4] {
    Surroundings::ALL.map(|place| embed(definition, name, value, &(0..value.len()), place).text)
}

/// What the value is assigned to.
fn name(definition: &Definition, random: &mut Random, value: &str) -> String {
    if let Some(words) = definition.context.first() {
        return format!("{}_token", words.replace(' ', "_"));
    }
    if let Some(name) = &definition.name {
        return draw(name, random, Choice::Shortest).map(|drawn| drawn.text).unwrap_or_default();
    }
    let lower = value.to_ascii_lowercase();
    let keywords = definition.rule().map(|rule| rule.keywords).unwrap_or_default();
    if keywords.iter().any(|word| lower.contains(word.as_str())) {
        return "setting".to_owned();
    }
    // A word that has to be near.
    let word =
        |word: &String| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let near = keywords.into_iter().find(word).unwrap_or_default();
    format!("{}_value", near.trim_matches('_'))
}

fn embed(
    definition: &Definition,
    name: &str,
    value: &str,
    secret: &Range<usize>,
    place: Surroundings,
) -> Sample {
    let (before, after) = match place {
        _ if definition.value.is_none() => ("see ".to_owned(), "\n".to_owned()),
        Surroundings::Code => (format!("const {name} = \""), "\";\n".to_owned()),
        Surroundings::Env if definition.name.is_some() => (format!("{name}="), "\n".to_owned()),
        Surroundings::Env => (format!("{}=", name.to_ascii_uppercase()), "\n".to_owned()),
        Surroundings::Json => (format!("{{\"{name}\": \""), "\"}".to_owned()),
        Surroundings::Yaml => (format!("a: 1\n{name}: "), "\nb: 2\n".to_owned()),
    };
    let start = before.len();
    Sample {
        text: format!("{before}{value}{after}"),
        secret: start.saturating_add(secret.start)..start.saturating_add(secret.end),
    }
}

#[cfg(test)]
mod tests;
