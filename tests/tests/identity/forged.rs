//! Forged, stolen and misdirected tokens: each is refused, and the outcome says why.

use secrecy::SecretString;
use serde_json::{Value, json};
use weir_gateway::clock::Clock as _;
use weir_gateway::error::Faulty as _;
use weir_tests::idp::now_s;

use crate::world::{World, claims};

/// Changes one character in the middle of part `index`.
fn tamper(token: &str, index: usize) -> String {
    let mut parts: Vec<Vec<char>> = token.split('.').map(|part| part.chars().collect()).collect();
    let middle = parts[index].len() / 2;
    let char = &mut parts[index][middle];
    *char = if *char == 'A' { 'B' } else { 'A' };
    let parts: Vec<String> = parts.into_iter().map(String::from_iter).collect();
    parts.join(".")
}

#[tokio::test]
async fn every_forged_token_is_refused_with_its_own_outcome() {
    let world = World::new();
    let issuer = world.issuer("ci", "generic", "algorithms = [\"RS256\", \"PS256\"]");
    let verifier = world.verifier(&issuer);
    let iss = issuer.issuer.clone();
    let now = now_s();
    let good = claims(&iss, &json!({}));
    let forge = |order: Value| world.idp.forge(&order);
    let with = |more: Value| world.idp.sign(&claims(&iss, &more));

    let token = world.idp.sign(&good);
    assert_eq!(world.outcome(&verifier, &token).await, "ok");
    let forged = [
        ("wrong aud", with(json!({"aud": "other"})), "token_audience"),
        ("aud with a stranger", with(json!({"aud": ["weir", "other"]})), "token_shared_audience"),
        ("no aud", with(json!({"aud": null})), "token_claim"),
        ("wrong iss", with(json!({"iss": "https://evil.example"})), "token_issuer"),
        ("iss and a slash", with(json!({"iss": format!("{iss}/")})), "token_issuer"),
        ("another issuer's path", with(json!({"iss": world.idp.ci("other")})), "token_issuer"),
        ("tampered claims", tamper(&token, 1), "token_signature"),
        ("tampered signature", tamper(&token, 2), "token_signature"),
        (
            "alg none",
            forge(json!({"claims": good, "key": "none", "header": {"alg": "none"}})),
            "token_unsigned",
        ),
        (
            "alg none, signed",
            {
                let none = forge(json!({"claims": good, "key": "none", "header": {"alg": "None"}}));
                format!("{none}{}", token.rsplit('.').next().unwrap())
            },
            "token_unsigned",
        ),
        (
            "HS256 with the public key",
            forge(json!({"claims": good, "key": "hmac-public", "header": {"alg": "HS256"}})),
            "token_symmetric",
        ),
        (
            "unknown kid",
            forge(json!({"claims": good, "key": "foreign", "header": {"kid": "x"}})),
            "token_unknown_key",
        ),
        (
            "foreign key under a known kid",
            forge(json!({"claims": good, "key": "foreign"})),
            "token_signature",
        ),
        (
            "foreign key without kid",
            forge(json!({"claims": good, "key": "foreign", "header": {"kid": null}})),
            "token_no_key_id",
        ),
        (
            "right key without kid",
            forge(json!({"claims": good, "header": {"kid": null}})),
            "token_no_key_id",
        ),
        (
            "key in the header",
            forge(json!({"claims": good, "key": "foreign", "header": {"jwk": "own"}})),
            "token_signature",
        ),
        (
            "key in the header, no kid",
            forge(json!({"claims": good, "key": "foreign", "header": {"jwk": "own", "kid": null}})),
            "token_no_key_id",
        ),
        (
            "url of a key in the header",
            forge(
                json!({"claims": good, "key": "foreign", "header": {"jku": world.idp.ci("jku")}}),
            ),
            "token_signature",
        ),
        (
            "PS256 with an RS256 key",
            forge(json!({"claims": good, "header": {"alg": "PS256"}})),
            "token_key_algorithm",
        ),
        (
            "RS512, not allowed",
            forge(json!({"claims": good, "header": {"alg": "RS512"}})),
            "token_algorithm",
        ),
        ("typ at+jwt", forge(json!({"claims": good, "header": {"typ": "at+jwt"}})), "token_type"),
        (
            "expired",
            with(json!({"iat": now - 300, "nbf": now - 300, "exp": now - 120})),
            "token_expired",
        ),
        ("nbf in an hour", with(json!({"nbf": now + 3600})), "token_not_yet_valid"),
        (
            "iat in an hour",
            with(json!({"iat": now + 3600, "exp": now + 3900})),
            "token_issued_in_future",
        ),
        ("azp of another", with(json!({"azp": "other"})), "token_authorized_party"),
        ("lives too long", with(json!({"exp": now + 3700})), "token_lifetime"),
        ("older than its process", with(json!({"iat": now - 200})), "token_stale"),
        ("no exp", with(json!({"exp": null})), "token_claim"),
        ("no iat", with(json!({"iat": null})), "token_claim"),
        ("oversize", with(json!({"padding": "x".repeat(16 * 1024)})), "token_too_large"),
        ("not a token", "eyJhbGciOiJSUzI1NiJ9.x".to_owned(), "token_malformed"),
    ];
    for (name, token, expected) in forged {
        assert_eq!(world.outcome(&verifier, &token).await, expected, "{name}");
    }
    // Nobody was asked for a key that a header named, and the good token is still good.
    assert_eq!(world.idp.asked("jku", "tokens"), 0);
    assert_eq!(world.outcome(&verifier, &token).await, "ok");
}

