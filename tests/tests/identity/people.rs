//! Logins of people, against the real provider: both flows, refresh with rotation, and every end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use weir_gateway::capture::anchors::AnchorSource;
use weir_gateway::capture::session::Login;
use weir_gateway::clock::{Clock as _, FakeClock, SystemClock};
use weir_gateway::config::Config;
use weir_gateway::config::identity::Issuer;
use weir_gateway::error::Faulty as _;
use weir_gateway::identify::bound::State;
use weir_gateway::identify::fetch::Fetcher;
use weir_gateway::identify::login::{
    Asker, LoggedIn, LoginError, LoginKey, Logins, Parts, Sessions, kept_people,
};
use weir_gateway::identify::oidc::verify::Verifier;
use weir_gateway::identify::registry::{Registry, SessionKey};
use weir_tests::idp::Idp;

const REDIRECT: &str = "http://127.0.0.1:53999/cb";
const BOOT: Uuid = Uuid::from_u128(42);

/// A host with a gateway whose login sessions are directories.
struct Host {
    idp: Idp,
    dir: tempfile::TempDir,
    clock: Arc<FakeClock>,
    registry: Arc<Registry>,
    logins: Arc<Logins>,
}

impl Host {
    fn new() -> Self {
        Self::with(Idp::start())
    }

    fn with(idp: Idp) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cgroup")).unwrap();
        std::fs::write(dir.path().join("cgroup/cgroup.controllers"), "").unwrap();
        let clock = Arc::new(FakeClock::at(SystemClock.wall()));
        let registry = Arc::new(Registry::default());
        let logins = start(&idp, dir.path(), &clock, &registry);
        Self { idp, dir, clock, registry, logins }
    }

    /// Another gateway with the same files, as after a restart.
    fn restart(&mut self) {
        self.registry = Arc::new(Registry::default());
        self.logins = start(&self.idp, self.dir.path(), &self.clock, &self.registry);
    }

    /// Somebody in a login session that lives.
    fn asker(&self, uid: u32, session: &str) -> Asker {
        self.populate(uid, session, true);
        let login = Some(Login::Scope { uid, session: session.to_owned() });
        let key = LoginKey { boot: BOOT, uid, login };
        Asker { key, uid, user: format!("user{uid}"), tty: "pts/3".into() }
    }

    fn populate(&self, uid: u32, session: &str, lives: bool) {
        let path = format!("cgroup/user.slice/user-{uid}.slice/session-{session}.scope");
        let dir = self.dir.path().join(path);
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!("populated {}\nfrozen 0\n", u8::from(lives));
        std::fs::write(dir.join("cgroup.events"), text).unwrap();
    }

    async fn login(&self, asker: &Asker, user: &str) -> LoggedIn {
        let start = self.logins.start_code(asker, None, REDIRECT).await.unwrap();
        let answer = self.browse(&start.url, user).await;
        self.logins.finish_code(asker, start.id, &answer).await.unwrap()
    }

    /// The query of the answer.
    async fn browse(&self, url: &str, user: &str) -> String {
        let at = tokio::task::block_in_place(|| self.idp.browse(url, user));
        assert!(at.starts_with(REDIRECT), "{at}");
        at.split_once('?').unwrap().1.to_owned()
    }

    /// Who a session acts for, if that holds now.
    fn who(&self, asker: &Asker) -> Option<String> {
        let LoginKey { uid, login, .. } = asker.key.clone();
        let person = self.registry.person(&SessionKey { uid, login })?;
        let State::Active(until) = person.state() else { return None };
        (until > self.clock.wall())
            .then(|| person.who(AnchorSource::Session).unwrap().subject.to_string())
    }

    /// The refresh tokens on disk.
    fn kept(&self) -> Vec<String> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.dir.path().join("state")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let kept: Value = serde_json::from_str(&text).unwrap();
            all.push(kept["refresh_token"].as_str().unwrap().to_owned());
        }
        all
    }

    fn count(&self, what: &str) -> u64 {
        self.idp.people(&json!({}))[what].as_u64().unwrap_or_default()
    }

    /// Lets logins become due: only the monotonic clock moves, as tokens are due by it.
    fn become_due(&self) {
        self.clock.elapse_mono(Duration::from_secs(250));
    }
}

