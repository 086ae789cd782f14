//! `xtask tidy`: what clippy cannot see. File length, module headers, `mod.rs`, import order.
//!
//! The order is in `ARCHITECTURE.md`, in a block fenced as `stages`, one stage per line:
//! `stage: allowed, allowed`. A stage may import itself and what is listed; `*` allows all.
//! `shared: a, b` names modules that every stage may import. Test modules are not looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;

const MAX_LINES: usize = 500;
const FOLDERS: [&str; 6] =
    ["gateway/src", "inspect/src", "ebpf/common/src", "ebpf/src", "xtask/src", "tests/src"];

pub(crate) fn run() -> Result<()> {
    let root = sh::root();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    files.dedup();
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let table = match stages(&text) {
        Ok(table) => Some(table),
        Err(error) => {
            problems.push(format!("ARCHITECTURE.md: {error:#}"));
            None
        }
    };
    for file in &files {
        let source = std::fs::read_to_string(file)?;
        let name = file.strip_prefix(&root).unwrap_or(file).display().to_string();
        let found = check_file(&name, &source).into_iter();
        problems.extend(found.map(|problem| format!("{name}: {problem}")));
        if let (Some(table), Ok(inner)) = (&table, file.strip_prefix(root.join("gateway/src"))) {
            let found = check_imports(table, inner, &source).into_iter();
            problems.extend(found.map(|problem| format!("{name}: {problem}")));
        }
    }
    println!("{} files", files.len());
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{} problems:\n{}", problems.len(), problems.join("\n"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(name: &str, source: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{lines} lines, more than {MAX_LINES}: split it"));
    }
    if name.ends_with("/mod.rs") {
        problems.push("use `foo.rs` beside `foo/` instead of `mod.rs`".to_owned());
    }
    if !source.starts_with("//!") && !name.ends_with("/tests.rs") {
        problems.push("the file does not begin with a module header (`//!`)".to_owned());
    }
    problems
}

/// Stage to what it may import.
type Stages = BTreeMap<String, Vec<String>>;

fn stages(text: &str) -> Result<Stages> {
    let (_, rest) = text.split_once("```stages\n").context("has no block fenced as `stages`")?;
    let (block, _) = rest.split_once("```").context("the block `stages` has no end")?;
    let mut table = Stages::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let (stage, allowed) = line.split_once(':').with_context(|| format!("no `:` in {line}"))?;
        let allowed = allowed.split(',').map(|name| name.trim().to_owned());
        let allowed = allowed.filter(|name| !name.is_empty()).collect();
        if table.insert(stage.trim().to_owned(), allowed).is_some() {
            bail!("stage `{}` is listed twice", stage.trim());
        }
    }
    Ok(table)
}

fn check_imports(table: &Stages, file: &Path, source: &str) -> Vec<String> {
    let first = file.iter().next().map(|part| part.to_string_lossy().into_owned());
    let stage = first.unwrap_or_default().trim_end_matches(".rs").to_owned();
    let is_test = file.iter().any(|part| part == "tests" || part == "tests.rs");
    if is_test || stage == "lib" || stage == "main" {
        return Vec::new();
    }
    let Some(allowed) = table.get(&stage) else {
        return vec![format!("stage `{stage}` is not in the table of ARCHITECTURE.md")];
    };
    let shared = table.get("shared").map_or(&[][..], Vec::as_slice);
    let fits = |name: &String| {
        *name == stage || allowed.iter().chain(shared).any(|entry| entry == "*" || entry == name)
    };
    let imports = imports(production(source));
    let wrong = imports.into_iter().filter(|(_, name)| !fits(name));
    wrong
        .map(|(line, name)| format!("line {line}: stage `{stage}` may not import `{name}`"))
        .collect()
}

/// The part of a source file before its tests.
fn production(source: &str) -> &str {
    source.split_once("\n#[cfg(test)]\nmod tests {").map_or(source, |(before, _)| before)
}

/// Line and first module of every path that begins with `crate::`, with `crate::{a, b}` opened.
fn imports(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some((before, after)) = source.get(offset..).and_then(|s| s.split_once("crate::")) {
        let line_start = before.rfind('\n').map_or(before, |at| before.get(at..).unwrap_or(""));
        let line = source.get(..offset + before.len()).map_or(0, |s| s.lines().count().max(1));
        // comments, and `other_crate::`
        let skipped = line_start.trim_start().starts_with("//")
            || before.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '$');
        offset += before.len() + "crate::".len();
        if skipped {
            continue;
        }
        let names = match after.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![word(after)],
        };
        let names = names.into_iter().filter(|name| name.starts_with(char::is_lowercase));
        found.extend(names.map(|name| (line, name)));
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of the entries of a brace group, whose opening brace is already taken.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut entry) = (0_usize, Vec::new(), String::new());
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut entry)),
            _ if depth == 0 => entry.push(character),
            _ => {}
        }
    }
    names.push(entry);
    names.iter().map(|name| word(name.trim())).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "x\n```stages\nshared: error, clock\ntls: config, accept\napp: *\n```\n";

    #[test]
    fn later_stage_is_refused_and_earlier_one_is_not() {
        let table = stages(TABLE).unwrap();
        let source = "use crate::{config::{Config, http}, error};\nuse crate::policy::Rule;\n\
                      // crate::spool\nfn f() { crate::http::g(); other_crate::x(); }\n\
                      #[cfg(test)]\nmod tests {\n use crate::query;\n}\n";
        let found = check_imports(&table, Path::new("tls/mint.rs"), source);
        assert_eq!(
            found,
            [
                "line 2: stage `tls` may not import `policy`",
                "line 4: stage `tls` may not import `http`"
            ]
        );
        assert!(check_imports(&table, Path::new("app/build.rs"), source).is_empty());
        assert_eq!(check_imports(&table, Path::new("new.rs"), source).len(), 1);
    }

    #[test]
    fn file_rules_name_each_problem() {
        let long = "fn a() {}\n".repeat(MAX_LINES + 1);
        assert_eq!(check_file("gateway/src/tls/mod.rs", &long).len(), 3);
        assert!(check_file("gateway/src/tls.rs", "//! TLS.\n").is_empty());
    }
}
