//! Kubernetes: the agent of a node asks the API server for a token of a pod's service account, with
//! the gateway's audience and bound to the pod (TokenRequest). The token that a pod has itself is
//! for the API server and is never used.
//!
//! - input: the API server, the agent's own credential, a pod
//! - output: a token, not verified
//! - bound: one request; the token lives for ten minutes, the least that the API allows
//! - on failure: [`SourceError`]

use secrecy::SecretString;
use serde_json::json;

use super::{SourceError, ask};
use crate::config::identity::Issuer;
use crate::config::url::HttpUrl;
use crate::identify::fetch::{Fetcher, Request};

const LIFETIME_S: u32 = 600;
/// A DNS subdomain (RFC 1123), as the API wants it.
const MAX_NAME_BYTES: usize = 253;

/// A pod on this node, found by the uid in its cgroup's path.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid: a pod of the same name that comes later is another one.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
}

/// Asks for a token of the pod's service account. `server` is the API server of the configuration,
/// never one that a job names.
///
/// # Errors
/// See [`SourceError`]; [`SourceError::Variable`] for names that are none.
pub async fn token(
    server: &HttpUrl,
    credential: &SecretString,
    pod: &Pod,
    issuer: &Issuer,
    fetcher: &Fetcher,
) -> Result<SecretString, SourceError> {
    for (name, text) in [("namespace", &pod.namespace), ("service account", &pod.service_account)] {
        if !is_name(text) {
            return Err(SourceError::Variable { name, what: "is not a name" });
        }
    }
    let url = server.clone().below(&format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        pod.namespace, pod.service_account
    ));
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [issuer.audience],
            "expirationSeconds": LIFETIME_S,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid,
            },
        },
    });
    ask(Request::post(url, &body).authorized("Bearer", credential)?, "/status/token", fetcher).await
}

fn is_name(text: &str) -> bool {
    let char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_NAME_BYTES
        && text.chars().all(char)
        && edge(text.chars().next())
        && edge(text.chars().last())
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_part_of_the_path() {
        for good in ["default", "kube-system", "a.b-c1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "..", "a/b", "a..b", "-a", "a-", "A", "a%2fb", "a?b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
