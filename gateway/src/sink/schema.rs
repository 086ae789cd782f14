//! Migrations: the numbered files of `deploy/clickhouse/`, embedded and applied once, in order.
//!
//! - input: a client that may write, and the database
//! - output: [`Migrated`]
//! - bound: the files of this binary
//! - on failure: [`SinkError`]; statements are `IF NOT EXISTS`, so that a migration that was cut
//!   off is applied again as a whole

use clickhouse::Client;
use sha2::{Digest as _, Sha256};

use super::SinkError;

const BOOKKEEPING: &str = include_str!("../../../deploy/clickhouse/0000_schema_migrations.sql");

/// Every migration, oldest first. Only append: an applied file never changes.
const MIGRATIONS: [Migration; 7] = [
    Migration {
        version: 1,
        name: "record",
        sql: include_str!("../../../deploy/clickhouse/0001_record.sql"),
    },
    Migration {
        version: 2,
        name: "dns",
        sql: include_str!("../../../deploy/clickhouse/0002_dns.sql"),
    },
    Migration {
        version: 3,
        name: "alarms",
        sql: include_str!("../../../deploy/clickhouse/0003_alarms.sql"),
    },
    Migration {
        version: 4,
        name: "dns_process",
        sql: include_str!("../../../deploy/clickhouse/0004_dns_process.sql"),
    },
    Migration {
        version: 5,
        name: "identity",
        sql: include_str!("../../../deploy/clickhouse/0005_identity.sql"),
    },
    Migration {
        version: 6,
        name: "findings",
        sql: include_str!("../../../deploy/clickhouse/0006_findings.sql"),
    },
    Migration {
        version: 7,
        name: "unmaskable",
        sql: include_str!("../../../deploy/clickhouse/0007_unmaskable.sql"),
    },
];

/// One file.
struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Versions applied now; empty when the database was up to date.
    pub applied: Vec<u32>,
    /// Version of the schema afterwards.
    pub version: u32,
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct Applied {
    version: u32,
    checksum: String,
}

/// Creates the database and applies the migrations that it has not seen.
///
/// # Errors
/// [`SinkError::ChangedMigration`] and [`SinkError::NewerSchema`] need an operator; others as
/// ClickHouse answered.
pub async fn migrate(client: &Client, database: &str) -> Result<Migrated, SinkError> {
    apply(client, database, &MIGRATIONS).await
}

async fn apply(
    client: &Client,
    database: &str,
    migrations: &[Migration],
) -> Result<Migrated, SinkError> {
    let outside = client.clone().with_database("default");
    let create = format!("CREATE DATABASE IF NOT EXISTS `{database}`");
    execute(&outside, &create, "creating the database").await?;
    let inside = client.clone().with_database(database);
    for statement in statements(BOOKKEEPING) {
        execute(&inside, &statement, "creating schema_migrations").await?;
    }
    let seen: Vec<Applied> = inside
        .query_raw("SELECT version, checksum FROM schema_migrations ORDER BY version")
        .fetch_all()
        .await
        .map_err(|e| SinkError::from_client("reading schema_migrations", &e))?;
    check(&seen, database, migrations)?;
    let mut applied = Vec::new();
    for migration in migrations {
        if seen.iter().any(|row| row.version == migration.version) {
            continue;
        }
        let action = format!("applying migration {} ({})", migration.version, migration.name);
        for statement in statements(migration.sql) {
            execute(&inside, &statement, &action).await?;
        }
        let record = format!(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ({}, '{}', '{}')",
            migration.version,
            migration.name,
            checksum(migration.sql),
        );
        execute(&inside, &record, "recording a migration").await?;
        tracing::info!(version = migration.version, name = migration.name, "migration applied");
        applied.push(migration.version);
    }
    Ok(Migrated { applied, version: migrations.last().map_or(0, |m| m.version) })
}

