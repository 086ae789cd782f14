//! Secrets in targets, fields and trailers of requests.
//!
//! - input: a request's head, or its trailers
//! - output: the same with replaced values
//! - bound: the head's own
//! - on failure: [`Refused`]; also when what stands in a secret's place is no part of a head
//!
//! The credential by which a client is known to the host stays, whatever it looks like: without it there
//! is no request. It must be that host's, if its format says whose it is.

use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use percent_encoding::percent_decode_str;
use weir_inspect::body::Masker;
use weir_inspect::judge::{Found, Judge, Verdict};

use super::judge::{Looking, Plan, Side, SideJudge};
use super::mask;
use super::refused::Refused;
use crate::config::HostPattern;

/// Judges a request's head where secrets are replaced; says whether one was.
///
/// # Errors
/// [`Refused`]
pub fn request(side: &Side, head: &mut Parts) -> Result<bool, Refused> {
    let target = target(side, &mut head.uri)?;
    Ok(fields(side, &mut head.headers)? || target)
}

fn target(side: &Side, uri: &mut Uri) -> Result<bool, Refused> {
    let Some(target) = uri.path_and_query().filter(|target| target.as_str() != "/") else {
        return Ok(false);
    };
    let known = side.known();
    let parameters = parameters(target.query().unwrap_or_default());
    let mut judge = Sender { inner: side.decider(), side, parameters };
    let mut masker = Masker::new(side.deciding_engine(), &known, &mut judge);
    masker.at.enter("url");
    let Some(new) = masker.url(target.as_str().as_bytes()).map_err(|error| side.why(&error))?
    else {
        return Ok(false);
    };
    let unfit = || side.cannot_be_read("a secret in its target cannot be replaced");
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(new).map_err(|_invalid| unfit())?);
    *uri = Uri::from_parts(parts).map_err(|_invalid| unfit())?;
    Ok(true)
}

/// What credential parameters of a query have, as it stands there and as it is read.
fn parameters(query: &str) -> Vec<Vec<u8>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(name, _)| mask::is_credential_name(name)).map(|(_, value)| value);
    values.flat_map(|value| [value.into(), percent_decode_str(value).collect()]).collect()
}

/// Judges the trailers of a request whose body has passed.
///
/// # Errors
/// [`Refused`]
pub fn trailers(looking: &Looking, trailers: &mut HeaderMap) -> Result<(), Refused> {
    let side = looking.request();
    if side.plan() == Plan::Output {
        fields(&side, trailers)?;
    }
    looking.request_trailers(trailers)
}

/// Judges fields, or trailers; says whether something was replaced.
///
/// # Errors
/// [`Refused`]
fn fields(side: &Side, fields: &mut HeaderMap) -> Result<bool, Refused> {
    let known = side.known();
    let mut judge = Sender { inner: side.decider(), side, parameters: Vec::new() };
    let mut masker = Masker::new(side.deciding_engine(), &known, &mut judge);
    masker.at.enter("header");
    let mut is_changed = false;
    for (name, value) in fields.iter_mut() {
        let new = masker.header(name.as_str(), value.as_bytes());
        let Some(new) = new.map_err(|error| side.why(&error))? else { continue };
        *value = HeaderValue::from_bytes(&new)
            .map_err(|_invalid| side.cannot_be_read("a secret in a field cannot be replaced"))?;
        is_changed = true;
    }
    Ok(is_changed)
}

/// Knows which values are the client's own credential for this host.
struct Sender<'a> {
    inner: SideJudge,
    side: &'a Side,
    /// Values of the query that may be such a credential.
    parameters: Vec<Vec<u8>>,
}

impl Judge for Sender<'_> {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        // Cookies are what a host gave before, and everything else that a program puts there.
        let name = found.at.last();
        let is_credential = name != "cookie" && mask::is_credential_field(name);
        // Of a known value `Looking::request_head` says where it may go.
        if is_credential && (found.known.is_some() || may_go(found.hosts, self.side.host())) {
            return Verdict::Keep;
        }
        let is_parameter = self.parameters.iter().any(|value| value == found.value);
        // There only what is certainly this host's: queries are logged and shared.
        let is_hosts = !found.hosts.is_empty() && may_go(found.hosts, self.side.host());
        if is_parameter && (found.known.is_some() || is_hosts) {
            return Verdict::Keep;
        }
        self.inner.judge(found)
    }
}

/// Whether a format belongs to this host, or to no host in particular.
pub(super) fn may_go(hosts: &[String], host: &str) -> bool {
    let is_there = |text: &String| HostPattern::parse(text).is_ok_and(|own| own.matches(host));
    hosts.is_empty() || hosts.iter().any(is_there)
}
