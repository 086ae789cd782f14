use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::clock::{FakeClock, WallUs};
use crate::limits::{KEYS_REFRESH, KEYS_RETRY, KEYS_STALE};

fn b64(bytes: usize) -> String {
    URL_SAFE_NO_PAD.encode(vec![0xa5; bytes])
}

fn rsa(kid: &str) -> Value {
    json!({"kty": "RSA", "kid": kid, "n": b64(256), "e": "AQAB", "use": "sig", "alg": "RS256"})
}

fn set(keys: &[Value]) -> Result<KeySet, KeyError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn keys_are_for_their_algorithm_only() {
    let mut any = rsa("any");
    any.as_object_mut().unwrap().remove("alg");
    let all = set(&[
        rsa("rs"),
        any,
        json!({"kty": "EC", "crv": "P-256", "kid": "p256", "x": b64(32), "y": b64(32)}),
        json!({"kty": "EC", "crv": "P-384", "kid": "p384", "x": b64(48), "y": b64(48)}),
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(32), "key_ops": ["verify"]}),
    ])
    .unwrap();
    let found = |kid, algorithm| all.find(kid, algorithm).map(|found| found.is_ok());
    assert_eq!(found("rs", Algorithm::Rs256), Some(true));
    assert_eq!(found("rs", Algorithm::Ps256), Some(false));
    assert_eq!(found("any", Algorithm::Ps256), Some(true));
    assert_eq!(found("any", Algorithm::Es256), Some(false));
    assert_eq!(found("p256", Algorithm::Es256), Some(true));
    assert_eq!(found("p256", Algorithm::Es384), Some(false));
    assert_eq!(found("p384", Algorithm::Es384), Some(true));
    assert_eq!(found("ed", Algorithm::EdDsa), Some(true));
    assert_eq!(found("RS", Algorithm::Rs256), None);
}

#[test]
fn what_is_no_signature_key_is_left_out() {
    let with = |name: &str, value: Value| {
        let mut key = rsa("k");
        key.as_object_mut().unwrap().insert(name.to_owned(), value);
        key
    };
    for key in [
        with("use", json!("enc")),
        with("use", json!(1)),
        with("key_ops", json!(["sign"])),
        with("key_ops", json!("verify")),
        with("alg", json!("HS256")),
        with("alg", json!("none")),
        with("alg", json!("ES256")),
        with("alg", json!(7)),
        with("kid", json!("")),
        with("kid", json!(7)),
        with("kty", json!("oct")),
        with("kty", json!("EC")),
        with("n", json!(b64(128))),
        with("n", json!(b64(1025))),
        with("n", json!("not base64!")),
        with("e", json!("")),
        json!({"kty": "oct", "kid": "k", "k": b64(32), "alg": "HS256"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": b64(31), "y": b64(32)}),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "x": b64(32), "y": b64(32)}),
        json!("key"),
    ] {
        assert!(set(std::slice::from_ref(&key)).is_err(), "{key}");
        assert!(set(&[key, rsa("good")]).is_ok());
    }
    let many: Vec<Value> = (0..=MAX_ISSUER_KEYS).map(|i| rsa(&i.to_string())).collect();
    assert!(set(&many).is_err());
}

#[test]
fn a_key_file_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    assert_eq!(KeySet::load(&path).unwrap_err().outcome(), "issuer_key_file");
    std::fs::write(&path, json!({"keys": [rsa("k")]}).to_string()).unwrap();
    assert!(KeySet::load(&path).is_ok());
    std::fs::write(&path, " ".repeat(MAX_PROVIDER_ANSWER_BYTES + 1)).unwrap();
    assert_eq!(KeySet::load(&path).unwrap_err().outcome(), "issuer_keys");
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(KeySet::parse(&bytes).is_err());
    }
}

/// Answers with what the test put there, and counts.
#[derive(Default)]
struct Shelf {
    keys: Mutex<Option<Vec<Value>>>,
    asked: AtomicUsize,
}

impl KeySource for Shelf {
    fn fetch(&self) -> SetFuture<'_> {
        self.asked.fetch_add(1, Relaxed);
        Box::pin(async {
            tokio::task::yield_now().await;
            let keys = self.keys.lock().unwrap().clone();
            set(&keys.ok_or(KeyError::Metadata("the provider is down"))?)
        })
    }
}

struct World {
    shelf: Arc<Shelf>,
    clock: Arc<FakeClock>,
    keys: Keys,
}

impl World {
    fn new() -> Self {
        let shelf = Arc::<Shelf>::default();
        let clock = Arc::new(FakeClock::at(WallUs(1_800_000_000_000_000)));
        let source: Arc<dyn KeySource> = Arc::<Shelf>::clone(&shelf);
        let keys = Keys::from_source(source, Arc::<FakeClock>::clone(&clock) as _);
        let world = Self { shelf, clock, keys };
        world.publish(&["one"]);
        world
    }