fn issuer(idp: &Idp) -> Issuer {
    let text = format!(
        "[[identity.issuer]]\nname = \"corp\"\nissuer = \"{}\"\nkind = \"people\"\n\
         client_id = \"weir-cli\"\ndanger_allow_http = true\n",
        idp.issuer()
    );
    Config::parse(&text).unwrap().identity.issuers.remove(0)
}

fn sessions(dir: &Path) -> Sessions {
    Sessions::new(BOOT, "/proc".into(), Some(dir.join("cgroup")))
}

fn start(idp: &Idp, dir: &Path, clock: &Arc<FakeClock>, registry: &Arc<Registry>) -> Arc<Logins> {
    let mut config = Config::parse("").unwrap().identity;
    config.state_dir = dir.join("state");
    config.issuers.push(issuer(idp));
    let fetcher = Arc::new(Fetcher::new(RootCertStore::empty()).unwrap());
    let clock: Arc<FakeClock> = Arc::clone(clock);
    let shared = Arc::clone(&clock) as weir_gateway::clock::SharedClock;
    let verifier = Verifier::start(&config.issuers, &fetcher, &shared).unwrap();
    Logins::start(Parts {
        config: &config,
        verifier: Arc::new(verifier),
        fetcher,
        clock: shared,
        registry: Arc::clone(registry),
        sessions: sessions(dir),
        host: "build-7".into(),
    })
    .unwrap()
}

