//! Keys: rotation, outages, storms, and providers that misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weir_gateway::config::identity::Issuer;
use weir_gateway::error::Faulty as _;
use weir_gateway::identify::oidc::verify::Verifier;
use weir_gateway::limits::{KEYS_REFRESH, KEYS_RETRY, KEYS_STALE};
use weir_tests::ca::{Flaw, TestCa};

use crate::world::{World, claims};

#[tokio::test]
async fn rotation_is_followed_with_and_without_the_old_key() {
    let world = World::new();
    let issuer = world.issuer("ci", "generic", "max_age_at_start = \"1h\"");
    let verifier = world.verifier(&issuer);
    let sign = || {
        let exp = weir_tests::idp::now_s() + 3600;
        world.idp.sign(&claims(&issuer.issuer, &json!({ "exp": exp })))
    };
    let with_first = sign();
    assert_eq!(world.outcome(&verifier, &with_first).await, "ok");

    assert_eq!(world.idp.rotate(true).len(), 2);
    let with_second = sign();
    assert_eq!(world.outcome(&verifier, &with_second).await, "token_unknown_key", "asked just now");
    world.clock.elapse(KEYS_RETRY);
    assert_eq!(world.outcome(&verifier, &with_second).await, "ok");
    assert_eq!(world.outcome(&verifier, &with_first).await, "ok", "still published");

    assert_eq!(world.idp.rotate(false).len(), 1);
    world.clock.elapse(KEYS_REFRESH);
    verifier.refresh_keys().await;
    assert_eq!(world.outcome(&verifier, &with_first).await, "token_unknown_key");
    assert_eq!(world.outcome(&verifier, &with_second).await, "token_unknown_key");
    assert_eq!(world.outcome(&verifier, &sign()).await, "ok");
    assert_eq!(world.idp.asked("ci", "keys"), 3);
}

#[tokio::test]
async fn an_outage_is_bridged_for_a_day_and_extends_no_token() {
    let world = World::new();
    let issuer = world.issuer("ci", "generic", "max_lifetime = \"7d\"\nmax_age_at_start = \"24h\"");
    let verifier = world.verifier(&issuer);
    let now = weir_tests::idp::now_s();
    let long = world.idp.sign(&claims(&issuer.issuer, &json!({"exp": now + 3 * 86_400})));
    let short = world.idp.sign(&claims(&issuer.issuer, &json!({})));
    assert_eq!(world.outcome(&verifier, &short).await, "ok");
    world.idp.behave("ci", "down");
    world.clock.elapse(KEYS_STALE - Duration::from_secs(60));
    verifier.refresh_keys().await;
    assert_eq!(world.idp.asked("ci", "metadata"), 2, "it was asked, in vain");
    assert_eq!(world.outcome(&verifier, &long).await, "ok");
    assert_eq!(world.outcome(&verifier, &short).await, "token_expired");
    world.clock.elapse(Duration::from_secs(60));
    assert_eq!(world.outcome(&verifier, &long).await, "provider_http");
    assert_eq!(world.outcome(&verifier, &long).await, "issuer_keys_unavailable");
    world.idp.behave("ci", "good");
    world.clock.elapse(KEYS_RETRY);
    assert_eq!(world.outcome(&verifier, &long).await, "ok");
    assert_eq!(world.idp.asked("ci", "keys"), 2);
}

