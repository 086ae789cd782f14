//! The embedded store as a process: schema, inserts, queries, lock-down, crashes.
//!
//! Needs the engine in `.engine/` (`cargo xtask setup`) and a built `weir`.

#![cfg(feature = "privileged")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and explains itself on stderr"
)]

#[path = "store/findings.rs"]
mod findings;
#[path = "store/hostile.rs"]
mod hostile;
#[path = "store/identity.rs"]
mod identity;
#[path = "store/rows.rs"]
mod rows;
#[path = "store/support.rs"]
mod support;
#[path = "store/survival.rs"]
mod survival;

use support::{Store, batch, body, exchange, flow};
use weir_gateway::record::row::Table;
use weir_gateway::sink::{self, ClickHouseSink, RowSink as _, SinkError};

#[tokio::test]
async fn migrations_apply_once() {
    let store = Store::start();
    let client = store.writer();
    let first = sink::migrate(&client, "weir").await.unwrap();
    let all: Vec<_> = (1..=first.version).collect();
    assert!(all.len() >= 4 && first.applied == all, "{:?}", first.applied);
    let second = sink::migrate(&client, "weir").await.unwrap();
    assert_eq!((second.applied.len(), second.version), (0, first.version));
}

#[tokio::test]
async fn a_changed_or_newer_schema_stops_the_gateway() {
    let store = Store::start();
    let client = store.writer();
    let version = sink::migrate(&client, "weir").await.unwrap().version;
    let newer = "INSERT INTO schema_migrations (version, name, checksum) VALUES (99, 'x', 'y')";
    client.query_raw(newer).execute().await.unwrap();
    let error = sink::migrate(&client, "weir").await.unwrap_err();
    assert!(
        matches!(error, SinkError::NewerSchema { found: 99, known, .. } if known == version),
        "{error}"
    );
    client.query_raw("TRUNCATE TABLE schema_migrations").execute().await.unwrap();
    let changed = "INSERT INTO schema_migrations (version, name, checksum) VALUES (1, 'x', 'y')";
    client.query_raw(changed).execute().await.unwrap();
    let error = sink::migrate(&client, "weir").await.unwrap_err();
    assert!(matches!(error, SinkError::ChangedMigration { version: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_token_counts_once_and_another_one_again() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    let data = batch(&[flow(1), flow(2)], 1);
    for token in ["h/b/1/flows", "h/b/1/flows", "h/b/2/flows"] {
        sink.insert(Table::Flows, token, data.clone()).await.unwrap();
    }
    assert_eq!(support::count(&store.reader(), Table::Flows).await, 4);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_for_good_and_stores_nothing() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    let good = batch(&[flow(1)], 1);
    let wrong_table = sink.insert(Table::Gaps, "a", good.clone()).await.unwrap_err();
    assert!(!wrong_table.retryable(), "{wrong_table}");
    let cut = sink.insert(Table::Flows, "b", good.slice(..good.len() - 1)).await.unwrap_err();
    assert!(!cut.retryable(), "{cut}");
    for table in Table::ALL {
        assert_eq!(support::count(&store.reader(), table).await, 0);
    }
}

#[tokio::test]
async fn a_large_batch_is_one_part_even_with_the_least_memory() {
    let (store, client) = Store::migrated_with("max_memory = \"512MiB\"").await;
    // 60 MB in 240 bodies: the largest that a segment holds.
    let noise: Vec<u8> = (0..250_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes().into_iter().take(1))
        .collect();
    let rows: Vec<_> = (0..240).map(|n| body(n, 2, 0, noise.clone())).collect();
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Bodies, "large", batch(&rows, 1)).await.unwrap();
    let parts: Vec<(String, u64)> = store
        .reader()
        .query_raw("SELECT name, rows FROM system.parts WHERE table = 'bodies' AND active")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(parts.len(), 1, "{parts:?}");
    assert_eq!(parts[0].1, 240);
}

#[tokio::test]
async fn answers_stream_and_empty_ones_have_their_header() {
    let store = Store::start();
    let client = store.reader().with_database("default");
    let sql = "SELECT number, toString(number) AS text FROM numbers(1000000)";
    let mut cursor = client.query_raw(sql).fetch::<(u64, String)>().unwrap();
    let (mut rows, mut sum) = (0_u64, 0_u64);
    while let Some((number, text)) = cursor.next().await.unwrap() {
        assert_eq!(number.to_string(), text);
        rows += 1;
        sum += number;
    }
    assert_eq!((rows, sum), (1_000_000, 499_999_500_000));
    let none: Vec<u64> =
        client.query_raw("SELECT number FROM numbers(0)").fetch_all().await.unwrap();
    assert!(none.is_empty());
    let mut csv = client
        .query_raw("SELECT number AS n FROM numbers(300000)")
        .fetch_bytes("CSVWithNames")
        .unwrap();
    let csv = csv.collect().await.unwrap();
    let headers = csv.split(|b| *b == b'\n').filter(|line| line == b"\"n\"").count();
    assert_eq!(headers, 1, "the header of a format comes once");
}

#[tokio::test]
async fn a_failure_midway_is_an_error_every_time() {
    let store = Store::start();
    let client = store.reader().with_database("default");
    for round in 0..10 {
        let sql = "SELECT throwIf(number = 1500000, 'boom') FROM numbers(3000000)";
        let error = client.query_raw(sql).fetch_all::<u8>().await.unwrap_err().to_string();
        assert!(error.contains("boom"), "round {round}: {error}");
        let mut bytes = client.query_raw(sql).fetch_bytes("TabSeparated").unwrap();
        let error = bytes.collect().await.unwrap_err().to_string();
        assert!(error.contains("boom"), "round {round}: {error}");
    }
    assert_eq!(client.query_raw("SELECT 1").fetch_one::<u8>().await.unwrap(), 1);
}

#[tokio::test]
async fn analysts_only_read() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Flows, "a", batch(&[flow(1)], 1)).await.unwrap();
    let reader = store.reader();
    let file = store.dir.path().join("out");
    let secret = store.dir.path().join("weir.toml");
    for sql in [
        "INSERT INTO gaps (host_id) VALUES ('x')".to_owned(),
        "DROP TABLE flows".to_owned(),
        "ALTER TABLE flows DELETE WHERE 1".to_owned(),
        "CREATE TABLE x (a UInt8) ENGINE = Memory".to_owned(),
        "TRUNCATE TABLE flows".to_owned(),
        "SET readonly = 0".to_owned(),
        "SELECT 1 SETTINGS readonly = 0".to_owned(),
        "SELECT 1; DROP TABLE flows".to_owned(),
        format!("SELECT 1 INTO OUTFILE '{}'", file.display()),
        format!("SELECT * FROM file('{}', 'LineAsString')", secret.display()),
        format!("SELECT * FROM `default`.`{}`", secret.display()),
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')".to_owned(),
        "SELECT * FROM remote('127.0.0.1:1', system.one)".to_owned(),
        "SELECT * FROM executable('id', 'LineAsString', 'a String')".to_owned(),
        "BACKUP TABLE flows TO File('/tmp/x')".to_owned(),
        "SYSTEM SHUTDOWN".to_owned(),
        "KILL QUERY WHERE 1".to_owned(),
    ] {
        let error = reader.query_raw(&sql).execute().await;
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("Code: "), "{sql} was answered: {error:?}");
    }
    assert!(!file.exists());
    let error = ClickHouseSink::new(reader.clone())
        .insert(Table::Flows, "b", batch(&[flow(2)], 2))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("497"), "{error}");
    assert_eq!(support::count(&reader, Table::Flows).await, 1);
}

