//! Policy: what may happen to a flow, and to each of its requests.
//!
//! - input: what a flow speaks and where it goes; the authority of a request
//! - output: a [`Permit`], which `forward` needs to dial, or [`Denied`] with the rule
//! - bound: a list of pass-through patterns, scanned once per flow
//! - on failure: denied
//!
//! The rules are those of `[policy]` and `[tls]` in the configuration. The policy document with
//! identities, holds and obligations takes this module's place later; the two proofs stay.

use crate::config::identity::Require;
use crate::config::{self, DnsCheck, FlowRule, HostPattern};
use crate::dns::NameCheck;
use crate::error::{Fault, Faulty};
use crate::identify::standing::Verdict;

/// What a flow turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind<'a> {
    /// TLS that offers HTTP.
    Tls {
        /// Lower-case server name.
        sni: Option<&'a str>,
    },
    /// TLS that offers other protocols only.
    TlsOther {
        /// Lower-case server name.
        sni: Option<&'a str>,
    },
    /// HTTP in the clear.
    PlainHttp,
    /// Neither.
    Opaque,
}

/// What happens to an allowed flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// TLS ends here; every exchange is seen.
    Terminate,
    /// HTTP in the clear; every exchange is seen.
    Plain,
    /// TLS is forwarded as it is.
    Passthrough,
    /// Bytes are forwarded as they are.
    Opaque,
}

impl Treatment {
    /// The recorded mode.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "terminated",
            Self::Plain => "plain",
            Self::Passthrough => "passthrough",
            Self::Opaque => "opaque",
        }
    }
}

/// Proof that policy allowed a flow. Only this module makes one.
#[derive(Debug)]
pub struct Permit {
    treatment: Treatment,
    rule: &'static str,
}

impl Permit {
    /// What happens to the flow.
    pub const fn treatment(&self) -> Treatment {
        self.treatment
    }

    /// The rule that allowed it.
    pub const fn rule(&self) -> &'static str {
        self.rule
    }
}

/// Why policy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// `policy.plain_http = "refuse"`
    #[error("plain http is refused by policy.plain_http")]
    PlainHttp,
    /// `policy.opaque_tcp = "refuse"`
    #[error("traffic that is neither tls nor http is refused by policy.opaque_tcp")]
    OpaqueTcp,
    /// The request names another host than the handshake (RFC 9110 section 7.4).
    #[error("the request's host is not the server name of its connection")]
    Misdirected,
    /// `policy.dns_check = "enforce"`
    #[error("the destination is not an address that the server name was resolved to")]
    NotResolved,
    /// `identity.require = "deny"`
    #[error(
        "nobody vouches for this process: people run `weir login`; a ci job is registered by its \
         runner's hook (`weir ci-hook job-started`)"
    )]
    Unidentified,
    /// `identity.require = "deny"`
    #[error(
        "the job that this process belongs to has ended, or the login has expired (`weir login`)"
    )]
    IdentityExpired,
    /// `weir revoke`
    #[error("the identity that this process acts for was revoked")]
    IdentityRevoked,
}

impl Denied {
    /// Whether another identity would make a difference.
    pub const fn is_identity(self) -> bool {
        matches!(self, Self::Unidentified | Self::IdentityExpired | Self::IdentityRevoked)
    }

    /// The rule, as it is recorded and shown.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::PlainHttp => "policy.plain_http",
            Self::OpaqueTcp => "policy.opaque_tcp",
            Self::Misdirected => "sni-is-host",
            Self::NotResolved => "policy.dns_check",
            Self::Unidentified | Self::IdentityExpired => "identity.require",
            Self::IdentityRevoked => "identity-revoked",
        }
    }
}

impl Faulty for Denied {
    fn fault(&self) -> Fault {
        Fault::Policy
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http_refused",
            Self::OpaqueTcp => "opaque_refused",
            Self::Misdirected => "misdirected",
            Self::NotResolved => "destination_not_resolved",
            Self::Unidentified => "unidentified",
            Self::IdentityExpired => "identity_expired",
            Self::IdentityRevoked => "identity_revoked",
        }
    }
}

/// Decides.
#[derive(Debug)]
pub struct Engine {
    plain_http: FlowRule,
    opaque_tcp: FlowRule,
    passthrough: Vec<HostPattern>,
    dns_check: DnsCheck,
    require: Require,
    exempt: Vec<HostPattern>,
}

impl Engine {
    /// Takes the rules out of the configuration.
    pub fn new(config: &config::Config) -> Self {
        Self {
            plain_http: config.policy.plain_http,
            opaque_tcp: config.policy.opaque_tcp,
            passthrough: config.tls.passthrough.clone(),
            dns_check: config.policy.dns_check,
            require: config.identity.require,
            exempt: config.identity.exempt.clone(),
        }
    }

    /// Whether any opaque flow may pass at all.
    pub fn forwards_opaque(&self) -> bool {
        self.opaque_tcp == FlowRule::Forward
    }

