use super::*;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::error::Faulty as _;
use crate::identify::standing::Standing;
use crate::inspect::mask::MASK;
use crate::limits::MAX_FINDINGS;
use http::{HeaderMap, HeaderValue, Uri};
use uuid::Uuid;
use weir_inspect::rule::{Confidence, Tier};

const MODEL: &str = "api.openai.com";
const SECRET: &[u8] = b"tst_a1b2c3d4e5f6a7b8c9d0";

struct World {
    _dir: tempfile::TempDir,
    inspection: Arc<Inspection>,
}

fn world(more: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("value"), "a-registered-value-1\n").unwrap();
    let more = more.replace("DIR", &dir.path().display().to_string());
    let text = format!("[inspect]\nstate_dir = {:?}\n{more}", dir.path());
    let config = Config::parse(&text).unwrap().inspect;
    let inspection = Inspection::load(&config, Arc::new(SystemClock)).unwrap();
    World { _dir: dir, inspection: Arc::new(inspection) }
}

impl World {
    fn scope(&self, n: u128) -> Arc<Scope> {
        self.inspection.scope(Uuid::from_u128(n), &Standing::unidentified())
    }

    fn look(&self, scope: &Arc<Scope>, host: &str) -> Looking {
        self.inspection.look(scope, host)
    }
}

/// Asks a judge about a secret that a rule of github.com found, or about a known value.
fn ask(judge: &mut impl Judge, value: &[u8], known: Option<u32>, at: &str) -> Verdict {
    let mut location = Location::default();
    location.enter(at);
    judge.judge(&Found {
        rule: &"test-rule".into(),
        tier: Tier::Prefixed,
        confidence: Confidence::High,
        known,
        hosts: &["github.com".to_owned()],
        value,
        at: &location,
    })
}

fn text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Replace(bytes) => String::from_utf8(bytes).unwrap(),
        Verdict::Keep | Verdict::Refuse => panic!("{verdict:?}"),
    }
}

fn number(side: &Side, value: &[u8]) -> Option<u32> {
    side.known().find(value, 0).map(|(_, number)| number)
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static(name),
        HeaderValue::from_str(value).unwrap(),
    )])
}

fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

#[test]
fn a_model_gets_a_placeholder_and_the_same_job_gets_its_secret_back() {
    let world = world("");
    let scope = world.scope(1);
    let looking = world.look(&scope, MODEL);
    assert_eq!((looking.request().plan(), looking.response().plan()), (Plan::Output, Plan::Output));
    let placeholder = text(ask(&mut looking.request().judge(), SECRET, None, "body"));
    assert!(placeholder.contains("WEIR") && !placeholder.contains("a1b2"), "{placeholder}");
    // Deterministic, so that a provider's prompt cache works.
    let again = world.look(&world.scope(1), MODEL);
    assert_eq!(text(ask(&mut again.request().judge(), SECRET, None, "body")), placeholder);
    let restorer = looking.response().restorer().unwrap();
    let (_, known) = restorer.known().find(placeholder.as_bytes(), 0).unwrap();
    let mut restorer = restorer;
    let back = ask(&mut restorer, placeholder.as_bytes(), Some(known), "body");
    assert_eq!(back, Verdict::Replace(SECRET.to_vec()));
    // Neither in requests nor for another job.
    assert!(looking.request().restorer().is_none());
    assert!(world.look(&world.scope(2), MODEL).response().restorer().is_none());
    let other = world.look(&world.scope(2), MODEL);
    assert_ne!(text(ask(&mut other.request().judge(), SECRET, None, "body")), placeholder);
}

#[test]
fn a_placeholder_is_not_masked_again() {
    let world = world("");
    let looking = world.look(&world.scope(1), MODEL);
    let placeholder = text(ask(&mut looking.request().judge(), SECRET, None, "body"));
    let verdict = ask(&mut looking.response().judge(), placeholder.as_bytes(), None, "body");
    assert_eq!(verdict, Verdict::Keep);
    assert_eq!(looking.findings().take().count, 1);
}

