//! `xtask docs`: `docs/configuration.md` from the doc comments of `config/raw.rs` and `config/raw/`.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// Read one after the other.
const SOURCES: [&str; 3] = [
    "gateway/src/config/raw.rs",
    "gateway/src/config/raw/identity.rs",
    "gateway/src/config/raw/inspect.rs",
];
const TARGET: &str = "docs/configuration.md";
const HEAD: &str = "\
# Configuration

weir reads one TOML file, `/etc/weir/weir.toml` unless `--config` names another. Without that file
every key has its default. Unknown keys and values out of range are errors; `weir check-config`
lists all of them. `deploy/weir.toml` shows every key with its default.

<!-- made by `cargo xtask docs` from the comments in gateway/src/config/raw.rs -->
";

pub(crate) fn run(check: bool) -> Result<()> {
    let root = sh::root();
    let mut source = String::new();
    for path in SOURCES {
        let text = std::fs::read_to_string(root.join(path));
        source.push_str(&text.with_context(|| format!("read {path}"))?);
    }
    let text = render(&source)?;
    let target = root.join(TARGET);
    if check {
        let present = std::fs::read_to_string(&target).unwrap_or_default();
        ensure!(present == text, "{TARGET} is stale: run `cargo xtask docs`");
        println!("{TARGET} is up to date");
        return Ok(());
    }
    std::fs::create_dir_all(root.join("docs"))?;
    std::fs::write(&target, text).with_context(|| format!("write {TARGET}"))?;
    println!("wrote {TARGET}");
    Ok(())
}

struct Structure {
    name: String,
    fields: Vec<(String, String, String)>,
}

/// Reads `pub struct`s with their documented fields: name, type, text.
fn structures(source: &str) -> Result<Vec<Structure>> {
    let mut all: Vec<Structure> = Vec::new();
    let (mut inside, mut comment) = (false, Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim().to_owned());
            continue;
        }
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap_or_default().to_owned();
            inside = line.ends_with('{');
            all.push(Structure { name, fields: Vec::new() });
        } else if line == "}" {
            inside = false;
        } else if let (true, Some(rest)) = (inside, line.strip_prefix("pub ")) {
            let (name, kind) = rest.split_once(':').with_context(|| format!("read `{line}`"))?;
            let kind = kind.trim().trim_end_matches(',').to_owned();
            ensure!(!comment.is_empty(), "key `{name}` has no documentation");
            let current = all.last_mut().context("field outside a structure")?;
            current.fields.push((name.to_owned(), kind, comment.join(" ")));
        }
        if !line.starts_with("#[") {
            comment.clear();
        }
    }
    Ok(all)
}

fn render(source: &str) -> Result<String> {
    let all = structures(source)?;
    let file = all.iter().find(|one| one.name == "Raw").context("no `struct Raw`")?;
    let mut out = HEAD.to_owned();
    for (section, kind, about) in &file.fields {
        let Some(keys) = all.iter().find(|one| one.name == *kind) else {
            bail!("section `{section}` has the unknown type `{kind}`");
        };
        let tables = table(&mut out, &format!("[{section}]"), about, keys, &all)?;
        for (name, about, keys) in tables {
            table(&mut out, &format!("[[{section}.{name}]]"), about, keys, &all)?;
        }
    }
    Ok(out)
}

/// Writes one table, and returns the fields that are arrays of tables: name, text, keys.
fn table<'a>(
    out: &mut String,
    title: &str,
    about: &str,
    keys: &'a Structure,
    all: &'a [Structure],
) -> Result<Vec<(&'a str, &'a str, &'a Structure)>> {
    write!(out, "\n## `{title}`\n\n{about}\n\n| key | type | meaning |\n|---|---|---|\n")?;
    let mut tables = Vec::new();
    for (name, kind, text) in &keys.fields {
        let inner = kind.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>'));
        let kind = match all.iter().find(|one| Some(one.name.as_str()) == inner) {
            Some(keys) => {
                tables.push((name.as_str(), text.as_str(), keys));
                "array of tables".to_owned()
            }
            None => toml_type(kind)?,
        };
        writeln!(out, "| `{name}` | {kind} | {} |", text.replace('|', "\\|"))?;
    }
    Ok(tables)
}

/// What a Rust type is called in TOML.
fn toml_type(kind: &str) -> Result<String> {
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')) {
        return toml_type(inner);
    }
    if let Some(inner) = kind.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>')) {
        return Ok(format!("array of {}", toml_type(inner)?));
    }
    Ok(match kind {
        "String" | "FlowRule" | "DnsCheck" | "IssuerKind" | "Require" | "Mode" | "Egress" => {
            "string"
        }
        "BTreeMap<String, ClaimValues>" => "table of strings or arrays of strings",
        "PathBuf" => "path",
        "bool" => "boolean",
        "u8" | "u16" | "u32" | "u64" | "usize" => "integer",
        other => bail!("no TOML name for the type `{other}`: add it to xtask/src/docs.rs"),
    }
    .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_becomes_a_row_and_an_undocumented_one_is_an_error() {
        let source = "pub struct Raw {\n/// About a.\npub a: A,\n}\npub struct A {\n\
                      /// First.\n/// Default: `1`.\n#[serde(x)]\npub one: Option<u16>,\n}\n";
        let text = render(source).unwrap();
        assert!(text.contains("## `[a]`\n\nAbout a.\n"));
        assert!(text.contains("| `one` | integer | First. Default: `1`. |"));
        let source2 = source.replace("one: Option<u16>", "one: Vec<B>");
        let text2 = render(&(source2 + "pub struct B {\n/// Deep.\npub two: bool,\n}\n")).unwrap();
        assert!(text2.contains("| `one` | array of tables |"));
        assert!(text2.contains("## `[[a.one]]`") && text2.contains("| `two` | boolean | Deep. |"));
        assert!(render(&source.replace("/// First.\n/// Default: `1`.\n", "")).is_err());
    }
}
