//! Why a token is refused. Every reason has an outcome of its own, and none repeats a byte of the
//! token.
//!
//! - input: made by the checks
//! - output: a message, a fault, an outcome
//! - bound: no text from a token; claim names are those of the configuration
//! - on failure: cannot fail

use std::borrow::Cow;

use crate::error::{Fault, Faulty};
use crate::identify::jwks::KeyError;

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Longer than `limits::MAX_TOKEN_BYTES`.
    #[error("checking a token: it is longer than 16 KiB")]
    TooLarge,
    /// Not three parts of base64url with JSON objects in the first two, or a name twice in one.
    #[error("checking a token: {0}")]
    Malformed(&'static str),
    /// The header has no `alg`, or `none`.
    #[error("checking a token: it is not signed")]
    Unsigned,
    /// `HS256` and relatives: whoever can check such a signature can make it.
    #[error("checking a token: its algorithm has no public key")]
    Symmetric,
    /// Not in the issuer's `algorithms`.
    #[error("checking a token: its algorithm is not allowed for the issuer")]
    Algorithm,
    /// `typ` is another kind of token, such as an access token (RFC 9068).
    #[error("checking a token: its type is not that of an identity token")]
    Type,
    /// `crit` asks for an extension (RFC 7515 section 4.1.11); none is known here.
    #[error("checking a token: it needs an extension that is not supported")]
    Critical,
    /// `iss` is not, byte for byte, a configured issuer.
    #[error("checking a token: its issuer is not configured")]
    Issuer,
    /// No `kid`.
    #[error("checking a token: it does not name its key")]
    NoKeyId,
    /// The issuer has no such key, and was asked as often as is allowed.
    #[error("checking a token: its issuer has no such key")]
    UnknownKey,
    /// The key is for another algorithm.
    #[error("checking a token: its key is for another algorithm")]
    KeyAlgorithm,
    /// The signature does not verify.
    #[error("checking a token: its signature does not verify")]
    Signature,
    /// The keys of the issuer could not be had.
    #[error("checking a token: {0}")]
    Keys(#[from] KeyError),
    /// A claim that every token needs is absent or of another type.
    #[error("checking a token: claim {0} is missing or ill-typed")]
    Claim(&'static str),
    /// `aud` is for somebody else.
    #[error("checking a token: it is for another audience")]
    Audience,
    /// `aud` names this gateway and others, who could present the token here.
    #[error("checking a token: it is for other audiences, too")]
    SharedAudience,
    /// `azp` is another client.
    #[error("checking a token: it was issued to another party")]
    AuthorizedParty,
    /// `exp` is past.
    #[error("checking a token: it has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("checking a token: it is not valid yet")]
    NotYetValid,
    /// `iat` is to come.
    #[error("checking a token: it was issued in the future")]
    IssuedInFuture,
    /// `exp` - `iat` exceeds the issuer's `max_lifetime`, or is not positive.
    #[error("checking a token: its lifetime is longer than allowed")]
    Lifetime,
    /// Issued too long before the anchor began.
    #[error("checking a token: it is older than the process that presents it")]
    Stale,
    /// A claim that the configuration requires is absent or has another value.
    #[error("checking a token: claim {0} has not the required value")]
    Required(String),
    /// `sub` is no SPIFFE id of the trust domain whose keys it names.
    #[error("checking a token: its subject is not of the trust domain")]
    SpiffeId,
    /// A CircleCI job that somebody can enter by SSH.
    #[error("checking a token: its job was started again with ssh access")]
    SshRerun,
    /// A claim that names somebody is too long, or they are too many.
    #[error("checking a token: claim {0} is too long")]
    TooLong(Cow<'static, str>),
    /// Another anchor has presented the same token.
    #[error("binding a token: another process tree has presented it")]
    Replayed,
    /// Another anchor has presented a token of the same job. Somebody has a stolen token: the caller
    /// raises an alarm.
    #[error("binding a token: its job belongs to another process tree")]
    SecondAnchor,
    /// The anchor has ended.
    #[error("binding a token: the process tree that presents it has ended")]
    AnchorEnded,
    /// Too many tokens or jobs are remembered, in all or for this anchor.
    #[error("binding a token: too many tokens are remembered")]
    Full,
}

impl Faulty for TokenError {
    fn fault(&self) -> Fault {
        match self {
            Self::TooLarge
            | Self::Malformed(_)
            | Self::Unsigned
            | Self::Symmetric
            | Self::Algorithm
            | Self::Type
            | Self::Critical
            | Self::NoKeyId
            | Self::UnknownKey
            | Self::KeyAlgorithm
            | Self::Signature
            | Self::Claim(_)
            | Self::Audience
            | Self::SharedAudience
            | Self::AuthorizedParty
            | Self::Expired
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::Lifetime
            | Self::Stale
            | Self::SpiffeId
            | Self::TooLong(_)
            | Self::Replayed
            | Self::SecondAnchor
            | Self::AnchorEnded => Fault::Downstream,
            Self::Issuer | Self::Required(_) | Self::SshRerun => Fault::Policy,
            Self::Keys(error) => error.fault(),
            Self::Full => Fault::Capacity,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::TooLarge => "token_too_large",
            Self::Malformed(_) => "token_malformed",
            Self::Unsigned => "token_unsigned",
            Self::Symmetric => "token_symmetric",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::Critical => "token_critical",
            Self::Issuer => "token_issuer",
            Self::NoKeyId => "token_no_key_id",
            Self::UnknownKey => "token_unknown_key",
            Self::KeyAlgorithm => "token_key_algorithm",
            Self::Signature => "token_signature",
            Self::Keys(error) => error.outcome(),
            Self::Claim(_) => "token_claim",
            Self::Audience => "token_audience",
            Self::SharedAudience => "token_shared_audience",
            Self::AuthorizedParty => "token_authorized_party",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::Lifetime => "token_lifetime",
            Self::Stale => "token_stale",
            Self::Required(_) => "token_required_claim",
            Self::SpiffeId => "token_spiffe_id",
            Self::SshRerun => "token_ssh_rerun",
            Self::TooLong(_) => "token_claim_too_long",
            Self::Replayed => "token_replayed",
            Self::SecondAnchor => "token_second_anchor",
            Self::AnchorEnded => "token_anchor_ended",
            Self::Full => "token_binding_full",
        }
    }
}
