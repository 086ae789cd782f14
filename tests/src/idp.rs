//! A real OIDC provider (npm `oidc-provider`) with issuers like those of CI systems beside it; see
//! `fixtures/idp/idp.mjs`.
//!
//! - input: claims to sign, modes to misbehave in
//! - output: tokens, and how often the provider was asked
//! - bound: one process, which ends with its standard input; 60 s for the first installation
//! - on failure: panics, since it is test set-up
//!
//! Node 18 or later and, once, npm: packages are installed from the lock file into
//! `target/idp/DIGEST`, and later runs need no network.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use percent_encoding::NON_ALPHANUMERIC;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../fixtures/idp/package.json")),
    ("package-lock.json", include_str!("../fixtures/idp/package-lock.json")),
    ("idp.mjs", include_str!("../fixtures/idp/idp.mjs")),
];

/// A running provider.
pub struct Idp {
    child: Child,
    base: String,
}

impl Idp {
    /// Starts one on a port of its own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with other lifetimes: `IDP_TTL` of tokens, `IDP_DEVICE_TTL` of device codes, in
    /// seconds.
    pub fn start_with(environment: &[(&str, &str)]) -> Self {
        let dir = installed();
        let mut child = Command::new("node")
            .arg("idp.mjs")
            .envs(environment.iter().copied())
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // it warns about every runtime that is not the newest
            .stderr(Stdio::null())
            .spawn()
            .expect("start node: `cargo xtask setup` installs it");
        let mut base = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut base).unwrap();
        let base = base.trim().to_owned();
        assert!(base.starts_with("http://127.0.0.1:"), "the provider did not start; node too old?");
        Self { child, base }
    }

    /// The issuer of the provider itself, which lets people log in.
    pub fn issuer(&self) -> &str {
        &self.base
    }

    /// A CI-like issuer of that name.
    pub fn ci(&self, name: &str) -> String {
        format!("{}/ci/{name}", self.base)
    }

    /// Signs claims with the current key.
    pub fn sign(&self, claims: &Value) -> String {
        self.forge(&json!({ "claims": claims }))
    }

    /// Signs anything: `claims`, `header` (laid over the usual one; `null` removes a field) and
    /// `key`, one of `current`, `old`, `foreign`, `none` and `hmac-public`.
    pub fn forge(&self, order: &Value) -> String {
        let answer = self.post("/__admin/mint", order);
        answer["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }

    /// Makes a new key and returns the ids of all published ones; `keep` publishes old ones, too.
    pub fn rotate(&self, keep: bool) -> Vec<String> {
        let answer = self.post(&format!("/__admin/rotate?keep={}", u8::from(keep)), &json!({}));
        let kids = answer["kids"].as_array().unwrap().iter();
        kids.map(|kid| kid.as_str().unwrap().to_owned()).collect()
    }

    /// Logs `alice` or `bob` in by authorization code and returns the answer of the token endpoint.
    pub fn login(&self, user: &str) -> Value {
        self.post(&format!("/__admin/login?user={user}"), &json!({}))
    }

    /// Opens a URL as a browser would, logs that user in, and answers where the provider sends the
    /// browser in the end.
    pub fn browse(&self, url: &str, user: &str) -> String {
        let query = |text| percent_encoding::utf8_percent_encode(text, NON_ALPHANUMERIC);
        let path = format!("/__admin/browse?url={}&user={}", query(url), query(user));
        self.post(&path, &json!({}))["at"].as_str().unwrap().to_owned()
    }

    /// Approves or aborts a device flow at the provider's pages.
    pub fn device(&self, url: &str, code: &str, user: &str, approve: bool) {
        let order = json!({ "url": url, "code": code, "user": user, "abort": !approve });
        assert_eq!(self.post("/__admin/device", &order)["status"], 200);
    }

    /// `disable` and `enable` users, `slow` down so many polls of device flows, let the token
    /// endpoint be `broken`, wait `until` a grant type was asked for so often; how often it was asked, by grant type.
    pub fn people(&self, order: &Value) -> Value {
        self.post("/__admin/people", order)
    }

    /// Whether a refresh token can be used.
    pub fn lives(&self, refresh: &str) -> bool {
        self.post("/__admin/lives", &json!({ "token": refresh }))["lives"] == true
    }

    /// Uses a refresh token, as a thief would.
    pub fn refresh(&self, refresh: &str) -> Value {
        self.post("/__admin/refresh", &json!({ "token": refresh }))
    }

    /// An access token in the form of a JWT.
    pub fn access_token(&self) -> String {
        let answer = self.post("/__admin/access", &json!({}));
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Lets a CI-like issuer behave: `good`, `down`, `silent`, `error`, `huge`, `other-issuer`,
    /// `plain-keys`, `redirect-metadata`, `redirect-keys`, `redirect-tokens`.
    pub fn behave(&self, name: &str, mode: &str) {
        self.post(&format!("/__admin/issuer?name={name}"), &json!({ "mode": mode }));
    }

    /// How often a CI-like issuer was asked for `metadata`, `keys` or `tokens`.
    pub fn asked(&self, name: &str, what: &str) -> u64 {
        let answer = self.post(&format!("/__admin/issuer?name={name}"), &json!({}));
        answer[what].as_u64().unwrap()
    }

    /// The published keys, as a key set.
    pub fn keys(&self) -> String {
        self.post("/__admin/keys", &json!({})).to_string()
    }

    /// A job's credential for the token endpoints of CI-like issuers.
    pub fn job(&self, credential: &str, claims: &Value) {
        self.post(&format!("/__admin/job?credential={credential}"), claims);
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let host = self.base.strip_prefix("http://").unwrap();
        let addr: SocketAddr = host.parse().unwrap();
        let mut socket = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            panic!("{path}: no answer: {answer:?}")
        };
        assert!(head.contains(" 200 "), "{path}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Seconds since 1970, as the provider counts them.
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// The directory with the provider and its packages. Tests in other processes wait for the first.
fn installed() -> PathBuf {
    let mut digest = Sha256::new();
    for (_, text) in FILES {
        digest.update(text);
    }
    let digest: String = hex::encode(digest.finalize()).chars().take(16).collect();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/idp");
    let dir = target.join(digest);
    std::fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
    let done = dir.join("done");
    if !done.exists() {
        for (name, text) in FILES {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let said = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=20000"])
            .current_dir(&dir)
            .output()
            .expect("start npm: `cargo xtask setup` installs it");
        let said = (said.status, String::from_utf8_lossy(&said.stderr).into_owned());
        assert!(said.0.success(), "npm ci failed: {}", said.1);
        std::fs::write(done, "").unwrap();
    }
    dir
}
