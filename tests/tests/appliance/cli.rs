//! What the commands answer when things are well, and when they are not.

use serde_json::Value;
use weir_tests::appliance::{API, Site, text, wait_for};

#[test]
fn doctor_names_what_is_down() {
    let site = Site::new("");
    let output = site.ask(&["doctor"]);
    assert!(text(&output).contains("not attached"), "{}", text(&output));
    assert!(!site.path("spool").exists(), "looking does not make the spool");
    drop(site);
    let site = Site::up("");
    let well = site.said(&["doctor"]);
    assert!(well.contains("healthy") && well.contains("ClickHouse 2"), "{well}");
    // Until it is started again.
    site.kill_part("store");
    let output = site.ask(&["doctor"]);
    let lines = text(&output);
    assert!(lines.contains("start it (`weir up` or `weir store`)"), "{lines}");
}

#[test]
fn a_bad_configuration_is_told_whole() {
    let site = Site::new("");
    let bad = site.path("bad.toml");
    std::fs::write(
        &bad,
        "[gateway]\nport = 0\nidle_timeout = \"soon\"\n[capture]\ncgroup = \"/\"\n\
         [spool]\nmax_segment = \"1TiB\"\n[store]\ndatabase = \"a b\"\n",
    )
    .unwrap();
    let bad = bad.to_str().unwrap();
    let mut command = std::process::Command::new(weir_tests::appliance::binary());
    let output = command.args(["check-config", "--config", bad]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for key in [
        "gateway.port",
        "gateway.idle_timeout",
        "capture.cgroup",
        "spool.max_segment",
        "store.database",
    ] {
        assert!(text(&output).contains(key), "{key} in {}", text(&output));
    }
    assert!(site.said(&["check-config"]).contains("valid"));
}

#[test]
fn run_needs_weir_and_hands_exit_codes_on() {
    let mut site = Site::new("");
    let output = site.ask(&["run", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("weir up"), "{}", text(&output));
    site.start();
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 143), ("true", 0)] {
        let output = site.ask(&["run", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output));
    }
    let output = site.ask(&["run", "--", "no-such-command"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output).contains("no-such-command"), "{}", text(&output));
    let output = site.ask(&["run", "--job", "../up", "--", "true"]);
    assert!(text(&output).contains("job name"), "{}", text(&output));
    // A second `weir up` neither starts nor harms the first.
    let output = site.ask(&["up"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("already"), "{}", text(&output));
    site.run("still", &["curl", "-sSf", &format!("https://{API}/")]);
    site.rows(1, "SELECT 1 FROM exchanges WHERE job_id = 'still'");
}

#[test]
fn query_reads_only_and_its_formats_parse() {
    let site = Site::up("");
    site.run("query", &["curl", "-sSf", &format!("https://{API}/status/200?a=%22,%0A")]);
    site.rows(1, "SELECT 1 FROM exchanges");
    for sql in [
        "DROP TABLE flows",
        "INSERT INTO gaps (cause) VALUES ('crash')",
        "ALTER TABLE flows DELETE WHERE 1",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ] {
        let output = site.ask(&["query", sql]);
        assert_eq!(output.status.code(), Some(1), "{sql}: {}", text(&output));
        assert!(!text(&output).contains("root:"), "{sql}");
    }
    // Hashes are bytes: JSON is UTF-8 all the same.
    let sql = "SELECT * FROM exchanges";
    let json = site.said(&["query", "--format", "json", sql]);
    let row: Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(
        (row["job_id"].as_str(), row["path"].as_str()),
        (Some("query"), Some("/status/200"))
    );
    let sql = "SELECT job_id, status, path FROM exchanges";
    let csv = site.said(&["query", "--format", "csv", sql]);
    assert_eq!(csv, "\"job_id\",\"status\",\"path\"\n\"query\",200,\"/status/200\"\n");
    let table = site.said(&["query", sql]);
    assert!(table.contains("job_id") && table.contains("/status/200"), "{table}");
}

#[test]
fn a_segment_that_cannot_be_delivered_is_a_gap() {
    let site = Site::up("");
    let damaged = site.path("spool").join("00000000000000999999.seg");
    std::fs::write(&damaged, [0x5a; 4096]).unwrap();
    wait_for("it to be set aside", || !damaged.exists());
    let gaps = site.rows(1, "SELECT cause, detail FROM gaps");
    assert_eq!((gaps.len(), &gaps[0]["cause"]), (1, &Value::from("quarantine")), "{gaps:?}");
}
