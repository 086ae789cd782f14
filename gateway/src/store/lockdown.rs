//! Locks the embedded engine down: what it may touch is written into its configuration.
//!
//! - input: the data directory and the database name
//! - output: `config.xml` and `users.xml`, and the arguments of the engine's connections
//! - bound: two small files, rewritten at every start
//! - on failure: [`StoreError::Io`]; the store does not start unlocked
//!
//! Out of the box any `SELECT` of the engine reads any file (`file()`, backquoted paths) and any
//! URL. The grants below have no `SOURCES`, so these are refused for everybody. Connections of
//! analysts are opened `readonly=1` on top, and their statements are classified one by one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::config;

/// Seconds that one statement of an analyst may run.
pub(super) const MAX_READ_SECONDS: u32 = 60;

/// Arguments of the two kinds of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// For the writer.
    pub(super) writer: Vec<String>,
    /// For analysts.
    pub(super) reader: Vec<String>,
}

/// Writes the configuration and returns the arguments that use it.
pub(super) fn prepare(config: &config::Store) -> Result<Arguments, StoreError> {
    let users = config.data_dir.join("users.xml");
    let main = config.data_dir.join("config.xml");
    write(&users, &users_xml(&config.database))?;
    write(&main, &config_xml(&users)?)?;
    let cap = config.max_memory_bytes;
    let mut writer = vec![
        format!("--config-file={}", text(&main)?),
        format!("--path={}", text(&config.data_dir.join("data"))?),
        // An acknowledged insert must be on disk; the engine's default answers before.
        "--async_insert=0".to_owned(),
        format!("--max_server_memory_usage={cap}"),
        format!("--max_memory_usage={}", cap / 10 * 8),
        format!("--mark_cache_size={}", (cap / 16).min(256 * 1024 * 1024)),
        format!("--uncompressed_cache_size={}", 0),
        // One insert is one block, so that it is atomic and its token names all of it.
        "--max_insert_block_size=16777216".to_owned(),
        "--min_insert_block_size_rows=16777216".to_owned(),
        "--min_insert_block_size_bytes=1073741824".to_owned(),
        "--session_timezone=UTC".to_owned(),
    ];
    let mut reader = writer.clone();
    writer.push("--max_execution_time=300".to_owned());
    reader.retain(|arg| !arg.starts_with("--max_memory_usage="));
    reader.extend([
        format!("--max_memory_usage={}", cap / 4),
        format!("--max_execution_time={MAX_READ_SECONDS}"),
        "--allow_ddl=0".to_owned(),
        // Last: after it no other setting can change.
        "--readonly=1".to_owned(),
    ]);
    Ok(Arguments { writer, reader })
}

/// The engine reads user definitions only from a file that its configuration names.
fn config_xml(users: &Path) -> Result<String, StoreError> {
    Ok(format!(
        "<clickhouse><user_directories><users_xml><path>{}</path></users_xml></user_directories></clickhouse>\n",
        escape(text(users)?),
    ))
}

fn users_xml(database: &str) -> String {
    let tables = [
        "SELECT",
        "INSERT",
        "ALTER",
        "CREATE TABLE",
        "CREATE VIEW",
        "DROP TABLE",
        "DROP VIEW",
        "TRUNCATE",
        "OPTIMIZE",
    ]
    .join(", ");
    let grants = [
        "GRANT SHOW ON *.*".to_owned(),
        format!("GRANT CREATE DATABASE ON `{database}`.*"),
        format!("GRANT {tables} ON `{database}`.*"),
        "GRANT SELECT ON system.parts, SELECT ON system.columns, SELECT ON system.tables"
            .to_owned(),
        "GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON ReplacingMergeTree".to_owned(),
    ];
    let grants: String =
        grants.iter().map(|g| format!("      <query>{}</query>\n", escape(g))).collect();
    format!(
        "<clickhouse>\n  <profiles><default><async_insert>0</async_insert></default></profiles>\n  \
         <quotas><default/></quotas>\n  <users><default>\n    <password></password>\n    \
         <networks><ip>::/0</ip></networks>\n    <profile>default</profile>\n    \
         <quota>default</quota>\n    <grants>\n{grants}    </grants>\n  </default></users>\n\
         </clickhouse>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(path: &Path) -> Result<&str, StoreError> {
    path.to_str().ok_or_else(|| StoreError::DataDir {
        path: path.to_owned(),
        what: "the engine takes only paths in UTF-8".to_owned(),
    })
}

/// Replaces a file at once, so that a crash leaves the old or the new one.
fn write(path: &Path, content: &str) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { action: format!("writing {}", path.display()), source };
    let fresh: PathBuf = path.with_extension("xml.new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_name_the_database_and_no_sources() {
        let xml = users_xml("evidence");
        assert!(xml.contains("ON `evidence`.*"), "{xml}");
        for word in ["SOURCES", "FILE", "URL", "REMOTE", "ALL ON"] {
            assert!(!xml.contains(word), "{word} in {xml}");
        }
    }

    #[test]
    fn paths_cannot_break_out_of_the_configuration() {
        let xml = config_xml(Path::new("/a/<b>&/users.xml")).unwrap();
        assert!(xml.contains("/a/&lt;b&gt;&amp;/users.xml"), "{xml}");
    }
}