#[tokio::test]
async fn even_the_writer_reads_no_files() {
    let (store, client) = Store::migrated().await;
    let secret = store.dir.path().join("weir.toml");
    for sql in [
        format!("SELECT * FROM file('{}', 'LineAsString')", secret.display()),
        format!("INSERT INTO FUNCTION file('{}') SELECT 1", store.dir.path().join("x").display()),
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')".to_owned(),
        "CREATE FUNCTION f AS (x) -> x".to_owned(),
        "CREATE DATABASE other".to_owned(),
    ] {
        let error = client.query_raw(&sql).execute().await.unwrap_err().to_string();
        assert!(error.contains("ACCESS_DENIED"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn the_command_line_shows_the_record_without_its_escapes() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    let mut refused = flow(3);
    refused.mode = "refused";
    refused.outcome = "no_capture_record";
    sink.insert(Table::Flows, "f", batch(&[flow(1), refused], 1)).await.unwrap();
    sink.insert(Table::Exchanges, "e", batch(&[exchange(1)], 3)).await.unwrap();
    let pieces = [
        body(1, 1, 0, "{\"a\":"),
        body(1, 1, 1, "\"\u{1b}]0;x\u{7}\"}"),
        body(1, 2, 0, vec![0_u8, 159, 146, 150]),
    ];
    sink.insert(Table::Bodies, "b", batch(&pieces, 4)).await.unwrap();
    let run = |args: &[&str]| {
        let output = store.weir(args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains('\u{1b}'), "{text:?}");
        text
    };
    let timeline = run(&["timeline", "--ids"]);
    assert_eq!(timeline.lines().count(), 2, "{timeline}");
    assert!(
        timeline.contains("curl[42]")
            && timeline
                .contains("POST https://api.example.com/v1/messages/\\x1b[31m?a=1&key=*** -> 200"),
        "{timeline}"
    );
    assert!(timeline.contains("refused api.example.com:443 -> no_capture_record"), "{timeline}");
    assert_eq!(
        run(&["timeline", "--process", "curl", "--host", "*.example.com", "--since", "2026-01-01"]),
        run(&["timeline"])
    );
    assert_eq!(run(&["timeline", "--process", "wget"]), "");
    let sessions = run(&["sessions"]);
    assert!(
        sessions.contains("job-1") && sessions.contains("1.0 TiB") || sessions.contains("2.0 TiB"),
        "{sessions}"
    );
    let shown = run(&["show", "01910000"]);
    for part in [
        "set-cookie: a=1",
        "set-cookie: b=2",
        "{\"a\":\"\\x1b]0;x\\x07\"}",
        "00 9f 92 96",
        "observe by observe-all",
    ] {
        assert!(shown.contains(part), "{part:?} not in {shown}");
    }
    let raw = store.weir(&["show", "01910000", "--body", "response"]).stdout;
    assert_eq!(raw, [0, 159, 146, 150]);
    assert!(
        run(&["query", "SELECT count() AS n FROM flows", "--format", "json"]).contains("{\"n\":2}")
    );
}
