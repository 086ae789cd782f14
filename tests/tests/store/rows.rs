//! Rows arrive field by field as they were encoded.

use serde_json::{Value, json};
use weir_gateway::record::row::{AlarmRow, DnsRow, GapRow, HeartbeatRow, Table};
use weir_gateway::sink::{ClickHouseSink, RowSink as _};

use super::support::{NOON_US, Store, batch, body, exchange, flow, producer, user};

pub(crate) async fn only_row(client: &clickhouse::Client, sql: &str) -> Value {
    let mut cursor = client.query_raw(sql).fetch_bytes("JSONEachRow").unwrap();
    let bytes = cursor.collect().await.unwrap();
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {bytes:?}"))
}

pub(crate) fn assert_fields(row: &Value, want: &Value) {
    for (name, want) in want.as_object().unwrap() {
        assert_eq!(&row[name], want, "{name}");
    }
}

#[tokio::test]
async fn tables_have_the_columns_of_the_rows() {
    let (store, _client) = Store::migrated().await;
    for table in Table::ALL {
        let sql = format!(
            "SELECT name, type FROM system.columns WHERE database = 'weir' AND table = '{}' ORDER BY position",
            table.name()
        );
        let columns: Vec<(String, String)> =
            store.reader().query_raw(&sql).fetch_all().await.unwrap();
        let want: Vec<(String, String)> =
            table.columns().iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        assert_eq!(columns, want, "{}", table.name());
    }
}