#[tokio::test]
async fn a_storm_of_unknown_keys_asks_the_provider_once() {
    let world = Arc::new(World::new());
    let issuer = world.issuer("ci", "generic", "");
    let verifier = Arc::new(world.verifier(&issuer));
    let good = claims(&issuer.issuer, &json!({}));
    assert_eq!(world.outcome(&verifier, &world.idp.sign(&good)).await, "ok");
    world.clock.elapse(KEYS_RETRY);
    let storm: Vec<String> = (0..50)
        .map(|i| {
            let header = json!({"kid": format!("unknown-{i}")});
            world.idp.forge(&json!({"claims": good, "key": "foreign", "header": header}))
        })
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for token in storm {
        let (world, verifier) = (Arc::clone(&world), Arc::clone(&verifier));
        tasks.spawn(async move { world.outcome(&verifier, &token).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        assert_eq!(outcome.unwrap(), "token_unknown_key");
    }
    assert_eq!((world.idp.asked("ci", "metadata"), world.idp.asked("ci", "keys")), (2, 2));
}

#[tokio::test]
async fn a_provider_that_misbehaves_is_not_believed() {
    let mut world = World::new();
    for (mode, expected) in [
        ("other-issuer", "issuer_other_metadata"),
        ("redirect-metadata", "provider_redirect"),
        ("redirect-keys", "provider_redirect"),
        ("huge", "provider_too_large"),
        ("plain-keys", "issuer_metadata"),
        ("error", "provider_status"),
        ("down", "provider_http"),
    ] {
        world.reset_clock();
        let issuer = world.issuer(mode, "generic", "");
        world.idp.behave(mode, mode);
        let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
        let verifier = world.verifier(&issuer);
        assert_eq!(world.outcome(&verifier, &token).await, expected, "{mode}");
        assert_eq!(world.outcome(&verifier, &token).await, "issuer_keys_unavailable", "{mode}");
        world.idp.behave(mode, "good");
        world.clock.elapse(KEYS_RETRY);
        assert_eq!(world.outcome(&verifier, &token).await, "ok", "{mode}");
    }
    assert_eq!(world.idp.asked("elsewhere", "keys"), 0, "no redirect was followed");
}

#[tokio::test]
async fn a_silent_provider_is_given_up_and_a_listener_without_tls_is_none() {
    let world = World::new();
    let issuer = world.issuer("ci", "generic", "");
    world.idp.behave("ci", "silent");
    let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
    assert_eq!(world.outcome(&world.verifier(&issuer), &token).await, "provider_timeout");

    let url = world.idp.issuer().replace("http://", "https://");
    let issuer = world.issuer("tls", "generic", &format!("jwks_url = \"{url}/jwks\""));
    let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
    assert_eq!(world.outcome(&world.verifier(&issuer), &token).await, "provider_connect");
}

#[tokio::test]
async fn keys_may_be_elsewhere_or_in_a_file() {
    let world = World::new();
    let url = format!("jwks_url = \"{}/jwks\"", world.idp.issuer());
    let issuer = world.issuer("ci", "generic", &url);
    let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
    assert_eq!(world.outcome(&world.verifier(&issuer), &token).await, "ok");
    assert_eq!(world.idp.asked("ci", "metadata"), 0);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, world.idp.keys()).unwrap();
    let file = format!("jwks_file = {path:?}");
    let issuer = world.issuer("offline", "generic", &file);
    let verifier = world.verifier(&issuer);
    std::fs::remove_file(&path).unwrap();
    let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
    assert_eq!(world.outcome(&verifier, &token).await, "ok");
    assert_eq!(
        (world.idp.asked("offline", "metadata"), world.idp.asked("offline", "keys")),
        (0, 0)
    );
    let error =
        Verifier::start(&[Issuer::clone(&issuer)], &world.fetcher, &(world.clock.clone() as _));
    assert_eq!(error.unwrap_err().outcome(), "issuer_key_file");
}

/// Answers every HTTPS request with these keys.
async fn tls_keys(ca: &TestCa, flaw: Flaw, keys: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(ca.server_config(&["127.0.0.1"], flaw, &["http/1.1"]));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that refuses the certificate is what some tests want.
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 2048];
            let Ok(1..) = stream.read(&mut head).await else { continue };
            let length = keys.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{keys}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn keys_come_over_tls_that_verifies() {
    let ca = TestCa::new("weir test: providers");
    let world = World::with_roots(ca.roots());
    for (flaw, expected) in [
        (Flaw::None, "ok"),
        (Flaw::WrongName, "provider_connect"),
        (Flaw::Expired, "provider_connect"),
        (Flaw::UnknownCa, "provider_connect"),
    ] {
        let addr = tls_keys(&ca, flaw, world.idp.keys()).await;
        let url = format!("jwks_url = \"https://{addr}/jwks\"");
        let issuer = world.issuer("tls", "generic", &url);
        let token = world.idp.sign(&claims(&issuer.issuer, &json!({})));
        assert_eq!(world.outcome(&world.verifier(&issuer), &token).await, expected, "{flaw:?}");
    }
}
