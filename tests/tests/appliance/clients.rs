//! Stock clients without any configuration: they get the right bytes, and the record says so.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use weir_tests::appliance::{API, Site, number, resolve, text};

use crate::PYTHON;

const SECRET: &str = "Bearer appliance-secret-7d1f";
const COLUMNS: &str = "SELECT e.process AS process, e.pid AS pid, e.job_id AS job_id, \
    e.outcome AS outcome, e.dst_host AS dst_host, e.dst_ip AS dst_ip, e.method AS method, \
    e.path AS path, e.query_masked AS query_masked, e.proto AS proto, e.status AS status, \
    e.req_bytes AS req_bytes, e.resp_bytes AS resp_bytes, e.req_body AS req_body, \
    e.resp_body AS resp_body, e.class AS class, hex(e.req_sha256) AS req_sha, hex(e.resp_sha256) AS resp_sha, \
    toString(e.exchange_id) AS id, f.argv AS argv, f.exe AS exe, f.cgroup AS cgroup, \
    f.ancestors AS ancestors, f.mode AS mode FROM exchanges e JOIN flows f ON e.flow_id = f.flow_id";

/// The exchanges of a job with their flows, when there are at least so many.
fn exchanges(site: &Site, job: &str, least: usize) -> Vec<Value> {
    site.rows(least, &format!("{COLUMNS} WHERE e.job_id = '{job}' ORDER BY e.ts"))
}

