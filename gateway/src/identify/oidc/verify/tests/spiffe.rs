//! JWT-SVIDs of a trust domain, by its bundle in a file.

use super::*;
use crate::limits::KEYS_RETRY;

struct World {
    clock: Arc<FakeClock>,
    bundle: std::path::PathBuf,
    verifier: Verifier,
    _dir: tempfile::TempDir,
}

/// A bundle with the key under this name, beside one of certificates.
fn bundle(kid: &str) -> String {
    let point = PAIR.public_key().as_ref();
    let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..]));
    let key = |usage: &str, kid: &str| json!({"kty": "EC", "crv": "P-256", "use": usage, "kid": kid, "x": x, "y": y});
    let keys = [key("x509-svid", "certificates"), key("jwt-svid", kid)];
    json!({"spiffe_sequence": 1, "spiffe_refresh_hint": 300, "keys": keys}).to_string()
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle.json");
    std::fs::write(&path, bundle("k")).unwrap();
    let text = format!(
        "[[identity.issuer]]\nname = \"mesh\"\nissuer = \"spiffe://mesh.example\"\nkind = \"spiffe\"\n\
         audience = \"weir\"\njwks_file = \"{}\"\n\
         [[identity.issuer]]\nname = \"idp\"\nissuer = \"https://idp.example\"\nkind = \"generic\"\n\
         audience = \"weir\"\njwks_file = \"{}\"\n",
        path.display(),
        path.display()
    );
    let issuers = Config::parse(&text).unwrap().identity.issuers;
    let clock = Arc::new(FakeClock::at(WallUs(NOW_S * 1_000_000)));
    let fetcher = Arc::new(Fetcher::new(rustls::RootCertStore::empty()).unwrap());
    let own: Arc<FakeClock> = Arc::clone(&clock);
    let verifier = Verifier::start(&issuers, &fetcher, &(own as _)).unwrap();
    World { clock, bundle: path, verifier, _dir: dir }
}

/// The claims of a JWT-SVID, which has no `iss`; `null` removes one.
fn svid(more: &Value) -> Value {
    let mut all = json!({
        "sub": "spiffe://mesh.example/ns/ci/sa/builder", "aud": ["weir"], "iat": NOW_S,
        "exp": NOW_S + 300,
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => all.as_object_mut().unwrap().remove(name),
            value => all.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    all
}

#[test]
fn an_svid_of_the_trust_domain_is_believed() {
    let world = world();
    let token = sign(&json!({"alg": "ES256", "kid": "k", "typ": "JOSE"}), &svid(&json!({})));
    let verified = now(world.verifier.verify(&SecretString::from(token.as_str()), &anchor(1)));
    let verified = verified.unwrap();
    let identity = verified.identity();
    assert_eq!((identity.method, identity.issuer.as_str()), ("spiffe_jwt", "mesh"));
    assert_eq!(identity.subject, "spiffe://mesh.example/ns/ci/sa/builder");
    assert_eq!(identity.display, identity.subject);
    let stolen = now(world.verifier.verify(&SecretString::from(token), &anchor(2)));
    assert_eq!(stolen.unwrap_err().outcome(), "token_replayed");
}

#[test]
fn every_other_svid_is_refused() {
    let world = world();
    let stranger = json!({"sub": "spiffe://other.example/x"});
    for (more, expected) in [
        (json!({"iss": "https://spire.mesh.example"}), "ok"),
        (json!({"iss": "spiffe://mesh.example"}), "ok"),
        (stranger.clone(), "token_claim"),
        (
            json!({"sub": "spiffe://other.example/x", "iss": "spiffe://mesh.example"}),
            "token_spiffe_id",
        ),
        (json!({"sub": "builder", "iss": "spiffe://mesh.example"}), "token_spiffe_id"),
        (
            json!({"sub": "spiffe://mesh.example", "iss": "spiffe://mesh.example"}),
            "token_spiffe_id",
        ),
        (
            json!({"sub": "spiffe://mesh.example/../x", "iss": "spiffe://mesh.example"}),
            "token_spiffe_id",
        ),
        (json!({"sub": null}), "token_claim"),
        (json!({"aud": null}), "token_claim"),
        (json!({"aud": ["other"]}), "token_audience"),
        (json!({"aud": ["weir", "other"]}), "token_shared_audience"),
        (json!({"exp": null}), "token_claim"),
        (json!({"exp": NOW_S - 60, "iat": NOW_S - 90}), "token_expired"),
        (json!({"iat": null}), "token_claim"),
        (json!({"exp": NOW_S + 3601}), "token_lifetime"),
    ] {
        assert_eq!(outcome(&world.verifier, &sign(&header(), &svid(&more))), expected, "{more}");
    }
    for (header, expected) in [
        (json!({"alg": "none"}), "token_unsigned"),
        (json!({"alg": "HS256", "kid": "k"}), "token_symmetric"),
        (json!({"alg": "ES384", "kid": "k"}), "token_algorithm"),
        (json!({"alg": "ES256"}), "token_no_key_id"),
        (json!({"alg": "ES256", "kid": "certificates"}), "token_unknown_key"),
        (json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}), "token_type"),
    ] {
        assert_eq!(
            outcome(&world.verifier, &sign(&header, &svid(&json!({})))),
            expected,
            "{header}"
        );
    }
    // An issuer that is known by its name stays the one: it cannot speak for the trust domain.
    let named = svid(&json!({"iss": "https://idp.example"}));
    let verified = now(world.verifier.verify(&sign(&header(), &named).into(), &anchor(1))).unwrap();
    assert_eq!(verified.identity().method, "generic_oidc");
    let jose = json!({"alg": "ES256", "kid": "k", "typ": "JOSE"});
    assert_eq!(outcome(&world.verifier, &sign(&jose, &named)), "token_type");
}

#[test]
fn a_bundle_that_is_replaced_is_followed() {
    let world = world();
    let with = |kid: &str| sign(&json!({"alg": "ES256", "kid": kid}), &svid(&json!({})));
    assert_eq!(outcome(&world.verifier, &with("k")), "ok");
    std::fs::write(&world.bundle, bundle("k2")).unwrap();
    world.clock.elapse_mono(KEYS_RETRY);
    assert_eq!(outcome(&world.verifier, &with("k2")), "ok");
    assert_eq!(outcome(&world.verifier, &with("k")), "token_unknown_key");
    // Half a bundle changes nothing.
    std::fs::write(&world.bundle, "{").unwrap();
    world.clock.elapse_mono(KEYS_RETRY);
    assert_eq!(outcome(&world.verifier, &with("k3")), "token_unknown_key");
    assert_eq!(outcome(&world.verifier, &with("k2")), "ok");
}
