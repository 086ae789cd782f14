//! Findings, and where a secret was seen.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use weir_gateway::inspect::keys;
use weir_gateway::record::row::{FindingRow, Table};
use weir_gateway::sink::{ClickHouseSink, RowSink as _};

use super::rows::{assert_fields, only_row};
use super::support::{NOON_US, Store, batch, binary, exchange, user};

const SECRET: &str = "a secret of this test\nof two lines";

/// A store, and a gateway's key.
async fn store() -> (Store, clickhouse::Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "k".repeat(32)).unwrap();
    let extra = format!("[inspect]\nfingerprint_key_file = {path:?}\n");
    let (store, client) = Store::migrated_with(&extra).await;
    (store, client, dir)
}

fn finding(store: &Store, n: u64, secret: &str) -> FindingRow {
    let exchange = exchange(n);
    FindingRow {
        ts: NOON_US + i64::try_from(n).unwrap(),
        exchange_id: exchange.exchange_id,
        flow_id: exchange.flow_id,
        session_id: exchange.session_id,
        job_id: exchange.job_id,
        exec_id: exchange.exec_id,
        identity: exchange.identity,
        pid: 42,
        process: exchange.process,
        dst_host: exchange.dst_host,
        direction: 1,
        rule: "test-rule".into(),
        tier: "prefixed",
        confidence: "high",
        location: "body > $.messages[0].content".into(),
        length: 34,
        fingerprint: keys::load(&store.config.inspect).unwrap().fingerprint(secret.as_bytes()),
        action: "tokenised",
        placeholder: "WEIRABC".into(),
        who: user(),
    }
}

#[tokio::test]
async fn every_field_of_a_finding_comes_back() {
    let (store, client, _key) = store().await;
    let row = finding(&store, 0, SECRET);
    let fingerprint = row.fingerprint.to_string();
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Findings, "f", batch(&[row], 7)).await.unwrap();
    let row = only_row(&store.reader(), "SELECT * FROM findings").await;
    assert_fields(
        &row,
        &json!({
            "seq": 7, "ts": "2026-01-31 12:00:00.000000", "job_id": "job-1",
            "exchange_id": exchange(0).exchange_id.to_string(), "pid": 42, "process": "curl",
            "dst_host": "api.example.com", "direction": "request", "rule": "test-rule",
            "tier": "prefixed", "confidence": "high", "location": "body > $.messages[0].content",
            "length": 34, "fingerprint": fingerprint, "action": "tokenised",
            "placeholder": "WEIRABC", "identity_method": "uid",
        }),
    );
    let sql = "SELECT event, severity, summary, dst_host FROM timeline";
    let row = only_row(&store.reader(), sql).await;
    let summary = format!(
        "tokenised test-rule (high, 34 bytes) in the request to api.example.com, \
         body > $.messages[0].content, fingerprint {fingerprint}"
    );
    let want = json!({"event": "finding", "severity": "info", "summary": summary,
        "dst_host": "api.example.com"});
    assert_fields(&row, &want);
}

#[tokio::test]
async fn a_secret_is_found_by_its_fingerprint_alone() {
    let (store, client, _key) = store().await;
    let rows =
        [finding(&store, 0, SECRET), finding(&store, 1, SECRET), finding(&store, 2, "other")];
    let fingerprint = rows[0].fingerprint.to_string();
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Findings, "f", batch(&rows, 1)).await.unwrap();
    sink.insert(Table::Exchanges, "e", batch(&[exchange(0)], 9)).await.unwrap();
    let by_fingerprint = seen(&store, &["secrets", "seen", &fingerprint], "");
    assert_eq!(by_fingerprint.matches("to api.example.com").count(), 2, "{by_fingerprint}");
    let by_value = seen(&store, &["secrets", "seen", "-"], &format!("{SECRET}\n"));
    assert_eq!(by_value, by_fingerprint);
    assert_eq!(seen(&store, &["secrets", "seen"], SECRET), by_fingerprint);
    let unknown = seen(&store, &["secrets", "seen", "-"], "somebody else's\n");
    assert!(unknown.starts_with("not seen: fingerprint "), "{unknown}");
    let list = seen(&store, &["secrets", "list", "--job", "job-1"], "");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains(&fingerprint) && list.contains("tokenised"), "{list}");
    let id = exchange(0).exchange_id.to_string();
    let shown = seen(&store, &["show", &id], "");
    assert!(shown.contains("secret       tokenised test-rule (high, 34 bytes)"), "{shown}");
}

/// What `weir ARGS` answers to this input.
fn seen(store: &Store, args: &[&str], input: &str) -> String {
    let mut child = Command::new(binary())
        .args(args)
        .arg("--config")
        .arg(store.dir.path().join("weir.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who has its answer already may read nothing.
    let sent = child.stdin.take().unwrap().write_all(input.as_bytes());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{args:?}: {} {sent:?}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