#[tokio::test]
async fn every_field_comes_back() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Flows, "f", batch(&[flow(0)], 11)).await.unwrap();
    sink.insert(Table::Exchanges, "e", batch(&[exchange(0)], 12)).await.unwrap();
    let gap = GapRow {
        ts: NOON_US,
        cause: 8,
        gap_boot_id: producer().boot_id,
        first_seq: 1,
        last_seq: u64::MAX,
        records: 3,
        bytes: 4,
        detail: "weg".into(),
    };
    sink.insert(Table::Gaps, "g", batch(&[gap], 13)).await.unwrap();
    let heartbeat = HeartbeatRow {
        ts: NOON_US,
        version: "0.1.0",
        active_flows: 1,
        spool_bytes: 2,
        counters: vec![("flows_total".into(), 7), ("errors_total".into(), u64::MAX)],
        rss_bytes: 3,
    };
    sink.insert(Table::Heartbeats, "h", batch(&[heartbeat], 14)).await.unwrap();
    sink.insert(Table::DnsQueries, "d", batch(&[dns("forwarded", "ok")], 15)).await.unwrap();
    sink.insert(Table::Alarms, "a", batch(&[alarm()], 16)).await.unwrap();
    let reader = store.reader();

    let row = only_row(&reader, "SELECT * FROM alarms").await;
    assert_fields(
        &row,
        &json!({
            "seq": 16, "ts": "2026-01-31 12:00:00.000000", "kind": "socket_moved",
            "severity": "warn", "session_id": "00000000-0000-0000-0000-000000000007",
            "job_id": "job-1", "exec_id": "runner-17:b:1:42", "identity": "uid:1000", "pid": 42,
            "start_ns": 123_456_789_000_u64, "process": "curl", "exe": "/usr/bin/curl",
            "exe_dev": 259, "exe_ino": u64::MAX, "comm": "curl", "argv": ["curl", "größe"],
            "ancestors": ["runner-17:b:1:1"], "uid": 1000, "gid": 1001, "cgroup_id": 99,
            "cgroup": "/weir/captured/job-1", "dst_ip": "2001:db8::1", "dst_port": 443,
            "proto": "tcp", "count": 7, "detail": "weg",
        }),
    );
    assert_eq!(row.as_object().unwrap().len(), Table::Alarms.columns().len());

    let row = only_row(&reader, "SELECT * FROM dns_queries").await;
    assert_fields(
        &row,
        &json!({
            "seq": 15, "ts": "2026-01-31 12:00:00.000000", "qname": "a.example", "qtype": "HTTPS",
            "rcode": "NOERROR", "answers": ["CNAME b.example.", "A 192.0.2.1"],
            "decision": "forwarded", "outcome": "ok", "upstream": "192.0.2.53:53",
            "ech_removed": 1, "proto": "udp", "client_port": 40_000, "dur_us": 1234,
        }),
    );
    assert_eq!(row.as_object().unwrap().len(), Table::DnsQueries.columns().len());

    let row = only_row(&reader, "SELECT * FROM flows").await;
    assert_fields(
        &row,
        &json!({
            "host_id": "runner-17", "boot_id": "01234567-89ab-cdef-0123-456789abcdef", "seq": 11,
            "org": "örg", "project": "weir", "ts": "2026-01-31 12:00:00.000000",
            "flow_id": "01900000-0000-7000-8000-000000000000",
            "session_id": "00000000-0000-0000-0000-000000000007", "job_id": "job-1",
            "exec_id": "runner-17:b:1:42", "identity": "uid:1000", "identity_src": "uid", "pid": 42,
            "process": "curl", "exe": "/usr/bin/curl", "exe_dev": 259, "exe_ino": u64::MAX,
            "comm": "curl", "argv": ["curl", "-s", "größe=日本 🦀", ""],
            "ancestors": ["runner-17:b:1:1"], "uid": 1000, "gid": 1001, "cgroup_id": 99,
            "cgroup": "/weir/captured/job-1", "netns_cookie": 1, "socket_cookie": 2,
            "dst_ip": "::ffff:192.0.2.7", "dst_port": 443, "sni": "api.example.com", "alpn": "h2",
            "mode": "terminated", "outcome": "ok", "fault": "", "detail": "",
            "up_bytes": 1_u64 << 40, "down_bytes": 3, "exchanges": 2, "dur_us": 5_000_000,
            "dns_check": "known",
        }),
    );
    assert_eq!(row.as_object().unwrap().len(), Table::Flows.columns().len());

    let sql = "SELECT * EXCEPT (req_sha256, resp_sha256), hex(req_sha256) AS req, \
               hex(resp_sha256) AS resp, mapKeys(resp_headers) AS keys, \
               mapValues(resp_headers) AS vals FROM exchanges";
    let row = only_row(&reader, sql).await;
    assert_fields(
        &row,
        &json!({
            "seq": 12, "exchange_id": "01910000-0000-7000-8000-000000000000", "class": "llm",
            "scheme": "https", "dst_host": "api.example.com", "dst_ip": "2001:db8::1",
            "dst_port": 443, "proto": "h2", "upstream_proto": "h1", "method": "POST",
            "path": "/v1/messages/\u{1b}[31m", "query_masked": "a=1&key=***", "status": 200,
            "decision": "observe", "rule_id": "observe-all", "outcome": "ok", "req_bytes": 10,
            "resp_bytes": 2048, "ttfb_us": 12_000, "dur_us": 345_678,
            "req_headers": {"host": "api.example.com", "x-ü": "wert"},
            "keys": ["set-cookie", "set-cookie"], "vals": ["a=1", "b=2"],
            "req": "AB".repeat(32), "resp": "00".repeat(32), "req_body": "full",
            "resp_body": "truncated", "chunk_us": [1, 2, u64::MAX], "chunk_bytes": [10, 20, 30],
        }),
    );

    let row = only_row(&reader, "SELECT * FROM gaps").await;
    assert_fields(
        &row,
        &json!({
            "seq": 13, "cause": "quarantine", "gap_boot_id": "01234567-89ab-cdef-0123-456789abcdef",
            "first_seq": 1, "last_seq": u64::MAX, "records": 3, "bytes": 4, "detail": "weg",
        }),
    );
    let row = only_row(&reader, "SELECT * FROM heartbeats").await;
    assert_fields(
        &row,
        &json!({
            "seq": 14, "version": "0.1.0", "active_flows": 1, "spool_bytes": 2, "rss_bytes": 3,
            "counters": {"flows_total": 7, "errors_total": u64::MAX},
        }),
    );
}

#[tokio::test]
async fn a_large_binary_body_comes_back() {
    let (store, client) = Store::migrated().await;
    let bytes: Vec<u8> =
        (0..16 * 1024 * 1024_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let row = body(0, 2, 0, bytes.clone());
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Bodies, "b", batch(&[row], 1)).await.unwrap();
    let direction = weir_gateway::query::show::Direction::Response;
    let id = exchange(0).exchange_id;
    let back = weir_gateway::query::show::body(&store.reader(), id, direction, usize::MAX / 4)
        .await
        .unwrap();
    assert_eq!(
        (back.recorded, back.content_type.as_str()),
        (bytes.len() as u64, "application/json")
    );
    assert!(back.bytes == bytes, "the bytes differ");
    let first = weir_gateway::query::show::body(&store.reader(), id, direction, 10).await.unwrap();
    assert_eq!((first.bytes.as_slice(), first.recorded), (&bytes[..10], bytes.len() as u64));
}

