//! Crashes, restarts and wrong starts.

use std::time::{Duration, Instant};

use weir_gateway::record::row::Table;
use weir_gateway::sink::{ClickHouseSink, RowSink as _};

use super::support::{self, Store, batch, exchange};

/// What was lost or doubled, as the record itself tells.
async fn seqs(client: &clickhouse::Client) -> (u64, u64) {
    client
        .query_raw("SELECT count(), uniqExact(seq) FROM exchanges")
        .fetch_one::<(u64, u64)>()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_store_loses_and_doubles_nothing() {
    const BATCHES: u64 = 60;
    const ROWS: u64 = 500;
    let (mut store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    let (progress, mut inserted) = tokio::sync::watch::channel(0_u64);
    let mut loading = tokio::task::JoinSet::new();
    loading.spawn({
        let sink = sink.clone();
        async move {
            let mut failures = 0_u32;
            for n in 0..BATCHES {
                let rows: Vec<_> = (0..ROWS).map(|i| exchange(n * ROWS + i)).collect();
                let data = batch(&rows, n * ROWS + 1);
                let deadline = Instant::now() + Duration::from_secs(60);
                while let Err(error) =
                    sink.insert(Table::Exchanges, &format!("h/b/{n}"), data.clone()).await
                {
                    assert!(error.retryable(), "{error}");
                    assert!(Instant::now() < deadline, "{error}");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                progress.send(n + 1).unwrap();
            }
            failures
        }
    });
    for kill_after in [10, 25, 40] {
        inserted.wait_for(|n| *n >= kill_after).await.unwrap();
        store.kill();
        store.restart();
    }
    let failures = loading.join_next().await.unwrap().unwrap();
    assert!(failures > 0, "no insert met a dead store");
    assert_eq!(seqs(&store.reader()).await, (BATCHES * ROWS, BATCHES * ROWS));
    // A retry long after, as after a lost acknowledgement.
    for n in [0, 24, BATCHES - 1] {
        let rows: Vec<_> = (0..ROWS).map(|i| exchange(n * ROWS + i)).collect();
        sink.insert(Table::Exchanges, &format!("h/b/{n}"), batch(&rows, n * ROWS + 1))
            .await
            .unwrap();
    }
    assert_eq!(seqs(&store.reader()).await, (BATCHES * ROWS, BATCHES * ROWS));
}

#[tokio::test]
async fn sigterm_ends_cleanly_and_the_rows_stay() {
    let (mut store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Exchanges, "a", batch(&[exchange(1)], 1)).await.unwrap();
    let status = store.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!store.config.store.socket.exists());
    store.restart();
    assert_eq!(seqs(&store.reader()).await, (1, 1));
}

#[tokio::test]
async fn a_second_store_on_the_data_is_refused() {
    let store = Store::start();
    let second = store.weir(&["store"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains("another weir store is running on the data directory"), "{said}");
    // The first one is not disturbed.
    let client = store.reader().with_database("default");
    assert_eq!(client.query_raw("SELECT 1").fetch_one::<u8>().await.unwrap(), 1);
}

#[test]
fn a_missing_engine_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    support::configure(dir.path(), "");
    let path = dir.path().join("weir.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let broken: String = text
        .lines()
        .map(|line| {
            if line.starts_with("engine") {
                "engine = \"/nonexistent/libchdb.so\"\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    std::fs::write(&path, broken).unwrap();
    let output = std::process::Command::new(support::binary())
        .args(["store", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for part in ["/nonexistent/libchdb.so", "cargo xtask setup", "/usr/local/lib/weir"] {
        assert!(said.contains(part), "{part} not in {said}");
    }
}

#[test]
fn only_owner_and_group_reach_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let store = Store::start();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.config.store.socket), 0o660);
    assert_eq!(mode(&store.config.store.data_dir), 0o700);
}
