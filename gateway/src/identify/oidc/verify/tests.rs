use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::capture::ProcessKey;
use crate::clock::FakeClock;
use crate::config::Config;
use crate::error::Faulty as _;
use crate::identify::jwks::KeySet;

const NOW_S: i64 = 1_800_000_000;

static PAIR: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());

fn sign(header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
    let signature = PAIR.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", B64.encode(signature))
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k", "typ": "JWT"})
}

fn claims(more: Value) -> Value {
    let mut all = json!({
        "iss": "https://idp.example", "aud": "weir", "sub": "alice", "iat": NOW_S, "exp": NOW_S + 300,
    });
    let more = more.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(more);
    all
}

fn verifier(kind: &str, more: &str) -> Verifier {
    let text = format!(
        "[[identity.issuer]]\nname = \"idp\"\nissuer = \"https://idp.example\"\nkind = \"{kind}\"\n\
         audience = \"weir\"\nalgorithms = [\"ES256\", \"EdDSA\"]\n{more}"
    );
    let mut config = Config::parse(&text).unwrap();
    let point = PAIR.public_key().as_ref();
    let jwk = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "k",
        "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]),
    }]});
    let clock: SharedClock = Arc::new(FakeClock::at(WallUs(NOW_S * 1_000_000)));
    let keys = KeySet::parse(jwk.to_string().as_bytes()).unwrap();
    let keys = Keys::fixed(keys, Arc::clone(&clock));
    Verifier::new(vec![(Arc::new(config.identity.issuers.remove(0)), keys)], clock)
}

fn anchor(id: u64) -> Anchor {
    let id = AnchorId { id, process: ProcessKey { tgid: 1, start_time_ns: id } };
    Anchor { id, started: WallUs((NOW_S - 5) * 1_000_000) }
}

/// Polls once: with fixed keys nothing waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

fn outcome(verifier: &Verifier, token: &str) -> &'static str {
    let verified = now(verifier.verify(&SecretString::from(token), &anchor(1)));
    verified.err().map_or("ok", |e| e.outcome())
}

#[test]
fn a_good_token_says_who_it_is() {
    let verifier = verifier("people", "");
    let token = sign(&header(), &claims(json!({"name": "Alice", "groups": ["eng"], "jti": "1"})));
    let verified = now(verifier.verify(&SecretString::from(token), &anchor(1))).unwrap();
    assert_eq!(
        (verified.subject(), verified.audience(), verified.kind()),
        ("alice", "weir", Kind::People)
    );
    assert_eq!((verified.jti(), verified.expires_at().0), (Some("1"), (NOW_S + 300) * 1_000_000));
    let identity = verified.identity();
    assert_eq!((identity.display.as_str(), identity.method), ("Alice", "person_oidc"));
    assert_eq!(identity.groups, ["eng"]);
    assert!(verified.claims().claim("groups").unwrap().has("eng"));
}

#[test]
fn headers_are_refused_before_any_key_is_looked_for() {
    let verifier = verifier("generic", "");
    for (change, expected) in [
        (json!({"alg": null}), "token_malformed"),
        (json!({"alg": "none"}), "token_unsigned"),
        (json!({"alg": "nOnE"}), "token_unsigned"),
        (json!({"alg": "HS256"}), "token_symmetric"),
        (json!({"alg": "RS256"}), "token_algorithm"),
        (json!({"alg": "es256"}), "token_algorithm"),
        (json!({"alg": "EdDSA"}), "token_key_algorithm"),
        (json!({"typ": "at+jwt"}), "token_type"),
        (json!({"typ": "jwt"}), "ok"),
        (json!({"crit": ["exp"]}), "token_critical"),
        (json!({"kid": "other"}), "token_unknown_key"),
        (json!({"kid": ""}), "token_no_key_id"),
    ] {
        let mut header = header();
        header.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let token = sign(&header, &claims(json!({})));
        assert_eq!(outcome(&verifier, &token), expected, "{change}");
    }
}

