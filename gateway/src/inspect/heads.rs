//! Heads of requests, on their way out: nothing in them is replaced, known values are refused where they
//! do not belong.
//!
//! - input: fields, trailers and target of one request
//! - output: which values went where as credentials; findings; [`Refused`]
//! - bound: one pass over the head, and one over what of it is base64 or percent-encoded
//! - on failure: cannot fail
//!
//! A credential belongs into a head, so that one there is no finding. It shows where a value may go.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Uri};
use weir_inspect::engine::{By, Match};
use weir_inspect::judge::{Found, Location};
use weir_inspect::known::Known;
use weir_inspect::placeholder;
use weir_inspect::rule::Tier;
use zeroize::Zeroizing;

use super::findings::{Action, Finding};
use super::judge::{Direction, Looking};
use super::mask::{is_credential_field, is_credential_name};
use super::refused::Refused;
use super::rewrite::may_go;
use crate::config::inspect::{Egress, Mode};

/// Shorter values are no credentials.
const MIN_CREDENTIAL_BYTES: usize = 8;
/// Names of what is known and has no rule.
const KNOWN: &str = "known-value";

impl Looking {
    /// Looks at the head of the request, before anything of it leaves.
    ///
    /// # Errors
    /// [`Refused::Secret`]
    pub fn request_head(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
        let head = Head { looking: self, known: self.request().known() };
        head.fields(headers, "header")?;
        if let Some(authority) = uri.authority() {
            // Where there is a host field instead, that was it.
            head.part(authority.as_str().as_bytes(), "authority", "", false)?;
        }
        head.part(uri.path().as_bytes(), "path", "", false)?;
        let pairs = uri.query().unwrap_or_default().split('&');
        for (name, value) in pairs.map(|pair| pair.split_once('=').unwrap_or(("", pair))) {
            head.part(name.as_bytes(), "query", "", false)?;
            head.part(value.as_bytes(), "query", name, is_credential_name(name))?;
        }
        Ok(())
    }

    /// Looks at the trailers of the request.
    ///
    /// # Errors
    /// [`Refused::Secret`]
    pub fn request_trailers(&self, trailers: &HeaderMap) -> Result<(), Refused> {
        Head { looking: self, known: self.request().known() }.fields(trailers, "trailer")
    }
}

struct Head<'a> {
    looking: &'a Looking,
    known: Known,
}

impl Head<'_> {
    fn fields(&self, headers: &HeaderMap, place: &str) -> Result<(), Refused> {
        for (name, value) in headers {
            let name = name.as_str();
            let as_credential = is_credential_field(name);
            if as_credential {
                for value in credentials(name, value.as_bytes()) {
                    self.part(&value, place, name, true)?;
                }
            }
            self.part(value.as_bytes(), place, name, as_credential)?;
        }
        Ok(())
    }

    fn part(
        &self,
        text: &[u8],
        place: &str,
        name: &str,
        is_credential: bool,
    ) -> Result<(), Refused> {
        self.text(text, place, name, is_credential)?;
        if !text.contains(&b'%') {
            return Ok(());
        }
        let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
        self.text(&Zeroizing::new(decoded), place, name, is_credential)
    }

    fn text(
        &self,
        text: &[u8],
        place: &str,
        name: &str,
        is_credential: bool,
    ) -> Result<(), Refused> {
        let inspection = self.looking.inspection();
        let mut at = Location::default();
        at.enter(place);
        if !name.is_empty() {
            at.enter(name);
        }
        for found in inspection.engine().find(text, &self.known) {
            self.found(&found, text, &at, is_credential)?;
        }
        // What was refused was not sent.
        if is_credential && text.len() >= MIN_CREDENTIAL_BYTES {
            inspection.used(self.looking.scope(), text, self.looking.host());
        }
        Ok(())
    }

    fn found(
        &self,
        found: &Match,
        text: &[u8],
        at: &Location,
        is_credential: bool,
    ) -> Result<(), Refused> {
        let (looking, inspection) = (self.looking, self.looking.inspection());
        let value = text.get(found.span.clone()).unwrap_or_default();
        let none = (Arc::from(KNOWN), Tier::Known, &[][..]);
        let (rule, tier, hosts, known) = match found.by {
            By::Known(number) => (none.0, none.1, none.2, Some(number)),
            By::Rule(index) => {
                let rule = inspection.engine().rule(index);
                let rule =
                    rule.map(|rule| (Arc::clone(&rule.id), rule.tier, rule.hosts.as_slice()));
                let (id, tier, hosts) = rule.unwrap_or(none);
                (id, tier, hosts, None)
            }
        };
        let found =
            Found { rule: &rule, tier, confidence: found.confidence, known, hosts, value, at };
        let blocks = looking.request().mode() == Mode::Block;
        let action = match found.known {
            Some(number) => {
                let (scope, host) = (looking.scope(), looking.host());
                if !inspection.is_astray(scope, number, host, is_credential) {
                    return Ok(());
                }
                match inspection.egress() {
                    Egress::Refuse => Action::Refused,
                    Egress::Record => Action::Kept,
                }
            }
            None if placeholder::is_one(value) => return Ok(()),
            // Where nothing is let through, a credential of another host's format is none here.
            None if is_credential && (!blocks || may_go(found.hosts, looking.host())) => {
                return Ok(());
            }
            None if blocks => Action::Refused,
            None => Action::Kept,
        };
        let name = inspection.name(looking.scope(), &found);
        looking.findings().add(Finding {
            direction: Direction::Request,
            rule: Arc::clone(&name),
            tier: found.tier,
            confidence: found.confidence,
            location: looking.place(found.at),
            length: value.len(),
            fingerprint: inspection.fingerprint(looking.scope(), &found),
            action,
            placeholder: String::new(),
        });
        if action == Action::Refused {
            return Err(looking.refuse(Refused::Secret(name)));
        }
        Ok(())
    }
}

/// What of a credential field is the credential, beside the whole.
fn credentials(name: &str, value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let own = |bytes: &[u8]| Zeroizing::new(bytes.trim_ascii().to_vec());
    if name == "cookie" {
        let pairs = value.split(|b| *b == b';');
        let values = pairs.filter_map(|pair| Some(own(pair.splitn(2, |b| *b == b'=').nth(1)?)));
        return values.collect();
    }
    let mut words = value.splitn(2, |b| *b == b' ');
    let (scheme, Some(rest)) = (words.next().unwrap_or_default(), words.next()) else {
        return Vec::new();
    };
    if scheme.eq_ignore_ascii_case(b"basic")
        && let Ok(pair) = STANDARD.decode(rest.trim_ascii())
    {
        let pair = Zeroizing::new(pair);
        let password = pair.splitn(2, |b| *b == b':').nth(1).unwrap_or_default();
        return vec![own(password), pair.clone()];
    }
    vec![own(rest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_of_a_field_is_taken_out_of_it() {
        let of = |name: &str, value: &str| {
            let all = credentials(name, value.as_bytes());
            all.iter().map(|one| String::from_utf8_lossy(one).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of("authorization", "Bearer abc"), ["abc"]);
        assert_eq!(of("authorization", "Basic bWU6cGFzcw=="), ["pass", "me:pass"]);
        assert_eq!(of("authorization", "Basic ???"), ["???"]);
        assert_eq!(of("cookie", "a=1; b=2=3"), ["1", "2=3"]);
        assert!(of("x-api-key", "abc").is_empty());
    }
}
