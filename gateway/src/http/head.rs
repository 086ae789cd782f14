//! Message heads between two connections: the authority, and what must not be passed on.
//!
//! - input: a request or response head
//! - output: one authority; heads without hop-by-hop fields (RFC 9110 section 7.6.1)
//! - bound: `limits::MAX_HEADERS` fields
//! - on failure: [`HttpError::Authority`]

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Uri, Version};

use super::HttpError;
use crate::tls::Protocol;

/// Fields that concern one connection only. `TE` is handled apart.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The one authority that a request names.
///
/// # Errors
/// When there is none, more than one, or two that differ (RFC 9112 section 3.2, RFC 9113 8.3.1).
pub fn authority(head: &Parts) -> Result<Authority, HttpError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(parse_host).transpose()?;
    if hosts.next().is_some() {
        return Err(HttpError::Authority("several host fields"));
    }
    let authority = match (head.uri.authority().cloned(), host) {
        (Some(target), Some(host)) if !same(&target, &host, head.uri.scheme_str()) => {
            return Err(HttpError::Authority("target and host field differ"));
        }
        (Some(target), _) => target,
        (None, Some(host)) => host,
        (None, None) => return Err(HttpError::Authority("no host")),
    };
    if authority.as_str().contains('@') {
        return Err(HttpError::Authority("user information in the authority"));
    }
    Ok(authority)
}

fn parse_host(value: &HeaderValue) -> Result<Authority, HttpError> {
    Authority::try_from(value.as_bytes())
        .map_err(|_invalid| HttpError::Authority("unreadable host field"))
}

fn same(a: &Authority, b: &Authority, scheme: Option<&str>) -> bool {
    let default = match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    };
    let port = |x: &Authority| x.port_u16().or(default);
    a.host().eq_ignore_ascii_case(b.host()) && port(a) == port(b)
}

/// Host of an authority as names are compared: lower case, no brackets, no final dot.
pub fn host_of(authority: &Authority) -> String {
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a request asks to switch protocols (RFC 9110 section 7.8), and to which.
///
/// `h2c` is not such a request: HTTP/2 in the clear would hide what follows, so it is ignored,
/// as the RFC allows, and the exchange goes on in HTTP/1.1.
pub fn wants_upgrade(head: &Parts) -> bool {
    let asks = head.headers.get(header::UPGRADE).is_some_and(|to| {
        !to.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    });
    asks && head.version == Version::HTTP_11
        && connection_options(&head.headers).any(|o| o == "upgrade")
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|o| o.trim().to_ascii_lowercase())
}

/// Removes hop-by-hop fields, and those that `Connection` names. `keep_upgrade` leaves the pair
/// that a protocol switch needs.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter(|o| !matches!(o.as_str(), "close" | "keep-alive" | "upgrade" | "te"))
            .filter_map(|o| HeaderName::try_from(o).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let upgrade = if keep_upgrade { headers.remove(header::UPGRADE) } else { None };
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // Trailers are the one transfer option that both sides speak.
    if let Some(te) = headers.get(header::TE) {
        let trailers = te.to_str().is_ok_and(|te| te.to_ascii_lowercase().contains("trailers"));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Rewrites a request head for the upstream protocol.
///
/// # Errors
/// [`HttpError::Authority`] when no target can be made from it.
pub fn for_upstream(
    head: &mut Parts,
    authority: &Authority,
    protocol: Protocol,
    scheme: &'static str,
) -> Result<(), HttpError> {
    let path = head.uri.path_and_query().cloned();
    match protocol {
        Protocol::H1 => {
            head.version = Version::HTTP_11;
            if !head.headers.contains_key(header::HOST) {
                let host = HeaderValue::from_str(authority.as_str())
                    .map_err(|_invalid| HttpError::Authority("host"))?;
                head.headers.insert(header::HOST, host);
            }
            // HTTP/2 may split cookies over fields; HTTP/1.1 must not (RFC 9113 section 8.2.3).
            join_cookies(&mut head.headers);
            let mut uri = http::uri::Parts::default();
            uri.path_and_query = path;
            head.uri = Uri::from_parts(uri).map_err(|_invalid| HttpError::Authority("target"))?;
        }
        Protocol::H2 => {
            head.version = Version::HTTP_2;
            head.headers.remove(header::HOST);
            let mut uri = http::uri::Parts::default();
            uri.scheme = scheme.parse().ok();
            uri.authority = Some(authority.clone());
            uri.path_and_query = path.or_else(|| "/".parse().ok());
            head.uri = Uri::from_parts(uri).map_err(|_invalid| HttpError::Authority("target"))?;
        }
    }
    Ok(())
}

fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    if cookies.len() < 2 {
        return;
    }
    let joined = cookies.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    #[test]
    fn one_authority_or_none() {
        let ok = |uri, fields: &[_]| authority(&head(uri, fields)).map(|a| a.to_string()).ok();
        assert_eq!(ok("/", &[("host", "a.example")]).as_deref(), Some("a.example"));
        assert_eq!(ok("https://a.example/x", &[]).as_deref(), Some("a.example"));
        let with_port = ok("https://a.example/x", &[("host", "a.example:443")]);
        assert_eq!(with_port.as_deref(), Some("a.example"));
        for (uri, fields) in [
            ("/", vec![]),
            ("/", vec![("host", "a.example"), ("host", "a.example")]),
            ("https://a.example/", vec![("host", "evil.example")]),
            ("/", vec![("host", "user@a.example")]),
            ("/", vec![("host", "a b")]),
        ] {
            assert!(authority(&head(uri, &fields)).is_err(), "{uri} {fields:?}");
        }
    }

    #[test]
    fn hosts_compare_without_case_brackets_and_final_dot() {
        for (text, want) in [("A.Example.:8443", "a.example"), ("[2001:DB8::1]:443", "2001:db8::1")]
        {
            assert_eq!(host_of(&text.parse().expect("authority")), want);
        }
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_go() {
        let fields = [
            ("connection", "keep-alive, X-Private, close"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, deflate"),
            ("x-kept", "1"),
        ];
        let mut headers = head("/", &fields).headers;
        strip_hop_by_hop(&mut headers, false);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
        assert_eq!(headers.get("te").map(HeaderValue::as_bytes), Some(&b"trailers"[..]));
    }

    #[test]
    fn a_websocket_upgrade_is_kept_and_h2c_is_not() {
        let ws = head("/", &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(wants_upgrade(&ws));
        let mut headers = ws.headers;
        strip_hop_by_hop(&mut headers, true);
        assert!(headers.contains_key("upgrade") && headers.contains_key("connection"));
        let h2c = [
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "A"),
        ];
        let mut h2c = head("/", &h2c);
        assert!(!wants_upgrade(&h2c));
        strip_hop_by_hop(&mut h2c.headers, false);
        assert!(h2c.headers.is_empty(), "{:?}", h2c.headers);
    }

    #[test]
    fn h2_requests_get_a_host_field_and_one_cookie_for_http1() {
        let mut h2 = head("https://a.example/p?q=1", &[("cookie", "a=1"), ("cookie", "b=2")]);
        let authority = authority(&h2).expect("authority");
        for_upstream(&mut h2, &authority, Protocol::H1, "https").expect("rewritten");
        assert_eq!(h2.uri.to_string(), "/p?q=1");
        assert_eq!(h2.headers.get("host").map(HeaderValue::as_bytes), Some(&b"a.example"[..]));
        assert_eq!(h2.headers.get("cookie").map(HeaderValue::as_bytes), Some(&b"a=1; b=2"[..]));
    }
}
