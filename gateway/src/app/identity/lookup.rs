//! Who vouches for a job: its token, or for a GitHub job without one the API.
//!
//! - input: a job, an issuer, what the job's environment says
//! - output: [`Vouched`]
//! - bound: one token, or one look-up
//! - on failure: [`Refusal`]

use std::sync::Arc;

use super::desk::{Desk, Refusal};
use super::job::Job;
use crate::clock::WallUs;
use crate::config::identity::Issuer;
use crate::identify::oidc::TokenError;
use crate::identify::source::{self, Environment, SourceError};
use crate::identify::who::Who;

/// Whom an issuer vouches for, and until when.
pub(super) struct Vouched {
    pub(super) who: Who,
    pub(super) until: WallUs,
}

impl Desk {
    pub(super) async fn vouched(
        &self,
        job: &Job,
        issuer: &Issuer,
        environment: &Environment,
    ) -> Result<Vouched, Refusal> {
        let token = match source::token(environment, issuer, &self.issuers.fetcher).await {
            // Only then: a provider that is away, or refuses, is no reason to believe less.
            Err(SourceError::Absent(_)) if self.issuers.apps.contains_key(&issuer.name) => {
                return self.looked_up(job, issuer, environment).await;
            }
            other => other?,
        };
        let (verifier, anchor) = (Arc::clone(&self.issuers.verifier), job.anchor);
        // In a task of its own: a caller that goes away must not use up the provider's attempts.
        let verified =
            tokio::task::spawn_local(async move { verifier.verify(&token, &anchor).await });
        let verified = verified.await.map_err(|e| Refusal::new("internal", e.to_string()))??;
        // Configured for people, say, and found in a job's environment.
        if verified.issuer().name != issuer.name {
            return Err(TokenError::Issuer.into());
        }
        Ok(Vouched { who: Who::verified(&verified), until: verified.expires_at() })
    }

    async fn looked_up(
        &self,
        job: &Job,
        issuer: &Issuer,
        environment: &Environment,
    ) -> Result<Vouched, Refusal> {
        let app = self.issuers.apps.get(&issuer.name);
        let app = app.ok_or_else(|| Refusal::new("token_absent", "no token was found"))?;
        let found = app.look_up(environment, &job.anchor).await?;
        let verifier = &self.issuers.verifier;
        let identity = verifier.looked_up(issuer, &found.claims, found.until, &job.anchor)?;
        Ok(Vouched { who: Who::vouched(&identity, &issuer.issuer), until: found.until })
    }
}