#[tokio::test]
async fn tolerance_ends_at_the_configured_skew() {
    let world = World::new();
    let issuer = world.issuer("ci", "generic", "clock_skew = \"0s\"");
    let verifier = world.verifier(&issuer);
    let now = world.clock.wall().0 / 1_000_000;
    let sign = |more: Value| world.idp.sign(&claims(&issuer.issuer, &more));
    let expired = sign(json!({"iat": now - 30, "nbf": now - 30, "exp": now - 1}));
    assert_eq!(world.outcome(&verifier, &expired).await, "token_expired");
    let early = sign(json!({"nbf": now + 5}));
    assert_eq!(world.outcome(&verifier, &early).await, "token_not_yet_valid");
}

#[tokio::test]
async fn a_token_and_a_job_belong_to_the_first_process_tree() {
    let world = World::new();
    let issuer = world.issuer("gh", "github", "");
    let verifier = world.verifier(&issuer);
    let job = |attempt: &str, jti: &str| {
        let token = world.idp.sign(&claims(
            &issuer.issuer,
            &json!({
                "repository": "acme/app", "repository_id": "77", "repository_owner": "acme",
                "repository_owner_id": "42", "run_id": "99", "run_attempt": attempt,
                "check_run_id": "4711", "jti": jti,
            }),
        ));
        SecretString::from(token)
    };
    let outcome = async |token: &SecretString, anchor: u64| {
        let verified = verifier.verify(token, &world.anchor(anchor)).await;
        verified.err().map_or("ok", |e| e.outcome())
    };
    let (first, second) = (job("1", "a"), job("1", "b"));
    assert_eq!(outcome(&first, 1).await, "ok");
    assert_eq!(outcome(&first, 1).await, "ok", "the same tree may present it again");
    assert_eq!(outcome(&second, 1).await, "ok", "and a fresh token of its job");
    assert_eq!(outcome(&first, 2).await, "token_second_anchor");
    assert_eq!(outcome(&job("1", "c"), 2).await, "token_second_anchor", "stolen request token");
    assert_eq!(outcome(&job("2", "a"), 2).await, "token_replayed", "same jti in another job");
    assert_eq!(outcome(&job("2", "d"), 2).await, "ok", "the next attempt is another job");
    verifier.anchor_ended(world.anchor(1).id);
    assert_eq!(outcome(&second, 1).await, "token_anchor_ended");
    assert_eq!(outcome(&second, 3).await, "token_second_anchor", "not the next job's either");
}