#[test]
fn issuers_are_compared_byte_for_byte() {
    let verifier = verifier("generic", "");
    for iss in ["https://idp.example/", "https://IDP.example", "https://idp.example:443", "", "x"] {
        let token = sign(&header(), &claims(json!({ "iss": iss })));
        assert_eq!(outcome(&verifier, &token), "token_issuer", "{iss}");
    }
    for iss in [json!(["https://idp.example"]), json!(null), json!(1)] {
        let token = sign(&header(), &claims(json!({ "iss": iss })));
        assert_eq!(outcome(&verifier, &token), "token_claim", "{iss}");
    }
}

#[test]
fn required_claims_are_exact() {
    let verifier = verifier("generic", "claims = { team = [\"a\", \"b\"], \"pod.uid\" = \"7\" }\n");
    for (more, expected) in [
        (json!({"team": "a", "pod": {"uid": 7}}), "ok"),
        (json!({"team": ["x", "b"], "pod": {"uid": "7"}}), "ok"),
        (json!({"team": "ab", "pod": {"uid": "7"}}), "token_required_claim"),
        (json!({"team": "A", "pod": {"uid": "7"}}), "token_required_claim"),
        (json!({"team": "a"}), "token_required_claim"),
    ] {
        let token = sign(&header(), &claims(more.clone()));
        assert_eq!(outcome(&verifier, &token), expected, "{more}");
    }
}

#[test]
fn too_long_names_are_refused_and_not_cut() {
    let verifier = verifier("people", "");
    let token = sign(&header(), &claims(json!({"name": "x".repeat(1025)})));
    assert_eq!(outcome(&verifier, &token), "token_claim_too_long");
    let token = sign(&header(), &claims(json!({"groups": vec!["g"; 513]})));
    assert_eq!(outcome(&verifier, &token), "token_claim_too_long");
}

#[test]
fn a_refused_token_binds_nothing_and_errors_tell_nothing_of_it() {
    let verifier = verifier("generic", "");
    let token = sign(&header(), &claims(json!({"aud": "planted", "jti": "planted"})));
    let error = now(verifier.verify(&SecretString::from(token.as_str()), &anchor(1))).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("planted"));
    let good = sign(&header(), &claims(json!({"jti": "planted"})));
    assert!(now(verifier.verify(&SecretString::from(good), &anchor(2))).is_ok());
    let secret = SecretString::from(token.as_str());
    assert!(!format!("{secret:?}").contains(&token));
}

#[test]
fn the_second_anchor_is_told_from_the_first() {
    let verifier = verifier("generic", "");
    let token = SecretString::from(sign(&header(), &claims(json!({}))));
    assert!(now(verifier.verify(&token, &anchor(1))).is_ok());
    assert!(now(verifier.verify(&token, &anchor(1))).is_ok());
    let error = now(verifier.verify(&token, &anchor(2))).unwrap_err();
    assert_eq!(error.outcome(), "token_replayed");
    verifier.anchor_ended(anchor(1).id);
    let error = now(verifier.verify(&token, &anchor(1))).unwrap_err();
    assert_eq!(error.outcome(), "token_anchor_ended");
}

#[test]
fn keys_that_never_change_need_no_refresh() {
    assert!(now(verifier("generic", "").refresh_keys()) > Duration::from_secs(30));
}

mod spiffe;

proptest! {
    #[test]
    fn any_text_is_refused(text in ".*") {
        prop_assert_ne!(outcome(&verifier("generic", ""), &text), "ok");
    }

    #[test]
    fn any_parts_are_refused(
        header in proptest::collection::vec(any::<u8>(), 0..60),
        claims in proptest::collection::vec(any::<u8>(), 0..60),
        signature in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let token = [header, claims, signature].map(|part| B64.encode(part)).join(".");
        prop_assert_ne!(outcome(&verifier("generic", ""), &token), "ok");
    }

    #[test]
    fn any_signature_of_good_claims_is_refused(
        signature in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let token = sign(&header(), &claims(json!({})));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", B64.encode(signature));
        prop_assert_eq!(outcome(&verifier("generic", ""), &forged), "token_signature");
    }

    /// Whatever bit of a good token changes, it is refused.
    #[test]
    fn any_change_of_a_good_token_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let token = sign(&header(), &claims(json!({})));
        let mut changed = token.clone();
        let at = at.index(token.len());
        changed.replace_range(at..=at, &to);
        if changed != token {
            prop_assert_ne!(outcome(&verifier("generic", ""), &changed), "ok");
        }
    }
}