fn dns(decision: &'static str, outcome: &'static str) -> DnsRow {
    DnsRow {
        ts: NOON_US,
        qname: "a.example".into(),
        qtype: "HTTPS".into(),
        rcode: "NOERROR".into(),
        answers: vec!["CNAME b.example.".into(), "A 192.0.2.1".into()],
        decision,
        outcome,
        upstream: "192.0.2.53:53".into(),
        ech_removed: 1,
        proto: "udp",
        client_port: 40_000,
        dur_us: 1234,
        session_id: uuid::Uuid::from_u128(7),
        job_id: "job-7".into(),
        exec_id: "h:b:1:42".into(),
        identity: "user:ci".into(),
        pid: 42,
        start_time_ns: 1,
        process: "dig".into(),
        exe: "/usr/bin/dig".into(),
        uid: 1000,
        cgroup_id: 99,
        cgroup: "weir/captured/job-7".into(),
        asked_ip: std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped(),
        who: user(),
    }
}

fn alarm() -> AlarmRow {
    let flow = flow(0);
    AlarmRow {
        ts: NOON_US,
        kind: "socket_moved",
        severity: "warn",
        session_id: flow.session_id,
        job_id: flow.job_id,
        exec_id: flow.exec_id,
        identity: flow.identity,
        pid: flow.pid,
        start_ns: 123_456_789_000,
        process: flow.process,
        exe: flow.exe,
        exe_dev: flow.exe_dev,
        exe_ino: flow.exe_ino,
        comm: flow.comm,
        argv: vec!["curl".into(), "größe".into()],
        ancestors: flow.ancestors,
        uid: flow.uid,
        gid: flow.gid,
        cgroup_id: flow.cgroup_id,
        cgroup: flow.cgroup,
        dst_ip: "2001:db8::1".parse().unwrap(),
        dst_port: 443,
        proto: "tcp".into(),
        count: 7,
        detail: "weg".into(),
        ids: flow.ids,
        who: flow.who,
    }
}

#[tokio::test]
async fn alarms_are_in_the_timeline() {
    let (store, client) = Store::migrated().await;
    let v4 = AlarmRow { count: 1, dst_ip: flow(0).dst_ip, detail: String::new(), ..alarm() };
    let own = AlarmRow {
        kind: "policy_reload_failed",
        severity: "error",
        dst_ip: std::net::Ipv6Addr::UNSPECIFIED,
        dst_port: 0,
        proto: String::new(),
        count: 1,
        job_id: "".into(),
        ..alarm()
    };
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Alarms, "a", batch(&[alarm(), v4, own], 1)).await.unwrap();
    let sql = "SELECT event, severity, summary, dst_host FROM timeline ORDER BY seq";
    let rows: Vec<(String, String, String, String)> =
        store.reader().query_raw(sql).fetch_all().await.unwrap();
    let want = [
        ("warn", "socket_moved tcp [2001:db8::1]:443: weg (7 times)", "2001:db8::1"),
        ("warn", "socket_moved tcp 192.0.2.7:443", "192.0.2.7"),
        ("error", "policy_reload_failed: weg", ""),
    ];
    for (row, (severity, summary, host)) in rows.iter().zip(want) {
        assert_eq!((&*row.0, &*row.1, &*row.2, &*row.3), ("alarm", severity, summary, host));
    }
    assert_eq!(rows.len(), 3);
    let shown = String::from_utf8(store.weir(&["timeline", "--job", "job-1"]).stdout).unwrap();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains("curl[42]") && shown.contains("(7 times)"), "{shown}");
}

#[tokio::test]
async fn refused_questions_and_mismatches_are_in_the_timeline() {
    let (store, client) = Store::migrated().await;
    let sink = ClickHouseSink::new(client);
    let rows = [dns("forwarded", "ok"), dns("refused", "dns_refused")];
    sink.insert(Table::DnsQueries, "d", batch(&rows, 1)).await.unwrap();
    let (known, mut other) = (flow(0), flow(1));
    other.dns_check = "mismatch";
    sink.insert(Table::Flows, "f", batch(&[known, other], 3)).await.unwrap();
    let sql = "SELECT job_id, pid, process, identity FROM timeline WHERE event = 'dns'";
    let who: (String, u32, String, String) =
        store.reader().query_raw(sql).fetch_one().await.unwrap();
    assert_eq!(who, ("job-7".into(), 42, "dig".into(), "user:ci".into()));
    let sql = "SELECT event, severity, summary, dst_host FROM timeline ORDER BY event";
    let rows: Vec<(String, String, String, String)> =
        store.reader().query_raw(sql).fetch_all().await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((&*rows[0].0, &*rows[0].1, &*rows[0].3), ("dns", "warn", "a.example"));
    assert_eq!(rows[0].2, "refused a.example HTTPS -> NOERROR (dns_refused)");
    assert_eq!((&*rows[1].0, &*rows[1].1), ("flow", "warn"));
    assert!(rows[1].2.contains("not resolved to 192.0.2.7"), "{}", rows[1].2);
}