#[test]
fn a_secret_that_a_model_has_the_placeholder_of_goes_to_its_own_hosts_only() {
    let world = world("");
    let scope = world.scope(1);
    let model = world.look(&scope, MODEL);
    text(ask(&mut model.request().judge(), SECRET, None, "body"));
    let send = |host: &str, at: &str| {
        let looking = world.look(&scope, host);
        let side = looking.request();
        assert_eq!(side.plan(), Plan::Held);
        let verdict = ask(&mut side.guard(), SECRET, number(&side, SECRET), at);
        (verdict, side.is_refused())
    };
    assert_eq!(send("evil.example", "token"), (Verdict::Refuse, true));
    assert_eq!(send("github.com", "body"), (Verdict::Keep, false));
    // In a head, too, also as a credential, also encoded.
    let looking = world.look(&scope, "evil.example");
    let secret = String::from_utf8(SECRET.to_vec()).unwrap();
    for (head, target) in [
        (headers("authorization", &format!("Bearer {secret}")), "/"),
        (headers("authorization", "Basic bWU6dHN0X2ExYjJjM2Q0ZTVmNmE3YjhjOWQw"), "/"),
        (headers("x-plain", &secret), "/"),
        (HeaderMap::new(), "/?q=tst%5fa1b2c3d4e5f6a7b8c9d0"),
        (HeaderMap::new(), "/tst_a1b2c3d4e5f6a7b8c9d0"),
    ] {
        let refused = looking.request_head(&head, &uri(target)).unwrap_err();
        assert_eq!((refused.rule(), refused.outcome()), ("inspect.secret", "secret_refused"));
        assert!(!refused.to_string().contains("a1b2"), "{refused}");
    }
    let own = world.look(&scope, "github.com");
    own.request_head(&headers("authorization", &format!("Bearer {secret}")), &uri("/")).unwrap();
}

#[test]
fn a_value_of_the_environment_goes_where_it_is_a_credential() {
    let world = world("");
    let scope = world.scope(1);
    let value = "q9W8e7R6t5Z4u3I2o1P0";
    world.inspection.learn(&scope, format!("DEPLOY_TOKEN={value}\0").as_bytes());
    let looking = world.look(&scope, "api.example");
    let refused = looking.request_head(&headers("x-note", value), &uri("/")).unwrap_err();
    assert_eq!(refused.to_string(), "it carries a secret (env:DEPLOY_TOKEN)");
    let bearer = headers("authorization", &format!("Bearer {value}"));
    looking.request_head(&bearer, &uri("/")).unwrap();
    // From then on anywhere in a message to that host.
    looking.request_head(&headers("x-note", value), &uri("/")).unwrap();
    let evil = world.look(&scope, "evil.example");
    let side = evil.request();
    let verdict = ask(&mut side.guard(), value.as_bytes(), number(&side, value.as_bytes()), "body");
    assert_eq!(verdict, Verdict::Refuse);
    // Once a model has its placeholder, no host is added any more.
    let model = world.look(&scope, MODEL).request();
    text(ask(&mut model.judge(), value.as_bytes(), number(&model, value.as_bytes()), "body"));
    assert!(world.look(&scope, "evil.example").request_head(&bearer, &uri("/")).is_err());
    world.look(&scope, "api.example").request_head(&bearer, &uri("/")).unwrap();
}

#[test]
fn a_registered_value_goes_to_its_hosts() {
    let known = "[[inspect.known]]\nname = \"deploy\"\nfile = \"DIR/value\"\n\
                 hosts = [\"*.example.com\"]\n";
    let world = world(known);
    let scope = world.scope(1);
    let value = b"a-registered-value-1";
    let ask = |host: &str| {
        let side = world.look(&scope, host).request();
        ask(&mut side.guard(), value, number(&side, value), "token")
    };
    assert_eq!(ask("api.example.com"), Verdict::Keep);
    assert_eq!(ask("example.org"), Verdict::Refuse);
    let world = self::world(&format!("egress = \"record\"\n{known}"));
    let side = world.look(&world.scope(1), "example.org").request();
    assert_eq!(side.plan(), Plan::Original);
    let recorded = text(self::ask(&mut side.judge(), value, number(&side, value), "body"));
    assert_eq!(recorded, "[masked:deploy]");
}

