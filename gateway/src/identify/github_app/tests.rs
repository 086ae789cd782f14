use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as B64};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::capture::ProcessKey;
use crate::clock::FakeClock;
use crate::error::Faulty as _;
use crate::identify::binding::AnchorId;
use crate::identify::oidc::verify::Verifier;
use crate::identify::who::Who;

/// 2027-01-15T08:00:00Z
const NOW_S: i64 = 1_800_000_000;
const STARTED: &str = "2027-01-15T07:59:50Z";

/// What the API answers by path, with the requests that it saw.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Served>>);

#[derive(Default)]
struct Served {
    answers: HashMap<String, (String, String)>,
    seen: Vec<String>,
}

impl Api {
    fn answer(&self, path: &str, head: &str, body: &str) {
        let answer = (head.to_owned(), body.to_owned());
        self.0.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().seen.clone()
    }

    /// One request after the other, until the test ends.
    async fn serve(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            // A client that has read enough, or gives up, goes away.
            drop(self.talk(&mut stream).await);
        }
    }

    async fn talk(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        let target = text.split(' ').nth(1).unwrap().to_owned();
        let answer = {
            let mut served = self.0.lock().unwrap();
            served.seen.push(text);
            served.answers.get(&target).cloned()
        };
        let (head, body) = answer.unwrap_or_else(|| ("404 Not Found".to_owned(), "{}".to_owned()));
        let length = body.len();
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await
    }
}

struct World {
    api: Api,
    key: KeyPair,
    clock: Arc<FakeClock>,
    issuer: Issuer,
    fetcher: Arc<Fetcher>,
    _dir: tempfile::TempDir,
    /// Ends when it is dropped.
    _server: JoinSet<()>,
}

impl World {
    /// An API with one job, which is in progress.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Api::default();
        let mut server = JoinSet::new();
        server.spawn(api.clone().serve(listener));

        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.pem");
        let mut file = std::fs::File::create(&path).unwrap();
        let pem = STANDARD.encode(der.as_ref());
        write!(file, "-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n").unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();

        let text = format!(
            "[[identity.issuer]]\nname = \"gh\"\nissuer = \"https://gh.example\"\nkind = \"github\"\n\
             audience = \"weir\"\ndanger_allow_http = true\nclaims = {{ repository_owner_id = \"42\" }}\n\
             app_id = \"123\"\napp_key_file = \"{}\"\napp_installation = 9\n\
             app_runners = [\"box-*\", \"one\"]\napp_api = \"{url}/v3\"\n",
            path.display()
        );
        let issuer = crate::config::Config::parse(&text).unwrap().identity.issuers.remove(0);
        let clock = Arc::new(FakeClock::at(WallUs(NOW_S * 1_000_000)));
        let fetcher = Arc::new(Fetcher::new(rustls::RootCertStore::empty()).unwrap());
        let world = Self { api, key, clock, issuer, fetcher, _dir: dir, _server: server };
        let token = json!({"token": "installed", "expires_at": "2027-01-15T09:00:00Z"});
        world.api.answer(TOKENS, "201 Created", &token.to_string());
        world.run(&json!({}));
        world.jobs(&[job(&json!({}))]);
        world
    }

    fn run(&self, more: &Value) {
        let mut run = json!({
            "id": 99, "run_attempt": 2, "run_number": 5, "name": "ci", "path": ".github/workflows/ci.yml",
            "event": "push", "head_branch": "main", "head_sha": "abc", "actor": {"id": 1, "login": "alice"},
            "repository": {
                "id": 77, "full_name": "acme/app", "owner": {"id": 42, "login": "acme"}, "private": true,
            },
            "head_repository": {"full_name": "acme/app"},
        });
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.api.answer(RUN, "200 OK", &run.to_string());
    }

    fn jobs(&self, jobs: &[Value]) {
        let page = json!({"total_count": jobs.len(), "jobs": jobs});
        self.api.answer(&format!("{RUN}/jobs?per%5Fpage=50&page=1"), "200 OK", &page.to_string());
    }

    fn app(&self) -> GithubApp {
        let clock: Arc<FakeClock> = Arc::clone(&self.clock);
        GithubApp::start(&self.issuer, &self.fetcher, &(clock as _)).unwrap().unwrap()
    }

    /// The outcome of the look-up of a job that began ten seconds ago.
    async fn outcome(&self, variables: &[(&str, &str)]) -> &'static str {
        let found = self.app().look_up(&environment(variables), &anchor(1)).await;
        found.err().map_or("ok", |e| e.outcome())
    }
}

