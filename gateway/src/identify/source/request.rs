//! CI systems that make a token when a job asks. The gateway asks in the job's name, with the job's
//! own credential, for a token with the gateway's audience.
//!
//! - input: the variables that the CI system gives to its own tools
//! - output: a token, not verified
//! - bound: one request
//! - on failure: [`SourceError`]

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;
use serde_json::json;

use super::{Environment, SourceError, ask};
use crate::config::identity::Issuer;
use crate::identify::fetch::{Fetcher, Request};

/// GitHub Actions: only jobs with `permissions: id-token: write` have these variables. The
/// credential is that of the job's runtime, so it is worth more than a token.
pub(super) async fn github(
    environment: &Environment,
    issuer: &Issuer,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    let url = environment.url("ACTIONS_ID_TOKEN_REQUEST_URL", issuer)?;
    let credential = environment.secret("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?;
    let url = url.with_query("audience", &issuer.audience);
    ask(Request::get(url).authorized("bearer", &credential)?, "/value", fetcher).await
}

/// Buildkite: what `buildkite-agent oidc request-token` does.
pub(super) async fn buildkite(
    environment: &Environment,
    issuer: &Issuer,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    const JOB: &str = "BUILDKITE_JOB_ID";
    let endpoint = environment.url("BUILDKITE_AGENT_ENDPOINT", issuer)?;
    let job = environment.variable(JOB)?;
    // It goes into a path.
    if job.len() > 64 || !job.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(SourceError::Variable { name: JOB, what: "is not a job id" });
    }
    let credential = environment.secret("BUILDKITE_AGENT_ACCESS_TOKEN")?;
    let url = endpoint.below(&format!("/jobs/{job}/oidc/tokens"));
    let request = Request::post(url, &json!({ "audience": issuer.audience }));
    ask(request.authorized("Token", &credential)?, "/token", fetcher).await
}

/// Azure Pipelines: only where the job maps `System.AccessToken` into its environment. The audience
/// cannot be chosen.
pub(super) async fn azure_devops(
    environment: &Environment,
    issuer: &Issuer,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    let url = environment.url("SYSTEM_OIDCREQUESTURI", issuer)?;
    let credential = environment.secret("SYSTEM_ACCESSTOKEN")?;
    let request = Request::post(url.with_query("api-version", "7.1"), &json!({}))
        .authorized("Bearer", &credential)?
        // Without it a refusal is a redirect to a login page.
        .field(
            HeaderName::from_static("x-tfs-fedauthredirect"),
            HeaderValue::from_static("Suppress"),
        );
    ask(request, "/oidcToken", fetcher).await
}