fn outcome<T: std::fmt::Debug>(result: Result<T, LoginError>) -> &'static str {
    result.err().map_or("ok", |error| error.outcome())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_with_pkce_logs_a_session_in_with_its_groups() {
    let host = Host::new();
    let asker = host.asker(1000, "1");
    assert_eq!(
        host.logins.hint(&asker.key).unwrap(),
        "you are not logged in on build-7: run \"weir login\""
    );
    let start = host.logins.start_code(&asker, Some("corp"), REDIRECT).await.unwrap();
    for part in
        ["code_challenge=", "code_challenge_method=S256", "state=", "nonce=", "prompt=consent"]
    {
        assert!(start.url.contains(part), "{part} in {}", start.url);
    }
    let answer = host.browse(&start.url, "alice").await;
    let logged_in = host.logins.finish_code(&asker, start.id, &answer).await.unwrap();
    let groups: Vec<&str> = logged_in.who.groups.iter().map(|group| &**group).collect();
    assert_eq!(groups, ["eng", "copilot-users"]);
    assert_eq!((&*logged_in.who.subject, &*logged_in.who.display), ("alice", "Alice"));
    assert_eq!((logged_in.who.method, logged_in.refreshes), ("person_oidc", true));
    assert_eq!(host.who(&asker).as_deref(), Some("alice"));
    // The same answer again logs nobody in.
    let again = host.logins.finish_code(&asker, start.id, &answer).await;
    assert_eq!(outcome(again), "login_no_flow");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_the_asked_ones_are_refused() {
    let host = Host::new();
    let asker = host.asker(1000, "1");
    let begin = || host.logins.start_code(&asker, None, REDIRECT);
    // Another state, twice the same parameter, another session: the flow goes on waiting.
    let start = begin().await.unwrap();
    let answer = host.browse(&start.url, "alice").await;
    let state = answer.split('&').find(|part| part.starts_with("state=")).unwrap();
    let other = answer.replace(state, "state=other");
    let finish = |answer: String| {
        let asker = &asker;
        let host = &host;
        async move { outcome(host.logins.finish_code(asker, start.id, &answer).await) }
    };
    assert_eq!(finish(other).await, "login_state");
    assert_eq!(finish(format!("{answer}&state=other")).await, "login_answer");
    let stranger = host.asker(1001, "9");
    let stolen = host.logins.finish_code(&stranger, start.id, &answer).await;
    assert_eq!(outcome(stolen), "login_no_flow");
    assert_eq!(finish(answer.clone()).await, "ok");
    host.logins.logout(&asker.key).await.unwrap();

    // iss (RFC 9207): another one, and none where the provider promises it.
    let iss = answer.split('&').find(|part| part.starts_with("iss=")).unwrap().to_owned();
    for replaced in ["iss=https%3A%2F%2Fevil.example", ""] {
        let start = begin().await.unwrap();
        let answer = host.browse(&start.url, "alice").await.replace(&iss, replaced);
        let finished = host.logins.finish_code(&asker, start.id, &answer).await;
        assert_eq!(outcome(finished), "login_issuer", "{replaced}");
    }
    // nonce: the request was changed on its way.
    let start = begin().await.unwrap();
    let nonce = start.url.split('&').find(|part| part.starts_with("nonce=")).unwrap();
    let answer = host.browse(&start.url.replace(nonce, "nonce=other"), "alice").await;
    let finished = host.logins.finish_code(&asker, start.id, &answer).await;
    assert_eq!(outcome(finished), "login_nonce");
    // The code of somebody else's request: PKCE.
    let (one, two) = (begin().await.unwrap(), begin().await.unwrap());
    let foreign = host.browse(&one.url, "bob").await;
    let own = host.browse(&two.url, "alice").await;
    let code =
        |answer: &str| answer.split('&').find(|p| p.starts_with("code=")).unwrap().to_owned();
    let mixed = own.replace(&code(&own), &code(&foreign));
    let finished = host.logins.finish_code(&asker, two.id, &mixed).await;
    assert_eq!(outcome(finished), "login_refused");
    let denied = host.logins.start_code(&asker, None, "http://192.0.2.1:80/cb").await;
    assert_eq!(outcome(denied), "login_redirect");
    assert_eq!((host.who(&asker), host.kept().len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_flow_waits_slows_down_and_is_approved() {
    let host = Host::new();
    let asker = host.asker(1000, "1");
    host.idp.people(&json!({ "slow": 1 }));
    let start = host.logins.start_device(&asker, None).await.unwrap();
    for part in ["user1000", "uid 1000", "pts/3", "build-7", "corp"] {
        assert!(start.text.contains(part), "{part} in {}", start.text);
    }
    let (url, code) = (start.url().to_owned(), start.user_code().to_owned());
    let hint = host.logins.hint(&asker.key).unwrap();
    assert!(hint.contains(&code) && hint.contains("/device"), "{hint}");
    assert!(!host.logins.hint(&host.asker(1001, "2").key).unwrap().contains(&code));
    let waiting = tokio::spawn(start.finish());
    let began = std::time::Instant::now();
    let polled = json!({ "until": ["urn:ietf:params:oauth:grant-type:device_code", 2] });
    tokio::task::block_in_place(|| host.idp.people(&polled));
    // One second as the provider says, and five more after it said to slow down.
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(host.who(&asker), None);
    tokio::task::block_in_place(|| host.idp.device(&url, &code, "bob", true));
    let logged_in = waiting.await.unwrap().unwrap();
    assert!(logged_in.who.groups.iter().any(|group| &**group == "approvers"));
    assert_eq!(host.who(&asker).as_deref(), Some("bob"));
    assert!(!host.logins.hint(&asker.key).unwrap().contains(&code));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_flow_is_denied_or_expires() {
    let host = Host::with(Idp::start_with(&[("IDP_DEVICE_TTL", "3")]));
    let asker = host.asker(1000, "1");
    let start = host.logins.start_device(&asker, None).await.unwrap();
    let (url, code) = (start.url().to_owned(), start.user_code().to_owned());
    tokio::task::block_in_place(|| host.idp.device(&url, &code, "alice", false));
    assert_eq!(outcome(start.finish().await), "login_denied");
    let start = host.logins.start_device(&asker, None).await.unwrap();
    assert_eq!(outcome(start.finish().await), "login_expired");
    for _ in 2..10 {
        drop(host.logins.start_device(&asker, None).await.unwrap());
    }
    assert_eq!(outcome(host.logins.start_device(&asker, None).await), "login_too_often");
    assert_eq!(host.who(&asker), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_offers_each_session_one_login_and_then_says_how() {
    let host = Host::with(Idp::start_with(&[("IDP_DEVICE_TTL", "3")]));
    let (asker, other) = (host.asker(1000, "1"), host.asker(1001, "2"));
    let key = LoginKey { boot: BOOT, uid: 1002, login: None };
    let daemon = Asker { key, uid: 1002, user: "d".into(), tty: String::new() };
    let plain = "you are not logged in on build-7: run \"weir login\"";
    // Nobody tends logins yet: nothing is begun.
    assert_eq!(host.logins.prompt(&asker).await.as_deref(), Some(plain));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&host.logins).run(stop.clone()));
    let patience = Duration::from_secs(30);
    let offered = |text: &str| text.contains("/device and enter ");
    let first = tokio::time::timeout(patience, async {
        loop {
            let text = host.logins.prompt(&asker).await.unwrap();
            if offered(&text) {
                return text;
            }
            tokio::task::yield_now().await;
        }
    });
    let first = first.await.unwrap();
    assert_eq!(host.logins.prompt(&asker).await.unwrap(), first, "the same code");
    assert_eq!(host.logins.prompt(&daemon).await.as_deref(), Some(plain));
    let others = host.logins.prompt(&other).await.unwrap();
    assert!(offered(&others) && others != first, "{others}");
    let expired = tokio::time::timeout(patience, async {
        while host.logins.hint(&asker.key).as_deref() != Some(plain) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    expired.await.unwrap();
    assert_eq!(host.logins.prompt(&asker).await.as_deref(), Some(plain));
    host.clock.elapse_mono(weir_gateway::limits::PROMPT_AGAIN);
    assert!(offered(&host.logins.prompt(&asker).await.unwrap()));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_rotate_the_token_and_run_once_at_a_time() {
    let host = Host::new();
    let asker = host.asker(1000, "1");
    host.login(&asker, "alice").await;
    let first = host.kept().remove(0);
    host.logins.tend().await;
    assert_eq!(host.count("refresh_token"), 0);
    host.become_due();
    // All at once: a token that is used twice would end the login.
    tokio::join!(host.logins.tend(), host.logins.tend(), host.logins.tend(), host.logins.tend());
    assert_eq!(host.count("refresh_token"), 1);
    let second = host.kept().remove(0);
    assert_ne!(first, second);
    assert_eq!(host.who(&asker).as_deref(), Some("alice"));
    assert!(tokio::task::block_in_place(|| host.idp.lives(&second)));
    // A thief uses the old one: the provider ends the family, and so do we.
    let stolen = tokio::task::block_in_place(|| host.idp.refresh(&first));
    assert_eq!(stolen["error"], "invalid_grant");
    assert_eq!(host.who(&asker).as_deref(), Some("alice"));
    host.become_due();
    host.logins.tend().await;
    assert_eq!((host.who(&asker), host.kept().len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_no_login_and_a_disabled_user_does() {
    let host = Host::new();
    let (alice, bob) = (host.asker(1000, "1"), host.asker(1001, "2"));
    host.login(&alice, "alice").await;
    host.login(&bob, "bob").await;
    host.idp.people(&json!({ "broken": true }));
    host.become_due();
    let wait = host.logins.tend().await;
    assert!(wait <= Duration::from_secs(5), "{wait:?}");
    assert_eq!(host.who(&alice).as_deref(), Some("alice"));
    host.idp.people(&json!({ "broken": false, "disable": "alice" }));
    host.become_due();
    host.logins.tend().await;
    assert_eq!((host.who(&alice), host.who(&bob).as_deref()), (None, Some("bob")));
    assert_eq!(host.kept().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_and_the_end_of_a_session_revoke_at_the_provider() {
    let host = Host::new();
    let (alice, bob) = (host.asker(1000, "1"), host.asker(1001, "2"));
    host.login(&alice, "alice").await;
    let alices = host.kept().remove(0);
    host.login(&bob, "bob").await;
    let bobs = host.kept().into_iter().find(|token| *token != alices).unwrap();
    assert_eq!(host.who(&alice).as_deref(), Some("alice"));
    assert_eq!(host.who(&bob).as_deref(), Some("bob"));
    host.logins.logout(&alice.key).await.unwrap();
    assert!(!tokio::task::block_in_place(|| host.idp.lives(&alices)));
    assert!(tokio::task::block_in_place(|| host.idp.lives(&bobs)));
    assert_eq!((host.who(&alice), host.who(&bob).as_deref()), (None, Some("bob")));
    assert_eq!(outcome(host.logins.logout(&alice.key).await), "login_none");
    host.populate(1001, "2", false);
    host.logins.tend().await;
    assert!(!tokio::task::block_in_place(|| host.idp.lives(&bobs)));
    assert_eq!((host.who(&bob), host.kept().len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_of_a_user_is_another_login_and_a_newer_login_replaces() {
    let host = Host::new();
    let (one, two) = (host.asker(1000, "1"), host.asker(1000, "2"));
    host.login(&one, "alice").await;
    assert_eq!(host.who(&two), None);
    host.login(&two, "bob").await;
    assert_eq!(host.who(&one).as_deref(), Some("alice"));
    host.logins.logout(&two.key).await.unwrap();
    assert_eq!((host.who(&one).as_deref(), host.who(&two)), (Some("alice"), None));
    let old = host.kept().remove(0);
    host.login(&one, "bob").await;
    assert_eq!((host.who(&one).as_deref(), host.kept().len()), (Some("bob"), 1));
    assert!(!tokio::task::block_in_place(|| host.idp.lives(&old)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_resumes_logins_whose_session_lives() {
    let mut host = Host::new();
    let (alice, bob) = (host.asker(1000, "1"), host.asker(1001, "2"));
    host.login(&alice, "alice").await;
    let alices = host.kept().remove(0);
    host.login(&bob, "bob").await;
    let bobs = host.kept().into_iter().find(|token| *token != alices).unwrap();
    host.populate(1001, "2", false);
    host.restart();
    // Known before the provider answers, for the first connections.
    let (issuers, sessions) = (vec![issuer(&host.idp)], sessions(host.dir.path()));
    let known = kept_people(&host.dir.path().join("state"), &issuers, &sessions).unwrap();
    let known: Vec<_> = known.iter().map(|(key, who, _)| (key.uid, &*who.subject)).collect();
    assert_eq!(known, [(1000, "alice")]);
    assert_eq!(host.who(&alice), None);
    host.logins.tend().await;
    assert_eq!((host.who(&alice).as_deref(), host.who(&bob)), (Some("alice"), None));
    assert_ne!(host.kept(), [alices]);
    assert!(!tokio::task::block_in_place(|| host.idp.lives(&bobs)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_was_taken_back_is_not_refreshed() {
    let host = Host::new();
    let asker = host.asker(1000, "1");
    host.login(&asker, "alice").await;
    let token = host.kept().remove(0);
    assert_eq!(host.registry.revoke("alice"), 1);
    host.become_due();
    host.logins.tend().await;
    assert_eq!((host.who(&asker), host.count("refresh_token")), (None, 0));
    assert!(!tokio::task::block_in_place(|| host.idp.lives(&token)));
    host.login(&asker, "alice").await;
    assert_eq!(host.who(&asker).as_deref(), Some("alice"));
}
