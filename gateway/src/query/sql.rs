//! Any statement that reads.
//!
//! - input: SQL, and how to show the answer
//! - output: a table for people, or the server's own JSON or CSV for programs
//! - bound: a table is collected up to `MAX_TABLE_BYTES`; the others stream
//! - on failure: [`QueryError`]

use std::borrow::Cow;
use std::io::Write;

use clickhouse::Client;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Deserialize;
use serde_json::Value;

use super::{MAX_TABLE_BYTES, QueryError, terminal};

/// How to show an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One JSON object per line.
    Json,
    /// CSV with a header.
    Csv,
}

/// Runs `sql` and writes its answer.
///
/// With `for_terminal`, CSV is made harmless for a terminal; programs get it as it is.
///
/// # Errors
/// See [`QueryError`].
pub async fn run(
    client: &Client,
    sql: &str,
    format: Format,
    for_terminal: bool,
    out: &mut dyn Write,
) -> Result<(), QueryError> {
    match format {
        Format::Table => table(client, sql, out).await,
        // JSON is UTF-8 (RFC 8259 section 8.1), which ClickHouse does not see to: hashes are bytes.
        Format::Json if !for_terminal => {
            pass(client, sql, "JSONEachRow", Some(|text| text.into()), out).await
        }
        Format::Json => pass(client, sql, "JSONEachRow", Some(terminal::block), out).await,
        Format::Csv if !for_terminal => pass(client, sql, "CSVWithNames", None, out).await,
        Format::Csv => pass(client, sql, "CSVWithNames", Some(terminal::block), out).await,
    }
}

#[derive(Deserialize)]
struct Whole {
    meta: Vec<Column>,
    data: Vec<Vec<Value>>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    r#type: String,
}

async fn table(client: &Client, sql: &str, out: &mut dyn Write) -> Result<(), QueryError> {
    let failed = || QueryError::failed("running the query");
    let mut cursor = client.query_raw(sql).fetch_bytes("JSONCompact").map_err(failed())?;
    let mut answer = Vec::new();
    while let Some(piece) = cursor.next().await.map_err(failed())? {
        if answer.len() + piece.len() > MAX_TABLE_BYTES {
            return Err(QueryError::Asked(format!(
                "the answer is larger than {} MiB: add a LIMIT, or use --format json or csv",
                MAX_TABLE_BYTES / 1024 / 1024
            )));
        }
        answer.extend_from_slice(&piece);
    }
    if answer.is_empty() {
        return Ok(());
    }
    // A statement with a FORMAT clause of its own has chosen how it wants to look.
    let Ok(whole) = serde_json::from_slice::<Whole>(&answer) else {
        let text = String::from_utf8_lossy(&answer);
        out.write_all(terminal::block(&text).as_bytes())?;
        return Ok(());
    };
    let numeric = |kind: &str| {
        ["Int", "UInt", "Float", "Decimal"].iter().any(|start| kind.starts_with(start))
    };
    let mut table = new_table();
    table.set_header(whole.meta.iter().map(|c| terminal::line(&c.name).into_owned()));
    for row in &whole.data {
        table.add_row(row.iter().map(cell));
    }
    for (i, column) in whole.meta.iter().enumerate() {
        if numeric(&column.r#type)
            && let Some(column) = table.column_mut(i)
        {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")?;
    Ok(())
}

/// A table in the style of all answers.
pub fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "NULL".to_owned(),
        other => other.to_string(),
    };
    terminal::line(&text).into_owned()
}

/// Hands the server's answer on; with `clean`, as text that went through it line by line.
async fn pass(
    client: &Client,
    sql: &str,
    format: &str,
    clean: Option<fn(&str) -> Cow<'_, str>>,
    out: &mut dyn Write,
) -> Result<(), QueryError> {
    let failed = || QueryError::failed("running the query");
    let mut cursor = client.query_raw(sql).fetch_bytes(format).map_err(failed())?;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = cursor.next().await.map_err(failed())? {
        let Some(clean) = clean else {
            out.write_all(&piece)?;
            continue;
        };
        // Lines are cleaned whole, so that no character is cut in two.
        rest.extend_from_slice(&piece);
        if let Some(end) = rest.iter().rposition(|b| *b == b'\n') {
            let tail = rest.split_off(end + 1);
            out.write_all(clean(&String::from_utf8_lossy(&rest)).as_bytes())?;
            rest = tail;
        } else if rest.len() > MAX_TABLE_BYTES {
            return Err(QueryError::Asked("a row is too large to be shown".to_owned()));
        }
    }
    if let Some(clean) = clean {
        out.write_all(clean(&String::from_utf8_lossy(&rest)).as_bytes())?;
    }
    Ok(())
}