    fn publish(&self, kids: &[&str]) {
        *self.shelf.keys.lock().unwrap() = Some(kids.iter().map(|kid| rsa(kid)).collect());
    }

    fn down(&self) {
        *self.shelf.keys.lock().unwrap() = None;
    }

    async fn outcome(&self, kid: &str) -> &'static str {
        let found = self.keys.key(kid, Algorithm::Rs256).await;
        found.err().map_or("ok", |e| e.outcome())
    }

    fn asked(&self) -> usize {
        self.shelf.asked.load(Relaxed)
    }
}

#[tokio::test]
async fn a_storm_of_unknown_keys_asks_once() {
    let world = Arc::new(World::new());
    let mut storm = tokio::task::JoinSet::new();
    for i in 0..200 {
        let world = Arc::clone(&world);
        let kid = if i % 2 == 0 { "one".to_owned() } else { format!("wrong{i}") };
        storm.spawn(async move { (i % 2 == 0, world.outcome(&kid).await) });
    }
    while let Some(done) = storm.join_next().await {
        let (good, outcome) = done.unwrap();
        assert_eq!(outcome, if good { "ok" } else { "token_unknown_key" });
    }
    assert_eq!(world.asked(), 1);
    world.clock.elapse(KEYS_RETRY);
    assert_eq!(world.outcome("wrong").await, "token_unknown_key");
    assert_eq!(world.outcome("wronger").await, "token_unknown_key");
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_goes() {
    let world = World::new();
    assert_eq!(world.outcome("one").await, "ok");
    world.publish(&["two", "one"]);
    assert_eq!(world.outcome("two").await, "token_unknown_key", "too early to ask again");
    world.clock.elapse(KEYS_RETRY);
    assert_eq!(world.outcome("two").await, "ok");
    assert_eq!(world.outcome("one").await, "ok");
    world.publish(&["two"]);
    world.clock.elapse(KEYS_REFRESH);
    world.keys.refresh_if_due().await.unwrap();
    assert_eq!(world.outcome("one").await, "token_unknown_key");
    assert_eq!(world.outcome("two").await, "ok");
}

#[tokio::test]
async fn a_withdrawn_key_goes_even_if_nobody_refreshes() {
    let world = World::new();
    assert_eq!(world.outcome("one").await, "ok");
    world.publish(&["two"]);
    world.clock.elapse(KEYS_REFRESH * 2 - Duration::from_secs(60));
    assert_eq!((world.outcome("one").await, world.asked()), ("ok", 1));
    world.clock.elapse(Duration::from_secs(60));
    assert_eq!((world.outcome("one").await, world.asked()), ("token_unknown_key", 2));
    assert_eq!(world.outcome("two").await, "ok");
}

#[tokio::test]
async fn old_keys_serve_for_a_day_and_no_longer() {
    let world = World::new();
    assert_eq!(world.outcome("one").await, "ok");
    world.down();
    world.clock.elapse(KEYS_STALE - Duration::from_secs(60));
    assert_eq!(world.keys.refresh_if_due().await.unwrap_err().outcome(), "issuer_metadata");
    assert_eq!(world.outcome("one").await, "ok");
    assert_eq!(world.outcome("two").await, "token_unknown_key");
    world.clock.elapse(Duration::from_secs(60));
    assert_eq!(world.outcome("one").await, "issuer_metadata");
    assert_eq!(world.outcome("one").await, "issuer_keys_unavailable", "too early to ask again");
    world.publish(&["one"]);
    world.clock.elapse(KEYS_RETRY);
    assert_eq!(world.outcome("one").await, "ok");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_neither_ages_nor_renews_keys() {
    let world = World::new();
    assert_eq!(world.outcome("one").await, "ok");
    world.clock.advance(KEYS_STALE * 2);
    world.down();
    assert_eq!(world.outcome("one").await, "ok");
}

#[tokio::test]
async fn fixed_keys_never_change_and_never_age() {
    let clock = Arc::new(FakeClock::at(WallUs(0)));
    let keys = Keys::fixed(set(&[rsa("one")]).unwrap(), Arc::<FakeClock>::clone(&clock) as _);
    clock.elapse(KEYS_STALE * 2);
    assert!(keys.key("one", Algorithm::Rs256).await.is_ok());
    let error = keys.key("two", Algorithm::Rs256).await.unwrap_err();
    assert_eq!(error.outcome(), "token_unknown_key");
    keys.refresh_if_due().await.unwrap();
}
