//! A provider, an issuer in the configuration, and the verifier that trusts it.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::RootCertStore;
use secrecy::SecretString;
use serde_json::{Value, json};
use weir_gateway::capture::ProcessKey;
use weir_gateway::clock::{Clock as _, FakeClock, SystemClock, WallUs};
use weir_gateway::config::Config;
use weir_gateway::config::identity::Issuer;
use weir_gateway::error::Faulty as _;
use weir_gateway::identify::binding::{Anchor, AnchorId};
use weir_gateway::identify::fetch::Fetcher;
use weir_gateway::identify::oidc::TokenError;
use weir_gateway::identify::oidc::verify::{VerifiedToken, Verifier};
use weir_tests::idp::{Idp, now_s};

pub(crate) struct World {
    pub(crate) idp: Idp,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) fetcher: Arc<Fetcher>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_roots(RootCertStore::empty())
    }

    /// The gateway trusts these for TLS.
    pub(crate) fn with_roots(roots: RootCertStore) -> Self {
        let fetcher = Arc::new(Fetcher::new(roots).unwrap());
        let mut world =
            Self { idp: Idp::start(), clock: Arc::new(FakeClock::at(WallUs(0))), fetcher };
        world.reset_clock();
        world
    }

    /// Sets the clock to the provider's. It stands still unless a test moves it.
    pub(crate) fn reset_clock(&mut self) {
        self.clock = Arc::new(FakeClock::at(SystemClock.wall()));
    }

    /// The configured issuer `name` of that kind, at the provider; `more` is TOML.
    pub(crate) fn issuer(&self, name: &str, kind: &str, more: &str) -> Arc<Issuer> {
        let url = match kind {
            "people" => self.idp.issuer().to_owned(),
            _ => self.idp.ci(name),
        };
        let mut text = format!(
            "[[identity.issuer]]\nname = \"{}\"\nissuer = \"{url}\"\nkind = \"{kind}\"\n\
             danger_allow_http = true\n",
            name.replace('/', "-")
        );
        if !more.contains("audience") && kind != "azure-devops" {
            text.push_str("audience = \"weir\"\n");
        }
        writeln!(text, "{more}").unwrap();
        let mut config = Config::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        Arc::new(config.identity.issuers.remove(0))
    }

    pub(crate) fn verifier(&self, issuer: &Arc<Issuer>) -> Verifier {
        let clock: Arc<FakeClock> = Arc::clone(&self.clock);
        Verifier::start(&[Issuer::clone(issuer)], &self.fetcher, &(clock as _)).unwrap()
    }

    /// An anchor that began a minute ago.
    pub(crate) fn anchor(&self, id: u64) -> Anchor {
        let process = ProcessKey { tgid: 7, start_time_ns: id };
        let started = WallUs(self.clock.wall().0 - 60_000_000);
        Anchor { id: AnchorId { id, process }, started }
    }

    pub(crate) async fn verify(
        &self,
        verifier: &Verifier,
        token: &str,
    ) -> Result<VerifiedToken, TokenError> {
        verifier.verify(&SecretString::from(token), &self.anchor(1)).await
    }

    /// `ok`, or the outcome of the refusal.
    pub(crate) async fn outcome(&self, verifier: &Verifier, token: &str) -> &'static str {
        self.verify(verifier, token).await.err().map_or("ok", |e| e.outcome())
    }
}

/// The claims that every token has, with `more` over them; `null` removes one.
pub(crate) fn claims(iss: &str, more: &Value) -> Value {
    let now = now_s();
    let mut all = json!({
        "iss": iss, "aud": "weir", "sub": "somebody", "iat": now, "nbf": now, "exp": now + 300,
    });
    let object = all.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.clone(), value.clone()),
        };
    }
    all
}
