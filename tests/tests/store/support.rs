//! Starts the real `weir store` and makes rows.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickhouse::Client;
use uuid::Uuid;
use weir_gateway::config::Config;
use weir_gateway::identify::who::Who;
use weir_gateway::inspect::mask::Masked;
use weir_gateway::record::row::{BodyRow, ExchangeRow, FlowRow, Ids, Producer, Row, Table};
use weir_gateway::sink;

/// 2026-01-31T12:00:00Z
pub(crate) const NOON_US: i64 = 1_769_860_800_000_000;
const READY: Duration = Duration::from_secs(60);

/// A running store. Dropped, it is killed and its data removed.
pub(crate) struct Store {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    child: Child,
}

impl Store {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines for `[store]`.
    pub(crate) fn start_with(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = configure(dir.path(), extra);
        let child = spawn(dir.path());
        let mut store = Self { dir, config, child };
        store.wait_ready();
        store
    }

    /// A store whose database has the schema.
    pub(crate) async fn migrated() -> (Self, Client) {
        Self::migrated_with("").await
    }

    pub(crate) async fn migrated_with(extra: &str) -> (Self, Client) {
        let store = Self::start_with(extra);
        let client = store.writer();
        sink::migrate(&client, "weir").await.unwrap();
        (store, client)
    }

    pub(crate) fn writer(&self) -> Client {
        sink::connect(&self.config.store).unwrap()
    }

    pub(crate) fn reader(&self) -> Client {
        sink::connect_reader(&self.config.store).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.dir.path());
        self.wait_ready();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Runs `weir ARGS` with this store's configuration.
    pub(crate) fn weir(&self, args: &[&str]) -> std::process::Output {
        let config = self.dir.path().join("weir.toml");
        Command::new(binary()).args(args).arg("--config").arg(config).output().unwrap()
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY;
        while std::os::unix::net::UnixStream::connect(&self.config.store.socket).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the store ended with {status}: {}", log(self.dir.path()));
            }
            assert!(Instant::now() < deadline, "not ready: {}", log(self.dir.path()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let (_, _) = (self.child.kill(), self.child.wait());
        if std::thread::panicking() {
            eprintln!("store log:\n{}", log(self.dir.path()));
        }
    }
}

pub(crate) fn configure(dir: &Path, extra: &str) -> Config {
    let engine = engine();
    assert!(
        engine.is_file(),
        "{} is missing: the suite needs the engine, run `cargo xtask setup`",
        engine.display()
    );
    let text = format!(
        "[store]\nsocket = {:?}\ndata_dir = {:?}\nengine = {engine:?}\n{extra}\n",
        dir.join("s.sock"),
        dir.join("data"),
    );
    std::fs::write(dir.join("weir.toml"), &text).unwrap();
    Config::parse(&text).unwrap()
}

pub(crate) fn engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.engine/libchdb.so")
}

/// `weir`, built beside this test.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("weir");
    assert!(path.is_file(), "{} is missing: cargo build -p weir-gateway", path.display());
    path
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new(binary())
        .args(["store", "--config"])
        .arg(dir.join("weir.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

pub(crate) fn producer() -> Producer {
    Producer {
        host_id: "runner-17".into(),
        boot_id: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        org: "örg".into(),
        project: "weir".into(),
        // Long enough that no test outlives it, whatever the clock says.
        retain_metadata_s: 3_000_000_000,
        retain_bodies_s: 3_000_000_000,
    }
}

/// A complete insert body.
pub(crate) fn batch<R: Row>(rows: &[R], first_seq: u64) -> bytes::Bytes {
    let mut out = R::TABLE.header();
    for (row, seq) in rows.iter().zip(first_seq..) {
        row.encode(&producer(), seq, &mut out);
    }
    out.into()
}

/// A user of the host, as `flow` and `exchange` have it.
pub(crate) fn user() -> Arc<Who> {
    Arc::new(Who::user("uid:1000"))
}

pub(crate) fn flow(n: u64) -> FlowRow {
    FlowRow {
        ts: NOON_US + i64::try_from(n).unwrap(),
        flow_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)),
        session_id: Uuid::from_u128(7),
        job_id: "job-1".into(),
        exec_id: "runner-17:b:1:42".into(),
        identity: "uid:1000".into(),
        identity_src: "uid",
        pid: 42,
        process: "curl".into(),
        exe: "/usr/bin/curl".into(),
        exe_dev: 259,
        exe_ino: u64::MAX,
        comm: "curl".into(),
        argv: vec!["curl".into(), "-s".into(), "größe=日本 🦀".into(), String::new()],
        ancestors: vec!["runner-17:b:1:1".into()],
        uid: 1000,
        gid: 1001,
        cgroup_id: 99,
        cgroup: "/weir/captured/job-1".into(),
        netns_cookie: 1,
        socket_cookie: 2,
        dst_ip: "192.0.2.7".parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped(),
        dst_port: 443,
        sni: "api.example.com".into(),
        alpn: "h2",
        mode: "terminated",
        outcome: "ok",
        fault: "",
        detail: String::new(),
        up_bytes: 1 << 40,
        down_bytes: 3,
        exchanges: 2,
        dur_us: 5_000_000,
        dns_check: "known",
        ids: Ids(user()),
        who: user(),
    }
}

pub(crate) fn exchange(n: u64) -> ExchangeRow {
    let header = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    ExchangeRow {
        ts: NOON_US + i64::try_from(n).unwrap(),
        exchange_id: Uuid::from_u128(0x0191_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)),
        flow_id: flow(0).flow_id,
        session_id: Uuid::from_u128(7),
        job_id: "job-1".into(),
        exec_id: "runner-17:b:1:42".into(),
        identity: "uid:1000".into(),
        pid: 42,
        process: "curl".into(),
        class: 2,
        scheme: "https",
        dst_host: "api.example.com".into(),
        dst_ip: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        dst_port: 443,
        proto: "h2",
        upstream_proto: "h1",
        method: "POST".into(),
        path: "/v1/messages/\u{1b}[31m".into(),
        query_masked: "a=1&key=***".into(),
        status: 200,
        decision: 5,
        rule_id: "observe-all".into(),
        outcome: "ok",
        fault: "",
        detail: String::new(),
        req_bytes: 10,
        resp_bytes: 2048,
        ttfb_us: 12_000,
        dur_us: 345_678,
        req_headers: vec![header("host", "api.example.com"), header("x-ü", "wert")],
        resp_headers: vec![header("set-cookie", "a=1"), header("set-cookie", "b=2")],
        req_sha256: [0xab; 32],
        resp_sha256: [0; 32],
        req_body: 1,
        resp_body: 2,
        chunk_us: vec![1, 2, u64::MAX],
        chunk_bytes: vec![10, 20, 30],
        findings: 0,
        finding_action: "",
        who: user(),
    }
}

pub(crate) fn body(n: u64, dir: u8, chunk: u32, bytes: impl Into<Vec<u8>>) -> BodyRow {
    BodyRow {
        ts: NOON_US + i64::try_from(n).unwrap(),
        exchange_id: exchange(n).exchange_id,
        session_id: Uuid::from_u128(7),
        job_id: "job-1".into(),
        dir,
        chunk,
        chunks: 2,
        content_type: "application/json".into(),
        content_encoding: String::new(),
        // constants are nobody's secret
        body: Masked::constant(bytes.into().leak()),
    }
}

pub(crate) async fn count(client: &Client, table: Table) -> u64 {
    let sql = format!("SELECT count() FROM {}", table.name());
    client.query_raw(&sql).fetch_one().await.unwrap()
}