fn check(seen: &[Applied], database: &str, migrations: &[Migration]) -> Result<(), SinkError> {
    let known = migrations.last().map_or(0, |m| m.version);
    for row in seen {
        match migrations.iter().find(|m| m.version == row.version) {
            None => {
                return Err(SinkError::NewerSchema {
                    database: database.to_owned(),
                    found: seen.iter().map(|row| row.version).max().unwrap_or_default(),
                    known,
                });
            }
            Some(migration) if checksum(migration.sql) != row.checksum => {
                return Err(SinkError::ChangedMigration {
                    version: row.version,
                    database: database.to_owned(),
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn execute(client: &Client, statement: &str, action: &str) -> Result<(), SinkError> {
    let done = client.query_raw(statement).execute().await;
    done.map_err(|e| SinkError::from_client(action, &e))
}

fn checksum(sql: &str) -> String {
    hex::encode(Sha256::digest(sql.as_bytes()))
}

/// The statements of a file, without its comments.
fn statements(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut statement = String::new();
    let mut chars = sql.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                statement.push(c);
                statement.extend(chars.next());
            }
            '\'' => {
                quoted = !quoted;
                statement.push(c);
            }
            '-' if !quoted && chars.peek() == Some(&'-') => {
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            ';' if !quoted => found.push(std::mem::take(&mut statement)),
            _ => statement.push(c),
        }
    }
    found.push(statement);
    found.retain_mut(|statement| {
        *statement = statement.trim().to_owned();
        !statement.is_empty()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::row::Table;

    #[test]
    fn statements_are_split_outside_of_strings_and_comments() {
        let sql = "-- a; comment\nSELECT ';' -- b\n;\n\nSELECT '\\';--', 1;\n";
        assert_eq!(statements(sql), ["SELECT ';'", "SELECT '\\';--', 1"]);
    }

    #[test]
    fn migrations_are_numbered_from_one_and_rise() {
        assert_eq!(MIGRATIONS[0].version, 1);
        assert!(MIGRATIONS.is_sorted_by(|one, next| one.version < next.version));
        for migration in &MIGRATIONS {
            assert!(!statements(migration.sql).is_empty());
        }
    }

    #[test]
    fn every_column_of_a_row_is_in_the_file() {
        let all: Vec<String> = MIGRATIONS.iter().flat_map(|m| statements(m.sql)).collect();
        for table in Table::ALL {
            let start = format!("CREATE TABLE IF NOT EXISTS {}\n", table.name());
            let ddl = all.iter().find(|s| s.starts_with(&start)).unwrap();
            let later = format!("ALTER TABLE {} ADD COLUMN IF NOT EXISTS ", table.name());
            let later = all.iter().filter_map(|s| s.strip_prefix(&later));
            let changed = format!("ALTER TABLE {} MODIFY COLUMN", table.name());
            let changed = all.iter().filter_map(|s| s.strip_prefix(&changed));
            let lines: Vec<String> = ddl
                .lines()
                .chain(later)
                .chain(changed)
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            for (name, kind) in table.columns() {
                let want = format!("{name} {kind}");
                let found = lines.iter().any(|line| {
                    line.strip_prefix(&want).is_some_and(|rest| {
                        let next = [",", " CODEC", " DEFAULT"];
                        rest.is_empty() || next.iter().any(|next| rest.starts_with(next))
                    })
                });
                assert!(found, "{want} not in {ddl}");
            }
        }
    }

    #[test]
    fn a_changed_file_and_a_newer_schema_are_errors() {
        let row = |version, checksum: String| Applied { version, checksum };
        let good = checksum(MIGRATIONS[0].sql);
        check(&[row(1, good.clone())], "weir", &MIGRATIONS).unwrap();
        let changed = check(&[row(1, "00".to_owned())], "weir", &MIGRATIONS).unwrap_err();
        assert!(matches!(changed, SinkError::ChangedMigration { version: 1, .. }));
        let newer = check(&[row(1, good), row(99, "00".to_owned())], "weir", &MIGRATIONS);
        let said = newer.unwrap_err().to_string();
        assert!(said.contains("99") && said.contains("upgrade weir"), "{said}");
    }
}
