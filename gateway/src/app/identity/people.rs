//! What people ask: to be logged in and out.
//!
//! - input: orders of `weir login` and `weir logout`, and who gives them
//! - output: replies; see [`Logins`]
//! - bound: see [`Logins`]
//! - on failure: [`Refusal`]

use std::sync::Arc;

use uuid::Uuid;

use super::Issuers;
use super::desk::{Desk, Refusal};
use super::keeper;
use super::peer::Peer;
use crate::app::Shared;
use crate::config::identity::Kind;
use crate::error::Faulty as _;
use crate::identify::login::{Asker, DeviceStart, LoggedIn, LoginError, Logins, Parts};
use crate::identify::process::kernel_boot_id;
use crate::identify::wire::{Person, Reply};

/// Logins of the configured providers, if people can log in at all.
pub(super) fn logins(shared: &Arc<Shared>, issuers: &Issuers) -> Option<Arc<Logins>> {
    let config = &shared.config.identity;
    if !config.issuers.iter().any(|issuer| issuer.kind == Kind::People) {
        return None;
    }
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let parts = Parts {
        config,
        verifier: Arc::clone(&issuers.verifier),
        fetcher: Arc::clone(&issuers.fetcher),
        clock: Arc::clone(&shared.seams.clock),
        registry: Arc::clone(&shared.registry),
        sessions: keeper::sessions(),
        host: host.unwrap_or_default().into(),
    };
    Logins::start(parts).inspect_err(|error| tracing::error!(%error, "people cannot log in")).ok()
}

impl Desk {
    pub(super) async fn login_code(
        &self,
        peer: &Peer,
        issuer: Option<&str>,
        redirect: &str,
    ) -> Result<Reply, Refusal> {
        let start = self.logins()?.start_code(&asker(peer), issuer, redirect).await?;
        Ok(Reply::Browse { id: start.id, url: start.url })
    }

    pub(super) async fn login_answer(
        &self,
        peer: &Peer,
        id: Uuid,
        answer: &str,
    ) -> Result<Reply, Refusal> {
        Ok(logged_in(self.logins()?.finish_code(&asker(peer), id, answer).await))
    }

    pub(super) async fn login_device(
        &self,
        peer: &Peer,
        issuer: Option<&str>,
    ) -> Result<DeviceStart, Refusal> {
        Ok(self.logins()?.start_device(&asker(peer), issuer).await?)
    }

    pub(super) async fn logout(&self, peer: &Peer) -> Result<Reply, Refusal> {
        self.logins()?.logout(&asker(peer).key).await?;
        Ok(Reply::Done { count: 1 })
    }

    fn logins(&self) -> Result<&Arc<Logins>, Refusal> {
        self.logins.as_ref().ok_or_else(|| LoginError::NoProvider.into())
    }
}

fn asker(peer: &Peer) -> Asker {
    Asker::of(kernel_boot_id(), peer.key, peer.uid, &peer.cgroup().unwrap_or_default())
}

/// The answer to who logged in.
pub(super) fn logged_in(result: Result<LoggedIn, LoginError>) -> Reply {
    match result {
        Ok(one) => Reply::People { people: vec![Person::of(&one.who, "active", None)] },
        Err(error) => {
            Reply::Refused { outcome: error.outcome().to_owned(), message: error.to_string() }
        }
    }
}
