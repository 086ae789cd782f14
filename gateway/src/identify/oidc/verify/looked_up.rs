//! Jobs that a vendor's API spoke of: no token, but bound to one process tree as those with one.
//!
//! - input: what the API says of a job, by the names that a token's claims would have
//! - output: [`Identity`]
//! - bound: as for tokens
//! - on failure: [`TokenError`], for what a token would be refused for, too

use serde_json::{Map, Value};

use super::{Verifier, required};
use crate::clock::WallUs;
use crate::config::identity::Issuer;
use crate::identify::binding::{Anchor, Presented};
use crate::identify::oidc::TokenError;
use crate::identify::oidc::checks::micros;
use crate::identify::oidc::claims::{self, Identity};
use crate::identify::oidc::typed::Claims;

impl Verifier {
    /// Checks what the configuration requires of a job of this issuer, and binds the job to the anchor,
    /// in one memory with the issuer's tokens: a job has one process tree, however it is known.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn looked_up(
        &self,
        issuer: &Issuer,
        said: &Map<String, Value>,
        until: WallUs,
        anchor: &Anchor,
    ) -> Result<Identity, TokenError> {
        let claims = Claims::new(said)?;
        required(&claims, issuer)?;
        let job = claims::job(issuer.kind, &claims).ok_or(TokenError::Claim("check_run_id"))?;
        let subject = format!("job:{}", job.join(":"));
        let identity = claims::looked_up(issuer, &subject, until, &claims)?;
        let presented = Presented {
            issuer: &issuer.issuer,
            // No token: the job itself is what nobody else may present.
            token: &subject,
            job: Some(job),
            forget_at: WallUs(until.0.saturating_add(micros(issuer.clock_skew))),
        };
        self.bindings.bind(&presented, anchor.id, self.clock.wall())?;
        Ok(identity)
    }
}