fn sha(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

/// Bytes without a pattern that a codec could shorten.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 + seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A client prints its process id first.
fn pid_in(printed: &str) -> u64 {
    printed.lines().next().unwrap_or_default().parse().unwrap()
}

/// What holds for every exchange of every client.
fn check(site: &Site, row: &Value, job: &str, process: &str, pid: u64) {
    assert!(row["process"].as_str().unwrap().starts_with(process), "{row:#}");
    assert!(row["exe"].as_str().unwrap().rsplit('/').next().unwrap().starts_with(process));
    assert_eq!(number(&row["pid"]), pid, "{row:#}");
    assert_eq!(row["job_id"], job);
    assert_eq!(row["cgroup"], format!("{}/captured/{job}", site.id));
    assert_eq!((row["outcome"].as_str(), row["mode"].as_str()), (Some("ok"), Some("terminated")));
    assert_eq!(row["dst_host"], API);
    assert_eq!(row["dst_ip"], format!("::ffff:{}", site.network.inside));
}

#[test]
fn curl_gets_its_bytes_and_is_recorded() {
    let site = Site::up("");
    let body = noise(0, 300_000);
    std::fs::write(site.path("body"), &body).unwrap();
    for (option, proto) in [("--http1.1", "h1"), ("--http2", "h2")] {
        let job = format!("curl-{proto}");
        let script = format!(
            "echo $$; exec curl -sSf {option} --resolve {} -H 'authorization: {SECRET}' \
             --data-binary @{} -o {} 'https://{API}/echo?a=1'",
            resolve(site.network.inside),
            site.show("body"),
            site.show("out"),
        );
        let pid = pid_in(&site.run(&job, &["sh", "-c", &script]));
        assert_eq!(std::fs::read(site.path("out")).unwrap(), body, "{proto}");
        let rows = exchanges(&site, &job, 1);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        let row = &rows[0];
        check(&site, row, &job, "curl", pid);
        let argv: Vec<&str> =
            row["argv"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        assert_eq!(argv[..4], ["curl", "-sSf", option, "--resolve"]);
        assert_eq!((row["method"].as_str(), row["path"].as_str()), (Some("POST"), Some("/echo")));
        assert_eq!((row["proto"].as_str(), number(&row["status"])), (Some(proto), 200));
        assert_eq!(row["query_masked"], "a=1");
        for (bytes, hash, kept) in
            [("req_bytes", "req_sha", "req_body"), ("resp_bytes", "resp_sha", "resp_body")]
        {
            assert_eq!(number(&row[bytes]), 300_000);
            assert_eq!(row[hash], sha(&body), "{proto} {hash}");
            assert_eq!(row[kept], "full");
        }
        shown(&site, row, &job, pid);
        let recorded = site.ask(&["show", row["id"].as_str().unwrap(), "--body", "request"]);
        assert_eq!(recorded.stdout, body);
    }
    let sent = site.origin.seen().heads();
    assert!(sent.iter().all(|head| head.headers["authorization"] == SECRET), "{sent:?}");
}

/// The commands for people name the exchange, and none shows the secret.
fn shown(site: &Site, row: &Value, job: &str, pid: u64) {
    let id = row["id"].as_str().unwrap();
    let timeline = site.said(&["timeline", "--job", job, "--ids"]);
    assert!(timeline.contains(&format!("curl[{pid}]")) && timeline.contains(id), "{timeline}");
    let sessions = site.said(&["sessions", "--job", job]);
    assert!(sessions.contains(job) && sessions.contains("curl"), "{sessions}");
    let shown = site.said(&["show", id, "--max-body", "64"]);
    assert!(shown.contains(&format!("curl[{pid}]")), "{shown}");
    assert!(shown.contains(&format!("POST https://{API}/echo?a=1")), "{shown}");
    assert!(shown.contains("authorization: ") && !shown.contains("appliance-secret"), "{shown}");
    let all = site.said(&["query", "--format", "json", "SELECT * FROM exchanges"]);
    assert!(!all.contains("appliance-secret"), "{all}");
}

#[test]
fn git_clones_and_pushes() {
    let site = Site::up("");
    let work = site.show("work");
    let url = format!("https://{API}/git/repo.git");
    let clone = format!("echo $$; exec git clone --quiet {url} {work}");
    let cloned = pid_in(&site.run("clone", &["sh", "-c", &clone]));
    let mut pushes = Vec::new();
    for (job, version, proto, seed) in
        [("push-h1", "HTTP/1.1", "h1", 1), ("push-h2", "HTTP/2", "h2", 2)]
    {
        pushes.push((job, proto, push(&site, job, version, seed)));
    }
    git(&site.path("git/repo.git"), &["fsck", "--strict"]);
    let again = format!("echo $$; exec git clone --quiet {url} {work}-2");
    let second = pid_in(&site.run("again", &["sh", "-c", &again]));
    assert_eq!(std::fs::read(site.path("work-2/noise")).unwrap(), noise(2, 3 << 20));

    let pushed = pushes.iter().map(|(job, _, pid)| (*job, *pid, 3));
    for (job, pid, least) in [("clone", cloned, 1), ("again", second, 3)].into_iter().chain(pushed)
    {
        let rows = exchanges(&site, job, least);
        for row in &rows {
            // git talks through a helper process, whose pid only the kernel knows.
            check(&site, row, job, "git-remote-http", number(&row["pid"]));
            let ancestors = row["ancestors"].as_array().unwrap();
            let parent = |id: &Value| id.as_str().unwrap().ends_with(&format!(":{pid}"));
            assert!(ancestors.iter().any(parent), "{pid} is not in {ancestors:?}");
            assert!(row["path"].as_str().unwrap().starts_with("/git/repo.git/"));
            assert_eq!(number(&row["status"]), 200);
        }
    }
    for (job, proto, _) in pushes {
        let rows = exchanges(&site, job, 3);
        let large = rows.iter().max_by_key(|row| number(&row["req_bytes"])).unwrap();
        assert!(number(&large["req_bytes"]) > 3 << 20, "{large:#}");
        assert_eq!(large["path"], "/git/repo.git/git-receive-pack");
        assert_eq!((&large["proto"], &large["req_body"]), (&proto.into(), &"truncated".into()));
        assert_ne!(large["req_sha"], "0".repeat(64));
    }
}

/// Commits 3 MiB that do not compress, pushes them, and answers git's pid.
fn push(site: &Site, job: &str, version: &str, seed: u64) -> u64 {
    let work = site.path("work");
    std::fs::write(work.join("noise"), noise(seed, 3 << 20)).unwrap();
    git(&work, &["add", "."]);
    let author = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
    git(&work, &[&author[..], &["commit", "--quiet", "-m", "add noise"]].concat());
    let script = format!(
        "echo $$; exec git -c http.version={version} -C {} push --quiet origin \
         HEAD:refs/heads/main",
        work.display()
    );
    let pid = pid_in(&site.run(job, &["sh", "-c", &script]));
    let head = git(&work, &["rev-parse", "HEAD"]);
    let there = git(&site.path("git/repo.git"), &["rev-parse", "refs/heads/main"]);
    assert_eq!(head, there);
    pid
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_and_node_get_their_bytes_and_are_recorded() {
    let site = Site::up("");
    let question = r#"{"from":"client","question":"who am i"}"#;
    let python = format!(
        "import os, urllib.request
print(os.getpid())
request = urllib.request.Request('https://{API}/echo', data=b'''{question}''',
    headers={{'content-type': 'application/json'}})
print(urllib.request.urlopen(request, timeout=20).read().decode(), end='')"
    );
    let node = format!(
        "console.log(process.pid);
const request = require('https').request('https://{API}/echo', {{method: 'POST',
  headers: {{'content-type': 'application/json'}}}}, response => {{
  response.on('data', data => process.stdout.write(data));
}});
request.on('error', error => {{ console.error(error); process.exit(1); }});
request.end('{question}');"
    );
    for (job, words) in [("python", [PYTHON, "-c", &python]), ("node", ["node", "-e", &node])] {
        let printed = site.run(job, &words);
        let pid = pid_in(&printed);
        assert_eq!(printed.split_once('\n').unwrap().1, question);
        let rows = exchanges(&site, job, 1);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        check(&site, &rows[0], job, job, pid);
        assert_eq!(rows[0]["argv"][0], words[0]);
        assert_eq!(rows[0]["argv"][1], words[1]);
        assert_eq!(rows[0]["proto"], "h1");
        for (bytes, hash) in [("req_bytes", "req_sha"), ("resp_bytes", "resp_sha")] {
            assert_eq!(number(&rows[0][bytes]), question.len() as u64);
            assert_eq!(rows[0][hash], sha(question.as_bytes()));
        }
    }
}