const TOKENS: &str = "/v3/app/installations/9/access_tokens";
const RUN: &str = "/v3/repos/acme/app/actions/runs/99/attempts/2";

fn job(more: &Value) -> Value {
    let mut job = json!({
        "id": 4711, "run_id": 99, "run_attempt": 2, "status": "in_progress", "started_at": STARTED,
        "completed_at": null, "runner_id": 3, "runner_name": "box-1", "steps": [{"name": "x"}],
    });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

fn anchor(id: u64) -> Anchor {
    let id = AnchorId { id, process: ProcessKey { tgid: 1, start_time_ns: id } };
    Anchor { id, started: WallUs((NOW_S - 8) * 1_000_000) }
}

/// That of the job, with changes.
fn environment(changes: &[(&str, &str)]) -> Environment {
    let own = [
        ("GITHUB_REPOSITORY", "acme/app"),
        ("GITHUB_RUN_ID", "99"),
        ("GITHUB_RUN_ATTEMPT", "2"),
        ("RUNNER_NAME", "box-1"),
    ];
    own.iter()
        .chain(changes)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_job_in_progress_on_a_runner_of_this_host_is_identified() {
    let world = World::new().await;
    let app = world.app();
    let found = app.look_up(&environment(&[]), &anchor(1)).await.unwrap();
    assert_eq!(found.until.0, (NOW_S + 600) * 1_000_000);

    let clock: Arc<FakeClock> = Arc::clone(&world.clock);
    let verifier = Verifier::new(Vec::new(), clock as _);
    let verified = |anchor| verifier.looked_up(&world.issuer, &found.claims, found.until, &anchor);
    let identity = verified(anchor(1)).unwrap();
    let who = Who::vouched(&identity, "https://gh.example");
    assert_eq!((who.method, &*who.display, &*who.run), ("github_app", "acme/app#99", "99.2"));
    assert_eq!((&*who.repository, &*who.ci_job, &*who.runner), ("acme/app#77", "4711", "3"));
    // Again for its own process tree, and for no other.
    assert!(verified(anchor(1)).is_ok());
    assert_eq!(verified(anchor(2)).unwrap_err().outcome(), "token_second_anchor");

    // The token of the installation is asked for once, with a JWT that the key signed.
    app.look_up(&environment(&[]), &anchor(2)).await.unwrap();
    let seen = world.api.seen();
    let asked: Vec<_> = seen.iter().filter(|request| request.contains(TOKENS)).collect();
    assert_eq!((seen.len(), asked.len()), (5, 1));
    let jwt = asked[0].split("Bearer ").nth(1).unwrap().split("\r\n").next().unwrap();
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let public =
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, world.key.public_key().as_ref());
    public.verify(signed.as_bytes(), &B64.decode(signature).unwrap()).unwrap();
    let claims: Value =
        serde_json::from_slice(&B64.decode(signed.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims, json!({"iss": "123", "iat": NOW_S - 60, "exp": NOW_S + 540}));
    let others = seen.iter().filter(|request| !request.contains(TOKENS));
    assert!(
        others.clone().count() == 4 && others.clone().all(|r| r.contains("Bearer installed\r\n"))
    );
}

#[tokio::test]
async fn what_the_configuration_requires_is_required_of_the_api_too() {
    let world = World::new().await;
    world.run(&json!({"repository": {
        "id": 77, "full_name": "acme/app", "owner": {"id": 43, "login": "acme"},
    }}));
    let found = world.app().look_up(&environment(&[]), &anchor(1)).await.unwrap();
    let verifier = Verifier::new(Vec::new(), Arc::clone(&world.clock) as _);
    let refused = verifier.looked_up(&world.issuer, &found.claims, found.until, &anchor(1));
    assert_eq!(refused.unwrap_err().outcome(), "token_required_claim");
}

#[tokio::test]
async fn an_environment_that_leads_elsewhere_asks_nothing() {
    let world = World::new().await;
    for (name, value, outcome) in [
        ("GITHUB_REPOSITORY", "acme", "lookup_hint"),
        ("GITHUB_REPOSITORY", "acme/..", "lookup_hint"),
        ("GITHUB_REPOSITORY", "acme/app/x", "lookup_hint"),
        ("GITHUB_REPOSITORY", "acme/app?x", "lookup_hint"),
        ("GITHUB_REPOSITORY", "", "lookup_hint"),
        ("GITHUB_RUN_ID", "+99", "lookup_hint"),
        ("GITHUB_RUN_ID", "99/../98", "lookup_hint"),
        ("GITHUB_RUN_ATTEMPT", "x", "lookup_hint"),
        ("RUNNER_NAME", "", "lookup_hint"),
        ("RUNNER_NAME", "other-box-1", "lookup_runner"),
        ("RUNNER_NAME", "one-more", "lookup_runner"),
    ] {
        assert_eq!(world.outcome(&[(name, value)]).await, outcome, "{name}={value}");
    }
    assert_eq!(world.api.seen().len(), 0);
    assert_eq!(world.outcome(&[("GITHUB_RUN_ID", "98")]).await, "lookup_not_found");
    assert_eq!(world.outcome(&[("RUNNER_NAME", "box-2")]).await, "lookup_no_job");
}

#[tokio::test]
async fn only_the_job_that_runs_there_since_the_tree_began_counts() {
    let world = World::new().await;
    let late = "2027-01-15T08:02:30Z";
    for (change, outcome) in [
        (json!({"status": "completed"}), "lookup_no_job"),
        (json!({"completed_at": STARTED}), "lookup_no_job"),
        (json!({"status": "queued", "runner_id": null, "runner_name": null}), "lookup_no_job"),
        (json!({"runner_name": "box-2"}), "lookup_no_job"),
        (json!({"runner_name": "BOX-1"}), "lookup_no_job"),
        (json!({"run_id": 98}), "lookup_answer"),
        (json!({"run_attempt": 1}), "lookup_answer"),
        (json!({"started_at": "2027-01-15T07:57:00Z"}), "lookup_started"),
        (json!({"started_at": late}), "lookup_started"),
        (json!({"started_at": null}), "lookup_answer"),
        (json!({"started_at": "today"}), "lookup_answer"),
        (json!({"id": "4711"}), "lookup_answer"),
        (json!({}), "ok"),
    ] {
        world.jobs(&[job(&json!({"id": 1, "runner_name": "box-9"})), job(&change)]);
        assert_eq!(world.outcome(&[]).await, outcome, "{change}");
    }
    world.jobs(&[job(&json!({})), job(&json!({"id": 4712}))]);
    assert_eq!(world.outcome(&[]).await, "lookup_several");
    for change in [
        json!({"id": 98}),
        json!({"run_attempt": 1}),
        json!({"repository": {
            "id": 78, "full_name": "acme/other", "owner": {"id": 42, "login": "acme"},
        }}),
    ] {
        world.run(&change);
        assert_eq!(world.outcome(&[]).await, "lookup_answer", "{change}");
    }
}

#[tokio::test]
async fn an_api_that_misbehaves_is_not_believed() {
    let world = World::new().await;
    let twice = r#"{"jobs": [], "jobs": []}"#;
    for (head, body, outcome) in [
        ("200 OK", "[]".to_owned(), "lookup_answer"),
        ("200 OK", "no json".to_owned(), "lookup_answer"),
        ("200 OK", twice.to_owned(), "lookup_answer"),
        ("200 OK", " ".repeat(MAX_PAGE_BYTES + 1), "provider_too_large"),
        ("302 Found\r\nlocation: https://evil.example/", String::new(), "provider_redirect"),
        ("404 Not Found", String::new(), "lookup_not_found"),
        ("401 Unauthorized", String::new(), "lookup_credential"),
        ("403 Forbidden", String::new(), "lookup_credential"),
        ("500 Internal Server Error", String::new(), "provider_status"),
        ("429 Too Many Requests\r\nretry-after: 90", String::new(), "lookup_rate_limited"),
    ] {
        world.api.answer(&format!("{RUN}/jobs?per%5Fpage=50&page=1"), head, &body);
        assert_eq!(world.outcome(&[]).await, outcome, "{head}");
    }
    // More jobs than are looked at.
    let page = json!({"jobs": vec![job(&json!({"runner_name": "box-9"})); PER_PAGE]});
    for number in 1..=MAX_PAGES {
        let path = format!("{RUN}/jobs?per%5Fpage=50&page={number}");
        world.api.answer(&path, "200 OK", &page.to_string());
    }
    assert_eq!(world.outcome(&[]).await, "lookup_too_many");
    world.api.answer(TOKENS, "201 Created", r#"{"token": "x"}"#);
    assert_eq!(world.outcome(&[]).await, "lookup_answer");
}

#[tokio::test]
async fn the_api_is_left_alone_while_it_wants_to_be_and_one_job_does_not_ask_for_all() {
    let world = World::new().await;
    let app = world.app();
    let job = environment(&[]);
    let outcome = async |app: &GithubApp, id| {
        app.look_up(&job, &anchor(id)).await.err().map_or("ok", |e| e.outcome())
    };
    assert_eq!(outcome(&app, 1).await, "ok");
    assert_eq!(outcome(&app, 1).await, "lookup_too_often");
    assert_eq!(outcome(&app, 2).await, "ok");
    world.clock.elapse(PAUSE);
    let reset = NOW_S + 305;
    let spent = format!("403 Forbidden\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: {reset}");
    world.api.answer(RUN, &spent, "{}");
    assert_eq!(outcome(&app, 1).await, "lookup_rate_limited");
    let asked = world.api.seen().len();
    world.run(&json!({}));
    world.clock.elapse(Duration::from_secs(200));
    assert_eq!(outcome(&app, 1).await, "lookup_rate_limited");
    assert_eq!(world.api.seen().len(), asked);
    world.clock.elapse(Duration::from_secs(101));
    assert_eq!(outcome(&app, 1).await, "ok");
}

#[tokio::test]
async fn a_token_that_was_refused_is_asked_for_again() {
    let world = World::new().await;
    let app = world.app();
    world.api.answer(RUN, "401 Unauthorized", "{}");
    let refused = app.look_up(&environment(&[]), &anchor(1)).await.unwrap_err();
    assert_eq!(refused.outcome(), "lookup_credential");
    world.run(&json!({}));
    app.look_up(&environment(&[]), &anchor(2)).await.unwrap();
    assert_eq!(world.api.seen().iter().filter(|r| r.contains(TOKENS)).count(), 2);
}

#[tokio::test]
async fn a_key_that_everybody_may_read_or_that_is_none_is_refused() {
    let world = World::new().await;
    let path = &world.issuer.github_app.as_ref().unwrap().key_file;
    let clock: SharedClock = Arc::clone(&world.clock) as _;
    let start = || GithubApp::start(&world.issuer, &world.fetcher, &clock);
    assert!(start().is_ok());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o604)).unwrap();
    assert_eq!(start().unwrap_err().outcome(), "lookup_key");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
    for text in ["", "planted", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(path, text).unwrap();
        let error = start().unwrap_err();
        assert_eq!(error.outcome(), "lookup_key");
        assert!(!error.to_string().contains("planted"));
    }
    std::fs::remove_file(path).unwrap();
    assert_eq!(start().unwrap_err().outcome(), "lookup_key");
}