#[test]
fn what_is_found_is_told_without_the_secret() {
    let world = world("");
    let looking = world.look(&world.scope(1), "example.org");
    let replaced = text(ask(&mut looking.request().judge(), SECRET, None, "body"));
    assert_eq!(replaced, "[masked:test-rule]");
    let found = looking.findings().take();
    assert_eq!((found.count, found.action), (1, Some(Action::Kept)));
    let one = &found.all[0];
    assert_eq!((&*one.rule, one.length, &*one.location), ("test-rule", SECRET.len(), "body"));
    assert!(!format!("{one:?}").contains("a1b2"), "{one:?}");
    let learnt = world.scope(1);
    world.inspection.learn(&learnt, b"DEPLOY_TOKEN=q9W8e7R6t5Z4u3I2o1P0\0");
    ask(&mut looking.request().judge(), SECRET, None, "$.q9W8e7R6t5Z4u3I2o1P0.x");
    assert_eq!(looking.findings().take().all[0].location, "$.[masked].x");
    for _ in 0..MAX_FINDINGS + 10 {
        ask(&mut looking.request().judge(), SECRET, None, "body");
    }
    let found = looking.findings().take();
    assert_eq!((found.all.len(), found.count as usize), (MAX_FINDINGS, MAX_FINDINGS + 10));
}

#[test]
fn many_new_secrets_are_redacted_not_passed() {
    let world = world("");
    let looking = world.look(&world.scope(1), MODEL);
    let mut judge = looking.request().judge();
    let all: Vec<String> = (0..400)
        .map(|n| text(ask(&mut judge, format!("tst_{n:020}").as_bytes(), None, "body")))
        .collect();
    assert!(all.first().unwrap().contains("WEIR"));
    assert_eq!(all.last().unwrap(), "[masked:test-rule]");
    assert_eq!(looking.findings().take().action, Some(Action::Redacted));
}

#[test]
fn a_route_that_blocks_refuses() {
    let route = "[[inspect.route]]\nhosts = [\"example.org\"]\nrequests = \"block\"\n";
    let world = world(route);
    let side = world.look(&world.scope(1), "example.org").request();
    assert_eq!(side.plan(), Plan::Held);
    assert_eq!(ask(&mut side.judge(), SECRET, None, "body"), Verdict::Refuse);
    assert_eq!(side.refused(), Refused::Secret("test-rule".into()));
    assert!(side.unreadable("unknown encoding").is_err());
    // Heads, too: also with the name of a parameter, and a credential of another host.
    let token = concat!("ghp", "_aZ3kQ9xW7mN1vB5tY8rL2pD6sF4gH0jKcUeo");
    let bearer = headers("authorization", &format!("Bearer {token}"));
    let named = uri(&format!("/?{token}=1"));
    for (head, target) in [(&bearer, &uri("/")), (&HeaderMap::new(), &named)] {
        let looking = world.look(&world.scope(1), "example.org");
        assert_eq!(looking.request_head(head, target).unwrap_err().rule(), "inspect.secret");
    }
    let own = world.look(&world.scope(1), "api.github.com");
    own.request_head(&bearer, &uri("/")).unwrap();
}

#[test]
fn a_key_in_the_query_of_its_own_host_stays() {
    let world = world("");
    let key = concat!("AIza", "SyD9qk3vXw7LpT2mZr8YbNc5HsJfGe4uRao");
    let asked = |host: &str, target: &str| {
        let request = http::Request::builder().uri(target).body(()).unwrap();
        let mut head = request.into_parts().0;
        let side = world.look(&world.scope(1), host).request();
        assert_eq!(side.plan(), Plan::Output);
        crate::inspect::rewrite::request(&side, &mut head).unwrap();
        head.uri.to_string()
    };
    let gemini = "generativelanguage.googleapis.com";
    let target = format!("/v1beta/models?key={key}");
    assert_eq!(asked(gemini, &target), target);
    assert!(!asked(MODEL, &target).contains(key), "another host's");
    assert!(!asked(gemini, &format!("/v1beta/models?q={key}")).contains(key), "no credential");
}

#[test]
fn heads_are_recorded_without_known_values() {
    let world = world("");
    let scope = world.scope(1);
    world.inspection.learn(&scope, b"DEPLOY_TOKEN=q9W8e7R6t5Z4u3I2o1P0\0");
    let lens = world.inspection.lens(&scope);
    let path = mask::path(&lens, "/a/q9W8e7R6t5Z4u3I2o1P0/b").into_inner();
    assert_eq!(path, format!("/a/{MASK}/b"));
}
