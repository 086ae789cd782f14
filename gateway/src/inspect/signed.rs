//! Requests whose sender has signed the body: changing it would break them.
//!
//! - input: a request head
//! - output: how it is signed, if it is
//! - bound: one look at each field
//! - on failure: cannot fail; what is not recognised counts as not signed, and upstream will notice

use http::request::Parts;

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// AWS Signature Version 4 and 4A, in a field or in the query.
    Aws,
    /// HTTP Message Signatures (RFC 9421) and their draft of before.
    Message,
    /// A MAC over the body, as webhooks carry it, and requests of some cloud providers.
    Mac,
}

impl Signed {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "AWS Signature Version 4",
            Self::Message => "HTTP message signature",
            Self::Mac => "message authentication code",
        }
    }
}

/// Fields with a MAC over the body. `x-hub-signature` and the like are matched by their end.
const MACS: [&str; 8] = [
    "webhook-signature",
    "svix-signature",
    "x-signature",
    "x-signature-ed25519",
    "x-slack-signature",
    "x-line-signature",
    "x-twilio-signature",
    "x-amz-sns-signature",
];

/// Schemes of `Authorization` that are a MAC over (also) the body.
const MAC_SCHEMES: [&str; 6] =
    ["sharedkey", "sharedkeylite", "hmac-sha256", "tc3-hmac-sha256", "acs3-hmac-sha256", "hawk"];

/// How this request is signed.
pub fn signed(head: &Parts) -> Option<Signed> {
    let authorization = head.headers.get(http::header::AUTHORIZATION);
    let scheme = authorization.and_then(|value| {
        value.as_bytes().split(u8::is_ascii_whitespace).next().map(<[u8]>::to_ascii_lowercase)
    });
    let scheme = scheme.unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    if scheme.starts_with(b"aws4-") || is_presigned(query) {
        return Some(Signed::Aws);
    }
    if head.headers.contains_key("signature-input") || scheme == b"signature" {
        return Some(Signed::Message);
    }
    let is_mac = |name: &str| {
        MACS.contains(&name) || name.contains("-hmac") || name.starts_with("x-hub-signature")
    };
    let by_scheme = MAC_SCHEMES.iter().any(|known| known.as_bytes() == scheme);
    if by_scheme || head.headers.keys().any(|name| is_mac(name.as_str())) {
        return Some(Signed::Mac);
    }
    None
}

/// A presigned URL covers the body only where its hash is part of it, which cannot be seen.
fn is_presigned(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case("x-amz-signature")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, name: &'static str, value: &'static str) -> Parts {
        let request = http::Request::builder().uri(uri).header(name, value);
        request.body(()).expect("request").into_parts().0
    }

    #[test]
    fn signatures_over_bodies_are_recognised() {
        let aws = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/bedrock/aws4_request";
        for (uri, name, value, want) in [
            ("/", "authorization", aws, Some(Signed::Aws)),
            ("/", "authorization", "AWS4-ECDSA-P256-SHA256 Credential=x", Some(Signed::Aws)),
            ("/k?X-Amz-Signature=00", "accept", "*/*", Some(Signed::Aws)),
            ("/", "signature-input", "sig1=(\"content-digest\")", Some(Signed::Message)),
            ("/", "authorization", "Signature keyId=\"a\"", Some(Signed::Message)),
            ("/", "x-hub-signature-256", "sha256=00", Some(Signed::Mac)),
            ("/", "webhook-signature", "v1,00", Some(Signed::Mac)),
            ("/", "x-shop-hmac-sha256", "00", Some(Signed::Mac)),
            ("/", "authorization", "SharedKey account:00", Some(Signed::Mac)),
            ("/", "authorization", "Bearer AWS4", None),
            ("/?sig=1", "x-request-id", "1", None),
        ] {
            assert_eq!(signed(&head(uri, name, value)), want, "{uri} {name}: {value}");
        }
    }
}