    /// Decides on a flow.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn flow(&self, kind: FlowKind<'_>) -> Result<Permit, Denied> {
        let passes = |sni: Option<&str>| {
            sni.is_some_and(|name| self.passthrough.iter().any(|p| p.matches(name)))
        };
        match kind {
            FlowKind::Tls { sni } | FlowKind::TlsOther { sni } if passes(sni) => {
                Ok(Permit { treatment: Treatment::Passthrough, rule: "tls.passthrough" })
            }
            FlowKind::Tls { .. } => Ok(Permit { treatment: Treatment::Terminate, rule: "default" }),
            FlowKind::PlainHttp if self.plain_http == FlowRule::Forward => {
                Ok(Permit { treatment: Treatment::Plain, rule: "policy.plain_http" })
            }
            FlowKind::PlainHttp => Err(Denied::PlainHttp),
            FlowKind::Opaque | FlowKind::TlsOther { .. } if self.forwards_opaque() => {
                Ok(Permit { treatment: Treatment::Opaque, rule: "policy.opaque_tcp" })
            }
            FlowKind::Opaque | FlowKind::TlsOther { .. } => Err(Denied::OpaqueTcp),
        }
    }

    /// Whether server names are compared with destinations at all.
    pub fn checks_names(&self) -> bool {
        self.dns_check != DnsCheck::Off
    }

    /// Decides on the destination of a flow with a server name.
    ///
    /// # Errors
    /// [`Denied::NotResolved`] when only destinations that the name was resolved to may pass.
    pub fn destination(&self, check: NameCheck) -> Result<(), Denied> {
        match check {
            NameCheck::Unknown | NameCheck::Mismatch if self.dns_check == DnsCheck::Enforce => {
                Err(Denied::NotResolved)
            }
            NameCheck::Known | NameCheck::Unknown | NameCheck::Mismatch => Ok(()),
        }
    }

    /// Whether anybody is asked who they are.
    pub fn asks_identity(&self) -> bool {
        self.require != Require::Off
    }

    /// Decides by who vouches for the process. `verified_name` is the name that upstream's
    /// certificate has to have: without one, a host is only what the client says.
    ///
    /// # Errors
    /// [`Denied::Unidentified`], [`Denied::IdentityExpired`], [`Denied::IdentityRevoked`]
    pub fn identity(&self, verdict: Verdict, verified_name: Option<&str>) -> Result<(), Denied> {
        let denied = match verdict {
            Verdict::Verified => return Ok(()),
            // Whatever is required: somebody wants it to end.
            Verdict::Revoked => return Err(Denied::IdentityRevoked),
            Verdict::Unidentified => Denied::Unidentified,
            Verdict::Expired => Denied::IdentityExpired,
        };
        let exempt = |name: &str| self.exempt.iter().any(|pattern| pattern.matches(name));
        if self.require == Require::Deny && !verified_name.is_some_and(exempt) {
            return Err(denied);
        }
        Ok(())
    }

    /// Decides on the head of one request of a permitted flow.
    ///
    /// `name` is what the connection was verified for: the server name, or the address when the
    /// client sent none. In the clear there is nothing to compare with.
    ///
    /// # Errors
    /// [`Denied::Misdirected`] when host or port differ from the connection's (domain fronting).
    pub fn request(
        &self,
        permit: &Permit,
        name: &str,
        dst_port: u16,
        host: &str,
        port: Option<u16>,
    ) -> Result<(), Denied> {
        if permit.treatment != Treatment::Terminate {
            return Ok(());
        }
        let same_host = host.eq_ignore_ascii_case(name);
        if same_host && port.is_none_or(|port| port == dst_port) {
            Ok(())
        } else {
            Err(Denied::Misdirected)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(text: &str) -> Engine {
        Engine::new(&config::Config::parse(text).expect("config"))
    }

    #[test]
    fn opaque_traffic_is_refused_by_default_and_plain_http_is_not() {
        let engine = engine("");
        assert_eq!(engine.flow(FlowKind::Opaque).err(), Some(Denied::OpaqueTcp));
        assert_eq!(engine.flow(FlowKind::TlsOther { sni: None }).err(), Some(Denied::OpaqueTcp));
        let permit = engine.flow(FlowKind::PlainHttp).expect("permit");
        assert_eq!(permit.treatment(), Treatment::Plain);
    }

    #[test]
    fn passthrough_needs_a_matching_server_name() {
        let engine = engine("[tls]\npassthrough = [\"pinned.example\"]\n");
        let treat = |sni| engine.flow(FlowKind::Tls { sni }).expect("permit").treatment();
        assert_eq!(treat(Some("pinned.example")), Treatment::Passthrough);
        assert_eq!(treat(Some("other.example")), Treatment::Terminate);
        assert_eq!(treat(None), Treatment::Terminate);
    }

    #[test]
    fn nobody_without_identity_passes_where_it_is_required() {
        let name = Some("pypi.example");
        let deny = engine("[identity]\nrequire = \"deny\"\nexempt = [\"*.example\"]\n");
        assert_eq!(deny.identity(Verdict::Verified, None), Ok(()));
        assert_eq!(deny.identity(Verdict::Unidentified, None), Err(Denied::Unidentified));
        assert_eq!(deny.identity(Verdict::Expired, Some("other")), Err(Denied::IdentityExpired));
        assert_eq!(deny.identity(Verdict::Unidentified, name), Ok(()));
        assert_eq!(deny.identity(Verdict::Revoked, name), Err(Denied::IdentityRevoked));
        let record = engine("");
        assert_eq!(record.identity(Verdict::Unidentified, None), Ok(()));
        assert_eq!(record.identity(Verdict::Revoked, None), Err(Denied::IdentityRevoked));
    }

    #[test]
    fn a_request_for_another_host_or_port_is_misdirected() {
        let engine = engine("");
        let permit = engine.flow(FlowKind::Tls { sni: Some("a.example") }).expect("permit");
        let ask = |host, port| engine.request(&permit, "a.example", 443, host, port);
        assert_eq!(ask("A.example", None), Ok(()));
        assert_eq!(ask("a.example", Some(443)), Ok(()));
        assert_eq!(ask("evil.example", None), Err(Denied::Misdirected));
        assert_eq!(ask("a.example", Some(8443)), Err(Denied::Misdirected));
    }
}
